from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from include.dbt_artifacts import FOLDER, attempt_prefix
from include.operators.gate_model import reports_uri
from include.pages import models
from include.pages.stored import is_ours
from include.sagemaker.registry import Package
from include.settings import Settings, get_settings
from tests.pages.conftest import Cloud, package

SAME = {"model_uri": "s3://post-modern-stack/shop/models/same/model.tar.gz"}


@pytest.mark.parametrize(
    ("packages", "live", "states"),
    [
        ([package(2), package(1)], package(1).model_uri, ["ready", "live"]),
        ([package(2), package(1)], None, ["ready", "ready"]),
        ([package(2, approval="Rejected"), package(1)], package(1).model_uri, ["rejected", "live"]),
        # A person may take a live model's approval back: it stays live until something else is.
        ([package(1, approval="Rejected")], package(1).model_uri, ["live"]),
        ([package(2, **SAME), package(1, approval="Rejected", **SAME)], SAME["model_uri"], ["live", "older"]),
        ([package(2, approval="Rejected", **SAME), package(1, **SAME)], None, ["rejected", "older"]),
        ([package(1, approval="PendingManualApproval")], None, ["waiting"]),
        ([package(1, model_uri="s3://post-modern-stack/deleted.tar.gz")], None, ["gone"]),
        ([package(1, model_uri=None)], None, ["gone"]),
        ([package(1, model_uri=None)], "s3://b/somebody-elses.tar.gz", ["gone"]),
    ],
)
def test_state_of_each_model(packages: list[Package], live: str | None, states: list[str]) -> None:
    found = models.rows(
        packages,
        live,
        lambda package: bool(package.model_uri) and "deleted" not in str(package.model_uri),
        get_settings(),
    )
    assert [row.state for row in found] == states


@pytest.mark.parametrize(
    ("approval", "said"),
    [
        ("Approved", "approved against the gate:"),
        ("Rejected", "rejected"),
        ("PendingManualApproval", "not yet decided"),
    ],
)
def test_an_override_is_no_approval(approval: str, said: str) -> None:
    overridden = package(1, approval=approval, override_reason="Black Friday")
    [row] = models.rows([overridden], None, lambda _: True, get_settings())
    assert row.decision == said


def test_artefacts_are_looked_for_only_where_it_matters() -> None:
    looked: list[str] = []

    def is_there(package: Package) -> bool:
        looked.append(str(package.model_uri))
        return True

    packages = [package(4), package(3, approval="Rejected"), package(2), package(1)]
    models.rows(packages, package(4).model_uri, is_there, get_settings())
    assert looked == [package(2).model_uri, package(1).model_uri]


@pytest.mark.parametrize(
    ("changes", "state"),
    [({}, "gone"), ({"model_uri": "not an address"}, "gone"), ({"model_uri": "s3://b/k"}, "gone")],
    ids=["deleted", "no address", "elsewhere"],
)
def test_entry_whose_files_cannot_be_had_is_no_way_back(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], state: str
) -> None:
    cloud = Cloud()
    monkeypatch.setattr(models, "list_packages", lambda *_: [package(1, **changes)])
    overview = models.gather(cloud, cloud, get_settings())
    assert [row.state for row in overview.rows] == [state]


def test_refusal_to_show_a_file_is_no_way_back_but_an_outage_is_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "list_packages", lambda *_: [package(1)])

    class Closed(Cloud):
        code = "403"

        def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:
            raise ClientError({"Error": {"Code": self.code, "Message": "no"}}, "HeadObject")

    closed = Closed()
    assert models.gather(closed, closed, get_settings()).rows[0].state == "gone"
    closed.code = "SlowDown"
    with pytest.raises(ClientError):
        models.gather(closed, closed, get_settings())


def test_longest_registry_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = Cloud()
    packages = [package(n, approval="Rejected") for n in range(60, 0, -1)]
    monkeypatch.setattr(
        models,
        "list_packages",
        lambda client, group, limit, before=None: [
            p for p in packages if before is None or p.version < before
        ][:limit],
    )
    overview = models.gather(cloud, cloud, get_settings())
    assert (len(overview.rows), overview.more, overview.rows[0].package.version) == (20, 41, 60)
    last = models.gather(cloud, cloud, get_settings(), 5)
    assert ([row.package.version for row in last.rows], last.more) == ([4, 3, 2, 1], None)


def test_way_back_needs_the_model_its_evaluation_and_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud, one = Cloud(), package(1)
    monkeypatch.setattr(models, "list_packages", lambda *_: [one])
    cloud.keep(one)
    assert [row.state for row in models.gather(cloud, cloud, get_settings()).rows] == ["ready"]
    for uri in list(cloud.objects):
        whole = dict(cloud.objects)
        del cloud.objects[uri]
        assert [row.state for row in models.gather(cloud, cloud, get_settings()).rows] == ["gone"]
        cloud.objects = whole


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://post-modern-stack/shop/reports/pms-1/ab/card.html", "pms-1/ab/card.html"),
        ("s3://somebody-else/shop/reports/pms-1/ab/card.html", None),
        ("s3://post-modern-stack/shop/reports-of-others/card.html", None),
        ("s3://post-modern-stack/shop/reports/pms-1/../../secrets/card.html", None),
        ("s3://post-modern-stack/shop/reports/<b>/card.html", None),
        ("javascript:alert(1)", None),
        (None, None),
    ],
)
def test_only_a_card_of_ours_is_linked_to(uri: str | None, path: str | None) -> None:
    [row] = models.rows([package(1, card_uri=uri)], None, lambda _: True, get_settings())
    assert row.card == path


def test_plot_runs_from_the_oldest_model_to_the_newest() -> None:
    found = models.rows(
        [package(3), package(2, metrics={}), package(1)], None, lambda _: True, get_settings()
    )
    charts = models.charts(found)
    assert [chart.title for chart in charts] == ["hit_rate@20", "mrr@20"]
    for chart in charts:
        assert [dot.point.version for dot in chart.dots] == [1, 3]
        assert chart.dots[0].x < chart.dots[1].x and chart.dots[0].y > chart.dots[1].y


REPORT = "s3://post-modern-stack/shop/reports/pms-1/0123456789ab/report.json"


def examples_of(cloud: Cloud, **changes: Any) -> list[tuple[str, ...]]:
    [row] = models.rows([package(1, **changes)], None, lambda _: True, get_settings())
    return models.example_sessions(cloud, row, get_settings())


def test_examples_are_the_live_models_own_test_sessions() -> None:
    cloud = Cloud()
    sessions = [["a", "b"], ["a", "b"], list("abcdefghij"), [], ["c"], ["d"], ["e"]]
    shown = [{"session": session, "target": "t", "predictions": [], "rank": 0} for session in sessions]
    cloud.objects[REPORT] = json.dumps({"schema_version": 1, "checks": [], "examples": shown})
    expected = [("a", "b"), ("g", "h", "i", "j"), ("c",), ("d",)]
    assert examples_of(cloud) == expected
    # The card with a shadow test on it lies in a folder without a report.
    folder = REPORT.rpartition("/")[0]
    assert examples_of(cloud, card_uri=f"{folder}/shadow-pms-config/card.html") == expected


@pytest.mark.parametrize("report", [None, "", "{", '{"schema_version": 1}', '{"schema_version": 99}'])
def test_no_examples_where_the_report_cannot_be_read(report: str | None) -> None:
    cloud = Cloud()
    if report is not None:
        cloud.objects[REPORT] = report
    assert examples_of(cloud) == []


def test_no_examples_from_elsewhere_or_of_nothing() -> None:
    cloud = Cloud()
    cloud.fault = AssertionError("S3 was asked")
    assert examples_of(cloud, report_uri="s3://somebody-else/report.json") == []
    assert examples_of(cloud, report_uri=None) == []
    assert models.example_sessions(cloud, None, get_settings()) == []


@pytest.mark.parametrize(
    ("prefix", "folder"), [("", "s3://post-modern-stack/"), ("/a/b/", "s3://post-modern-stack/a/b/")]
)
def test_pages_find_what_the_pipeline_writes_under_any_prefix(prefix: str, folder: str) -> None:
    settings = Settings(_env_file=None, prefix=prefix)  # type: ignore[call-arg]
    card = f"{reports_uri(settings, 'pms-1', 'run')}/card.html"
    assert card.startswith(f"{folder}reports/")
    [row] = models.rows([package(1, card_uri=card)], None, lambda _: True, settings)
    assert row.card == card.removeprefix(f"{folder}reports/")
    docs = f"s3://{settings.bucket}/{attempt_prefix(settings.prefix, 'run', 'transform.docs', 1)}/docs.html"
    assert is_ours(docs, FOLDER, settings) and is_ours(card, models.REPORTS, settings)
