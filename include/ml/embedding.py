"""A vector for each product from what is viewed together: how far a wrong answer is from the right one.

It is fitted apart from the model, so that a model cannot look close to its targets by its own measure.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from queries import WINDOW
from sessions import Sessions, ragged_positions

DIMENSIONS = 32
_SEED = 20211
_TOLERANCE = 1e-4

Vectors = npt.NDArray[np.float32]


def covisit_vectors(sessions: Sessions, products: int) -> Vectors:
    """Returns the truncated SVD of the logarithm of how many sessions two products share, as unit vectors.

    Args:
        sessions: To learn from; each counts with its last `WINDOW` interactions.
        products: Size of the vocabulary.

    Returns:
        [products, at most `DIMENSIONS`]; zero for a product that was never viewed with another one, or only
        with those that no dimension was left for. No columns where there are too few products to factorise.
    """
    dimensions = min(DIMENSIONS, products - 1)
    if dimensions < 1:
        return np.zeros((products, 0), np.float32)
    met = _covisits(sessions, products)
    if met.nnz == 0:
        return np.zeros((products, 0), np.float32)
    met.data = np.log1p(met.data)
    start = np.random.default_rng(_SEED).normal(size=products)
    # The matrix is symmetric. Its negative part says who is apart from whom: it would turn neighbours away.
    try:
        strengths, directions = eigsh(met, k=dimensions, which="LA", v0=start, tol=_TOLERANCE)
    except ArpackNoConvergence as error:  # many directions of equal strength: those found will do
        strengths, directions = error.eigenvalues, error.eigenvectors
    vectors = directions * np.sqrt(np.maximum(strengths, 0.0))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # What no dimension was left for has rounding errors for a vector.
    usable = lengths > 1e-6 * lengths.max(initial=0.0)
    return np.where(usable, vectors / np.where(usable, lengths, 1.0), 0.0).astype(np.float32)


def _covisits(sessions: Sessions, products: int) -> sp.csr_matrix:
    spans = np.minimum(sessions.lengths, WINDOW)
    ids = sessions.ids[ragged_positions(sessions.offsets[1:] - spans, spans)].astype(np.int64)
    owners = np.repeat(np.arange(len(sessions)), spans)[ids > 0]
    shape = (len(sessions), products)
    visits = sp.csr_matrix((np.ones(len(owners)), (owners, ids[ids > 0] - 1)), shape=shape)
    visits.sum_duplicates()
    visits.data[:] = 1.0
    met = (visits.T @ visits).tocsr()
    met.setdiag(0.0)
    met.eliminate_zeros()
    return met
