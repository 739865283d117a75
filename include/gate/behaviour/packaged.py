"""The packaged model itself: is it steady, is it quick and small, and does it serve what was measured?"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from artefact import Answer, Artefact, same_answer
from base import Checks
from report import EvaluationError, Result, check, finite
from resampling import SEED, Floats

DISTURBED_QUERIES = 2000
SERVED_QUERIES = 500
TIMED_QUERIES = 300
# A GPU that evaluated with fewer bits than the CPU that serves is within this; other weights are not.
NEAR_TIE = 0.01
STRANGER = "unknown-product"

Session = list[str]
Change = Callable[[Session, np.random.Generator], Session | None]


def drop_event(session: Session, rng: np.random.Generator) -> Session | None:
    """Leaves out one event, but not the product being viewed; None where there is no other."""
    if len(session) < 2:
        return None
    place = int(rng.integers(len(session) - 1))
    return session[:place] + session[place + 1 :]


def repeat_event(session: Session, rng: np.random.Generator) -> Session | None:
    """Shows one page again at once, as a reload does."""
    if not session:
        return None
    place = int(rng.integers(len(session)))
    return session[: place + 1] + session[place:]


def swap_events(session: Session, rng: np.random.Generator) -> Session | None:
    """Swaps two neighbours before the product being viewed; None where there are none."""
    if len(session) < 3:
        return None
    place = int(rng.integers(len(session) - 2))
    return [*session[:place], session[place + 1], session[place], *session[place + 2 :]]


def unknown_sku(session: Session, rng: np.random.Generator) -> Session | None:
    """Puts a product that no model was trained on somewhere into the session."""
    place = int(rng.integers(len(session) + 1))
    return [*session[:place], f"{STRANGER}-{rng.integers(1 << 60):x}", *session[place:]]


def overlap(before: Answer, after: Answer) -> float:
    """Returns the share of a list that is still there, in any order; two empty lists share nothing."""
    longest = max(len(before.skus), len(after.skus), 1)
    return len(set(before.skus) & set(after.skus)) / longest


class Probe:
    """One artefact with its answers to the sampled sessions, kept for the checks that share them."""

    def __init__(self, artefact: Artefact, sessions: list[Session]) -> None:
        """Takes the sampled sessions, at most `DISTURBED_QUERIES`."""
        self._artefact = artefact
        self._sessions = sessions

    @cached_property
    def undisturbed(self) -> list[Answer]:
        """Its answers to the sessions as they are."""
        return self._artefact.answer(self._sessions)

    @cached_property
    def singly(self) -> tuple[list[Answer], list[float]]:
        """Its answers to the first `SERVED_QUERIES` of them, one by one, and the seconds of each."""
        return self._artefact.answer_singly(self._sessions[:SERVED_QUERIES])

    def overlaps(self, changed: list[Session | None]) -> Floats:
        """Returns how much of each list is left once its session is changed, NaN for an unchanged one."""
        rows = [row for row, session in enumerate(changed) if session is not None]
        after = self._artefact.answer([session for session in changed if session is not None])
        kept = np.full(len(changed), np.nan)
        kept[rows] = [overlap(self.undisturbed[row], answer) for row, answer in zip(rows, after, strict=True)]
        return kept

    def milliseconds(self) -> Floats:
        """Returns what single answers took."""
        return 1000.0 * np.asarray(self.singly[1][:TIMED_QUERIES])


class PackagedChecks(Checks):
    """Checks of the artefact that the endpoint would load."""

    @cached_property
    def _sample(self) -> np.ndarray:
        """Rows of the sampled queries, in random order."""
        total = len(self.evaluation.sessions)
        return np.random.default_rng(SEED).permutation(total)[:DISTURBED_QUERIES]

    @cached_property
    def _probe(self) -> Probe:
        return Probe(self.model, self._sampled_sessions)

    @cached_property
    def _champion_probe(self) -> Probe | None:
        if self.champion is None:
            return None
        return Probe(self.champion.artefact, self._sampled_sessions)

    @property
    def _sampled_sessions(self) -> list[Session]:
        return [self.evaluation.sessions[row] for row in self._sample]

    def _stability(self, result: Result, change: Change) -> None:
        rng = np.random.default_rng(SEED)
        changed = [change(session, rng) for session in self._sampled_sessions]
        kept = self._probe.overlaps(changed)
        applied = ~np.isnan(kept)
        result.sample_size = int(applied.sum())
        if not applied.any():
            return  # no session is long enough: there is nothing to say, and nothing went wrong
        result.value = finite(kept[applied].mean())
        everywhere, rows = (
            np.zeros(len(self.evaluation.sessions)),
            np.zeros(len(self.evaluation.sessions), bool),
        )
        everywhere[self._sample], rows[self._sample] = np.nan_to_num(kept), applied
        result.interval = self.resampler.interval_of_mean(everywhere, rows)
        probe = self._champion_probe
        if probe is not None:
            result.champion = finite(
                self.of_champion(lambda _: float(probe.overlaps(changed)[applied].mean()))
            )

    @check("stability_drop_event")
    def drop(self, result: Result) -> None:
        """Mean share of the 20 products that stay when an earlier event of the session is left out."""
        self._stability(result, drop_event)

    @check("stability_repeat_event")
    def repeat(self, result: Result) -> None:
        """Mean share of the 20 products that stay when a page is loaded twice."""
        self._stability(result, repeat_event)

    @check("stability_swap_events")
    def swap(self, result: Result) -> None:
        """Mean share of the 20 products that stay when two earlier neighbours change places."""
        self._stability(result, swap_events)

    @check("stability_unknown_sku")
    def stranger(self, result: Result) -> None:
        """Mean share of the 20 products that stay when the session holds one more, unknown product."""
        self._stability(result, unknown_sku)

    @check("served_answers_differ")
    def served_answers_differ(self, result: Result) -> None:
        """Share of queries that the packaged model, asked one by one, answers otherwise than evaluated."""
        answers, _ = self._probe.singly
        lists, scores = self.evaluation.column("predictions"), self.evaluation.column("scores")
        evaluated = [
            Answer(list(lists.iloc[row]), [float(score) for score in scores.iloc[row]], known=True)
            for row in self._sample[: len(answers)]
        ]
        pairs = zip(answers, evaluated, strict=True)
        differ = [not same_answer(served, told, NEAR_TIE) for served, told in pairs]
        result.value, result.sample_size = float(np.mean(differ)), len(differ)

    @check("single_answer_ms")
    def single_answer_ms(self, result: Result) -> None:
        """Median milliseconds of one answer on the gate's machine; interval: 10th to 90th percentile."""
        taken = self._probe.milliseconds()
        result.value, result.sample_size = finite(np.median(taken)), len(taken)
        low, high = np.percentile(taken, [10, 90])
        result.interval, result.interval_kind = (finite(low), finite(high)), "percentiles"
        probe = self._champion_probe
        if probe is not None:
            result.champion = finite(self.of_champion(lambda _: float(np.median(probe.milliseconds()))))

    @check("package_megabytes")
    def package_megabytes(self, result: Result) -> None:
        """Size of model.tar.gz."""
        if self.package_bytes is None:
            raise EvaluationError("The size of the package was not given.")
        result.value, result.sample_size = self.package_bytes / 1e6, 1
