"""How much each distribution weighs in the mixture: a softmax over a few features of the session.

A mixture of experts (Jacobs et al., 1991) whose experts are given: only the gate, and how the session's own
products are ranked among each other, are fitted, by likelihood, on validation sessions that none of the
experts has seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

Floats = npt.NDArray[np.float64]

COMPONENTS = ("network", "companions", "followers", "own")
# A constant; log of the session's length; whether it has one product; log of how much more often than the
# average product the viewed one was met; log of how many of the latest products came before; whether the
# viewed one did; log of what companions give to the session's own products, 0 where there are none; log of
# how far the network and the companions of the viewed one agree (Bhattacharyya's coefficient).
FEATURES = ("constant", "length", "single", "popularity", "repeats", "returning", "owned", "agreement")
# Of an own product: how many steps ago it was met; whether it came directly after an earlier look at the one
# being viewed, which shoppers who go back and forth do again.
TRAITS = ("ago", "retraced")
_SHARES = (0.45, 0.2, 0.15, 0.2)
_PRIOR = 2.0  # sessions' worth of pull towards the default, for each unit of distance squared
_UNITS = (0.1, 1.0)  # what counts as a unit of distance in the weight of each trait
_FLOOR = 1e-9  # probability of a product that no component expects


@dataclass(frozen=True)
class Blend:
    """The gate: `softmax(features @ weights)` are the shares of `COMPONENTS`.

    Attributes:
        weights: float32 [features, components].
        own: An own product weighs `exp(traits @ own)`, float32 [traits]. Shops differ: in some the product
            before is the likeliest to be looked at again, in others older ones are as likely.
    """

    weights: npt.NDArray[np.float32]
    own: npt.NDArray[np.float32]

    def shares(self, features: npt.ArrayLike) -> dict[str, float]:
        """Returns the mean share of each component over sessions, [sessions, features] to name: share."""
        mean = softmax(np.asarray(features) @ self.weights, axis=1).mean(axis=0)
        return {name: round(float(share), 4) for name, share in zip(COMPONENTS, mean, strict=True)}


def _default() -> Blend:
    weights = np.zeros((len(FEATURES), len(COMPONENTS)), np.float32)
    weights[0] = np.log(_SHARES)
    return Blend(weights, np.zeros(len(TRAITS), np.float32))


# Also what a snapshot without validation sessions is served with.
DEFAULT_BLEND = _default()


@dataclass(frozen=True)
class Seen:
    """What the gate is fitted to.

    Attributes:
        features: [queries, features].
        probabilities: Of each query's target under each component but the last, [queries, components - 1].
        traits: Of the product met so many steps ago, [queries, steps, traits].
        own: 1 where it may be recommended, else 0, [queries, steps].
        matches: 1 where it is the target, [queries, steps].
    """

    features: Floats
    probabilities: Floats
    traits: Floats
    own: Floats
    matches: Floats

    def __getitem__(self, rows: npt.NDArray[np.bool_]) -> Seen:
        """Returns some of the queries."""
        parts = (self.features, self.probabilities, self.traits, self.own, self.matches)
        return Seen(*(part[rows] for part in parts))


def fit_blend(seen: Seen) -> Blend:
    """Fits the gate by penalised maximum likelihood; few sessions leave it near the default."""
    if len(seen.features) == 0:
        return DEFAULT_BLEND
    start = np.append(DEFAULT_BLEND.weights, DEFAULT_BLEND.own).astype(np.float64)
    shape, gates = DEFAULT_BLEND.weights.shape, DEFAULT_BLEND.weights.size
    unit = np.append(np.ones(gates), _UNITS)

    def objective(point: Floats) -> tuple[float, Floats]:
        away = (point - start) / unit
        shares = log_softmax(seen.features @ point[:gates].reshape(shape), axis=1)
        own, slopes = _own(seen, point[gates:])
        expected = np.column_stack([seen.probabilities, own])
        joint = shares + np.log(np.maximum(expected, _FLOOR))
        likelihood = np.logaddexp.reduce(joint, axis=1)
        # Posterior minus prior share: how much more a component explains than it is given.
        posterior = np.exp(joint - likelihood[:, None])
        gradient = np.append(seen.features.T @ (posterior - np.exp(shares)), posterior[:, -1] @ slopes)
        loss = -likelihood.sum() + _PRIOR * (away**2).sum()
        return loss, -gradient + 2.0 * _PRIOR * away / unit

    found = minimize(objective, start, jac=True, method="L-BFGS-B")
    point = found.x.astype(np.float32)
    return Blend(point[:gates].reshape(shape), point[gates:])


def _own(seen: Seen, weights: Floats) -> tuple[Floats, Floats]:
    """Returns the target's probability among own products, and its logarithm's slopes in the weights."""
    matched, met = (np.exp(seen.traits @ weights) * part for part in (seen.matches, seen.own))
    share = matched.sum(axis=1) / np.maximum(met.sum(axis=1), _FLOOR)
    wanted, expected = (
        np.einsum("qs,qst->qt", part, seen.traits) / np.maximum(part.sum(axis=1), _FLOOR)[:, None]
        for part in (matched, met)
    )
    return share, np.where(share[:, None] > _FLOOR, wanted - expected, 0.0)
