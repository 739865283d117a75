"""How much each distribution weighs in the mixture: a softmax over a few features of the session.

A mixture of experts (Jacobs et al., 1991) whose experts are given: only the gate is fitted, by likelihood, on
validation sessions that none of the experts has seen.
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
# average product the viewed one was met; log of how many of the latest products came before.
FEATURES = ("constant", "length", "single", "popularity", "repeats")
_SHARES = (0.45, 0.2, 0.15, 0.2)
_PRIOR = 2.0  # sessions' worth of pull towards the default, for each unit of distance squared
_FLOOR = 1e-9  # probability of a product that no component expects


@dataclass(frozen=True)
class Blend:
    """The gate: `softmax(features @ weights)` are the shares of `COMPONENTS`.

    Attributes:
        weights: float32 [features, components].
    """

    weights: npt.NDArray[np.float32]

    def shares(self, features: npt.ArrayLike) -> dict[str, float]:
        """Returns the mean share of each component over sessions, [sessions, features] to name: share."""
        mean = softmax(np.asarray(features) @ self.weights, axis=1).mean(axis=0)
        return {name: round(float(share), 4) for name, share in zip(COMPONENTS, mean, strict=True)}


def _default() -> Blend:
    weights = np.zeros((len(FEATURES), len(COMPONENTS)), np.float32)
    weights[0] = np.log(_SHARES)
    return Blend(weights)


# Also what a snapshot without validation sessions is served with.
DEFAULT_BLEND = _default()


def fit_blend(features: Floats, probabilities: Floats) -> Blend:
    """Fits the gate by penalised maximum likelihood; few sessions leave it near the default.

    Args:
        features: [queries, features].
        probabilities: Of each query's target under each component, [queries, components].
    """
    if len(features) == 0:
        return DEFAULT_BLEND
    start = DEFAULT_BLEND.weights.astype(np.float64)
    expected = np.log(np.maximum(probabilities, _FLOOR))

    def objective(flat: Floats) -> tuple[float, Floats]:
        away = flat.reshape(start.shape) - start
        shares = log_softmax(features @ (away + start), axis=1)
        joint = shares + expected
        likelihood = np.logaddexp.reduce(joint, axis=1)
        # Posterior minus prior share: how much more a component explains than it is given.
        surplus = np.exp(joint - likelihood[:, None]) - np.exp(shares)
        loss = -likelihood.sum() + _PRIOR * (away**2).sum()
        return loss, (-features.T @ surplus + 2.0 * _PRIOR * away).ravel()

    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B")
    return Blend(found.x.reshape(start.shape).astype(np.float32))
