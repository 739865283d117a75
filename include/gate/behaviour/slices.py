"""Hit rate@20 of parts of the test queries, beside the champion's on the same part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from artefact import K
from base import Checks
from evaluation import gains
from report import Result, Slice, check, finite
from resampling import Floats, Rows

COLD_BELOW = 5  # a product seen fewer times in training has no history to learn from
HEAD_SHARE = 0.5  # the head is the fewest products that make up half of the training interactions
SESSION_LENGTHS = ((1, 1, "1"), (2, 3, "2-3"), (4, 7, "4-7"), (8, math.inf, "8+"))
HOURS_A_SLICE = 4  # of one hour there are too few queries to tell a fault from luck
MOST_SLICES = 12
OTHER, UNKNOWN = "other", "unknown"
_LABEL_CHARACTERS = 60


def label(value: Any) -> str:
    """Returns a category, action or price as the name of a slice: printable and short.

    Hostile shops aside, categories are paths, whose ends tell them apart: it is the middle that goes.
    """
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
    if len(text) > _LABEL_CHARACTERS:
        half = _LABEL_CHARACTERS // 2
        text = f"{text[: half - 1]}…{text[-half:]}"
    return text


def _named(value: Any) -> str:
    text = label(value)
    return f'"{text}"' if text in (OTHER, UNKNOWN) else text


def parts_of(values: pd.Series) -> dict[str, Rows]:
    """Cuts queries by their most frequent values into `MOST_SLICES` at most; the rest is `other`.

    Args:
        values: One for each query.

    Returns:
        Slice name to its queries, the most frequent first, null as `unknown`; empty where no value is known.
        A value that is itself called `unknown` or `other` is in quotes: rules may spare the nameless.
    """
    names = values.map(_named, na_action="ignore").to_numpy(dtype=object)
    known = values.notna().to_numpy()
    if not known.any():
        return {}
    frequency = pd.Series(names[known]).value_counts()
    ordered = sorted(frequency.index, key=lambda name: (-frequency[name], name))
    room = MOST_SLICES - (not known.all())
    kept = ordered if len(ordered) <= room else ordered[: room - 1]
    parts = {name: known & (names == name) for name in kept}
    rest = known & ~np.isin(names.astype(str), kept)
    if rest.any():
        parts[OTHER] = rest
    if not known.all():
        parts[UNKNOWN] = ~known
    return parts


def deciles(counts: Floats, targets: Floats) -> npt.NDArray[np.int64]:
    """Returns the tenth of the products, by training popularity, that each target is of, from 1 for the best.

    Args:
        counts: Interactions of every product, [products].
        targets: Interactions of the targets, 0 for one unknown to training, [queries].

    Returns:
        [queries]; 0 where unknown. Products of equal popularity share a tenth.
    """
    ascending = np.sort(counts)
    more_popular = len(ascending) - np.searchsorted(ascending, targets, side="right")
    return np.where(targets > 0, 10 * more_popular // len(ascending) + 1, 0).astype(np.int64)


class SliceChecks(Checks):
    """Who is served well, and who is not?"""

    def _slices(self, result: Result, parts: Mapping[str, Rows]) -> None:
        own = gains(self.evaluation.ranks("model"), "hit_rate", K)
        result.sample_size = len(own)
        live = self.of_champion(lambda champion: gains(champion.ranks, "hit_rate", K))
        for name, rows in parts.items():
            if not rows.any():
                continue
            part = Slice(
                finite(own[rows].mean()),
                int(rows.sum()),
                self.resampler.interval_of_mean(own, rows),
                sessions=len(np.unique(self.evaluation.session_codes[rows])),
            )
            if live is not None:
                part.champion = finite(live[rows].mean())
                part.difference = finite((own - live)[rows].mean())
                part.difference_interval = self.resampler.interval_of_mean(own - live, rows)
            result.slices[name] = part

    @check("hit_rate@20_by_session_length")
    def by_session_length(self, result: Result) -> None:
        """Hit rate@20 by the number of items seen so far."""
        lengths = np.asarray([len(session) for session in self.evaluation.sessions])
        parts = {name: (lengths >= low) & (lengths <= high) for low, high, name in SESSION_LENGTHS}
        self._slices(result, parts)

    @check("hit_rate@20_by_popularity")
    def by_popularity(self, result: Result) -> None:
        """Hit rate@20 by how often the next item occurred in training."""
        counts = self.evaluation.target_counts
        ordered = self.evaluation.train_counts.sort_values(ascending=False)
        head_from = float(ordered[ordered.cumsum() >= HEAD_SHARE * ordered.sum()].iloc[0])
        head = (counts >= head_from) & (counts >= COLD_BELOW)
        parts = {
            UNKNOWN: counts == 0,
            "cold": (counts > 0) & (counts < COLD_BELOW),
            "tail": (counts >= COLD_BELOW) & ~head,
            "head": head,
        }
        self._slices(result, parts)

    @check("hit_rate@20_by_popularity_decile")
    def by_popularity_decile(self, result: Result) -> None:
        """Hit rate@20 by the next item's tenth of the products, 1 being the most popular."""
        found = deciles(self.evaluation.train_counts.to_numpy(), self.evaluation.target_counts)
        parts = {str(tenth): found == tenth for tenth in range(1, 11)}
        self._slices(result, parts | {UNKNOWN: found == 0})

    @check("hit_rate@20_by_category")
    def by_category(self, result: Result) -> None:
        """Hit rate@20 by the next item's category; no slices where the shop has none."""
        self._slices(result, parts_of(self.evaluation.target_trait("category")))

    @check("hit_rate@20_by_price")
    def by_price(self, result: Result) -> None:
        """Hit rate@20 by the next item's price bucket; no slices where the shop tells none."""
        parts = parts_of(self.evaluation.target_trait("price_bucket"))
        # By price, and what is no number after that.
        self._slices(result, dict(sorted(parts.items(), key=lambda part: _number(part[0]))))

    @check("hit_rate@20_by_first_action")
    def by_first_action(self, result: Result) -> None:
        """Hit rate@20 by what the session began with; no slices where it is not told."""
        self._slices(result, parts_of(self.evaluation.column("first_action", nullable=True)))

    @check("hit_rate@20_by_hour")
    def by_hour(self, result: Result) -> None:
        """Hit rate@20 by the hour of the day (UTC); no slices where it is not told."""
        hours = self.evaluation.column("hour", nullable=True).to_numpy(dtype=np.float64, na_value=np.nan)
        parts = {
            f"{first:02d}-{first + HOURS_A_SLICE - 1:02d}": (hours >= first) & (hours < first + HOURS_A_SLICE)
            for first in range(0, 24, HOURS_A_SLICE)
        }
        if not np.isnan(hours).all():
            parts[UNKNOWN] = ~np.isin(hours, range(24))
        self._slices(result, parts)


def _number(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return math.inf
