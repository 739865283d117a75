"""What the page *Models* shows: every registered model, which is live, and which can be rolled back to."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from botocore.exceptions import ClientError

from include.contracts import BadInputError, Champion
from include.gate.report import ReportError, parse_report
from include.pages.plot import Chart, Point, chart
from include.pages.stored import GoneError, is_ours, read_text
from include.sagemaker.champion import find_champion
from include.sagemaker.errors import error_code, is_missing
from include.sagemaker.registry import Package, list_packages
from include.sagemaker.rollback import files_of
from include.sagemaker.storage import object_exists
from include.settings import Settings

REPORTS = "reports"
ROLL_BACK = "roll_back_endpoint"  # the DAG
# Within the project's reports; no part of it may be `..`.
CARD_PATH = r"^([A-Za-z0-9_-]+/)+card\.html$"
MOST_MODELS = 20
AT_A_TIME = 8
MOST_EXAMPLES, LONGEST_EXAMPLE = 4, 4
PLOTTED = ("hit_rate@20", "mrr@20")

State = Literal["live", "ready", "rejected", "waiting", "gone", "older"]
WORDS: dict[State, str] = {
    "live": "live",
    "ready": "can be rolled back to",
    "rejected": "rejected",
    "waiting": "waits for a person",
    "gone": "cannot be put back",
    "older": "entered again since",
}
DECISIONS = {"Approved": "approved", "Rejected": "rejected", "PendingManualApproval": "not yet decided"}


@dataclass(frozen=True)
class Row:
    """One registered model.

    Attributes:
        state: `live`; `ready` to be rolled back to (approved, and its files are there); `gone` (approved, but
            one of them is not there or not ours to see); `older` (a later entry is of the same files).
        card: Path of its card in the project's reports; None where it has none.
    """

    package: Package
    state: State
    card: str | None

    @property
    def words(self) -> str:
        """The state for people."""
        return WORDS[self.state]

    @property
    def decision(self) -> str:
        """What was decided, for people."""
        # A person may have had the last word after the override, and said no, or nothing yet.
        if self.package.override_reason and self.package.approval == "Approved":
            return "approved against the gate:"
        return DECISIONS.get(self.package.approval, self.package.approval)


@dataclass(frozen=True)
class Overview:
    """The page's content; rows are newest first.

    Attributes:
        live: What the endpoint serves, None where there is none.
        why_not: Why nothing is known to be live.
        more: Older models than this version are not shown; None where all are.
    """

    group: str
    endpoint: str
    live: Champion | None
    rows: tuple[Row, ...]
    why_not: str = ""
    more: int | None = None

    @property
    def legend(self) -> dict[State, str]:
        """The states that occur."""
        found = {row.state for row in self.rows}
        return {state: words for state, words in WORDS.items() if state in found}

    @property
    def live_row(self) -> Row | None:
        """The registered model that is live; None where what is live was never registered."""
        return next((row for row in self.rows if row.state == "live"), None)


def gather(sagemaker: Any, s3: Any, settings: Settings, before: int | None = None) -> Overview:
    """Reads the registry and the endpoint.

    Args:
        sagemaker: boto3 SageMaker client.
        s3: boto3 S3 client.
        settings: Name group, endpoint and bucket.
        before: Only versions older than this one.

    Raises:
        ClientError: AWS refused.
    """
    group = settings.model_package_group
    rival = find_champion(sagemaker, settings.endpoint_name)
    live = rival.champion
    packages = list_packages(sagemaker, group, MOST_MODELS + 1, before)
    shown = packages[:MOST_MODELS]

    found = rows(shown, live.model_uri if live else None, lambda package: _is_whole(s3, package), settings)
    more = shown[-1].version if len(packages) > MOST_MODELS else None
    why_not = "" if live else rival.sentence
    return Overview(group, settings.endpoint_name, live, tuple(found), why_not, more)


def rows(
    packages: Sequence[Package],
    live_uri: str | None,
    is_whole: Callable[[Package], bool],
    settings: Settings,
) -> list[Row]:
    """Says what became of each model.

    Args:
        packages: Newest first.
        live_uri: The `model.tar.gz` behind the endpoint.
        is_whole: Tells whether all that a roll-back to a model needs is there.
        settings: Where the project's cards lie.
    """
    seen: set[str] = set()
    states = []
    for package in packages:
        states.append(_state(package, live_uri, seen))
        if package.model_uri:
            seen.add(package.model_uri)
    approved = [package for package, state in zip(packages, states, strict=True) if state == "ready"]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = zip(approved, pool.map(is_whole, approved), strict=True)
        gone = {package.arn for package, whole in found if not whole}
    return [
        Row(package, "gone" if package.arn in gone else state, _card(package.card_uri, settings))
        for package, state in zip(packages, states, strict=True)
    ]


def _state(package: Package, live_uri: str | None, seen: set[str]) -> State:
    """Returns the state; an approved model is `ready` as far as the registry knows."""
    if package.model_uri and package.model_uri in seen:
        return "older"
    if package.model_uri and package.model_uri == live_uri:
        return "live"
    if package.approval == "Rejected":
        return "rejected"
    return "ready" if package.approval == "Approved" else "waiting"


def _is_whole(s3: Any, package: Package) -> bool:
    files = files_of(package).values()
    return bool(files) and all(_is_there(s3, uri) for uri in files)


def _is_there(s3: Any, uri: str) -> bool:
    try:
        return object_exists(s3, uri)
    except BadInputError:
        return False  # no address on S3: somebody else's entry
    except ClientError as error:
        # S3 hides what one may not list behind a refusal: nobody here could deploy it.
        if error_code(error) in {"403", "AccessDenied", "Forbidden"}:
            return False
        raise


def _card(uri: str | None, settings: Settings) -> str | None:
    root = f"{settings.home}/{REPORTS}/"
    path = (uri or "").removeprefix(root)
    return path if path != uri and re.fullmatch(CARD_PATH, path) else None


def charts(found: Sequence[Row]) -> list[Chart]:
    """Lays out the headline metrics over time; a metric that fewer than two models have is left out."""
    by_time = sorted(found, key=lambda row: row.package.created)
    laid_out = []
    for name in PLOTTED:
        points = [
            Point(row.package.version, row.package.created, row.package.metrics[name], row.state, row.words)
            for row in by_time
            if name in row.package.metrics
        ]
        laid_out.append(chart(name, points))
    return [drawn for drawn in laid_out if drawn is not None]


def example_sessions(s3: Any, row: Row | None, settings: Settings) -> list[tuple[str, ...]]:
    """Returns a few test sessions of the live model, to try it with; none where its report is gone."""
    # Not looked for beside the card: that of a shadow test lies in a folder of its own.
    uri = row.package.report_uri if row else None
    if not uri or not is_ours(uri, REPORTS, settings):
        return []
    try:
        report = parse_report(read_text(s3, uri))
    except (GoneError, ReportError):
        return []  # examples only spare some typing
    except ClientError as error:
        if is_missing(error):
            return []
        raise
    sessions = dict.fromkeys(
        example.session[-LONGEST_EXAMPLE:] for example in report.examples if example.session
    )
    return list(sessions)[:MOST_EXAMPLES]
