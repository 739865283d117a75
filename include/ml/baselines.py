"""What a shop would do without a neural model: four methods, fitted on the same training sessions.

Every method fills what it cannot rank with the most popular products, as a shop would, and never lists the
item being viewed. Ids are popularity ranks (1 is the most frequent product), see `sessions.Vocabulary`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from queries import WINDOW, Queries
from sessions import Ids, Ints, Sessions, ragged_positions

Floats = npt.NDArray[np.float64]

# Item-kNN normalisation of session-rec: damps pairs seen once or twice.
_SUPPORT_PRIOR = 20.0
# V-SKNN as tuned by Ludewig & Jannach (2018): recent sessions sampled, nearest kept, weight of rare items.
_KNN_SAMPLE = 1000
_KNN_NEIGHBOURS = 500
_KNN_IDF = 5.0
_KNN_HISTORY = 20
_CHUNK = 512  # queries scored at a time; bounds memory


def recommend_all(train: Sessions, products: int, queries: Queries, k: int) -> dict[str, Ids]:
    """Returns each baseline's top-k ids for every query, 0 where the catalogue is exhausted.

    Args:
        train: Training sessions, oldest first.
        products: Size of the vocabulary.
        queries: The questions.
        k: Length of the lists.

    Returns:
        Baseline name to ids, [queries, k].
    """
    methods: dict[str, Callable[[Sessions, int, Queries, int], Ids]] = {
        "popularity": _popularity,
        "covisitation": _covisitation,
        "markov": _markov,
        "session_knn": _session_knn,
    }
    viewed = queries.viewed
    return {
        name: with_popular(method(train, products, queries, k), viewed, products, k)
        for name, method in methods.items()
    }


def with_popular(lists: Ids, viewed: Ids, products: int, k: int) -> Ids:
    """Removes the viewed item from ranked lists and fills them up to `k` with popular products.

    Args:
        lists: Ranked ids, 0 for none, [queries, any].
        viewed: Ids, 0 for none, [queries].
        products: Size of the vocabulary.
        k: Length of the result.

    Returns:
        Ids without repeats, [queries, k]; 0 at the end where products run out.
    """
    result = np.zeros((len(lists), k), np.int32)
    # k + width + 1 popular products always leave k after the listed and the viewed ones are struck.
    popular = np.arange(1, min(products, k + lists.shape[1] + 1) + 1, dtype=np.int32)
    for start in range(0, len(lists), _CHUNK):
        ranked, seen = lists[start : start + _CHUNK], viewed[start : start + _CHUNK, None]
        listed = (popular[None, :, None] == ranked[:, None, :]).any(axis=2)
        joined = np.concatenate([ranked, np.where(listed, 0, popular[None, :])], axis=1)
        joined = np.where(joined == seen, 0, joined)
        order = np.argsort(joined == 0, axis=1, kind="stable")[:, :k]
        taken = np.take_along_axis(joined, order, axis=1)
        result[start : start + _CHUNK, : taken.shape[1]] = taken
    return result


def cooccurrence(train: Sessions, products: int) -> sp.csr_matrix:
    """Returns in how many sessions two products met, normalised by support, [products + 1, products + 1].

    Sessions count with their last `WINDOW` interactions, which bounds the cost of a very long one.
    """
    visits = _visits(train, products)
    met = (visits.T @ visits).tocoo()
    support = np.asarray(visits.sum(axis=0)).ravel() + _SUPPORT_PRIOR
    apart = met.row != met.col
    rows, columns = met.row[apart], met.col[apart]
    values = met.data[apart] / np.sqrt(support[rows] * support[columns])
    return sp.csr_matrix((values, (rows, columns)), shape=met.shape)


def transitions(train: Sessions, products: int, reach: int = 1) -> sp.csr_matrix:
    """Returns how often the column followed the row, [products + 1, products + 1].

    Args:
        train: Training sessions.
        products: Size of the vocabulary.
        reach: Steps looked ahead; a pair `d` steps apart counts `1 / d`.
    """
    owner = np.repeat(np.arange(len(train)), train.lengths)
    rows: list[Ids] = []
    columns: list[Ids] = []
    values: list[Floats] = []
    for distance in range(1, reach + 1):
        before, after = train.ids[:-distance], train.ids[distance:]
        valid = (owner[:-distance] == owner[distance:]) & (before != after)
        rows.append(before[valid])
        columns.append(after[valid])
        values.append(np.full(int(valid.sum()), 1.0 / distance))
    pairs = (np.concatenate(rows), np.concatenate(columns))
    return sp.csr_matrix((np.concatenate(values), pairs), shape=(products + 1, products + 1))


def best_columns(matrix: sp.csr_matrix, k: int) -> tuple[Ids, Floats]:
    """Returns column ids and values of each row's `k` largest entries, [rows, k]; 0 where there are fewer.

    Ties go to the more popular product (the lower id).
    """
    entries = matrix.tocoo()
    return _best(entries.row.astype(np.int64), entries.col.astype(np.int64), entries.data, matrix.shape[0], k)


def _best(rows: Ints, items: Ints, scores: Floats, height: int, k: int) -> tuple[Ids, Floats]:
    order = np.lexsort((items, -scores, rows))
    rows, items, scores = rows[order], items[order], scores[order]
    counts = np.bincount(rows, minlength=height)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = place < k
    ids = np.zeros((height, k), np.int32)
    values = np.zeros((height, k))
    ids[rows[kept], place[kept]] = items[kept]
    values[rows[kept], place[kept]] = scores[kept]
    return ids, values


def _visits(train: Sessions, products: int) -> sp.csr_matrix:
    spans = np.minimum(train.lengths, WINDOW)
    ids = train.ids[ragged_positions(train.offsets[1:] - spans, spans)]
    owner = np.repeat(np.arange(len(train)), spans)
    visits = sp.csr_matrix((np.ones(len(ids)), (owner, ids)), shape=(len(train), products + 1))
    visits.sum_duplicates()
    visits.data[:] = 1.0
    return visits


def _popularity(train: Sessions, products: int, queries: Queries, k: int) -> Ids:
    return np.zeros((len(queries), 0), np.int32)  # the filling is the method


def _covisitation(train: Sessions, products: int, queries: Queries, k: int) -> Ids:
    return best_columns(cooccurrence(train, products), k)[0][queries.viewed]


def _markov(train: Sessions, products: int, queries: Queries, k: int) -> Ids:
    return best_columns(transitions(train, products), k)[0][queries.viewed]


def _session_knn(train: Sessions, products: int, queries: Queries, k: int) -> Ids:
    visits = _visits(train, products)
    postings = visits.tocsc()  # item -> its sessions, oldest first
    seen_in = np.diff(postings.indptr)
    rarity = 1.0 + _KNN_IDF * np.log(len(train) / np.maximum(seen_in, 1))
    result = np.zeros((len(queries), k), np.int32)
    for start in range(0, len(queries), _CHUNK):
        stop = min(start + _CHUNK, len(queries))
        rows, near, weights = _neighbour_sessions(
            postings, queries.history[start:stop], queries.lengths[start:stop]
        )
        spread = sp.csr_matrix((weights, (rows, near)), shape=(stop - start, len(train)))
        scored = (spread @ visits).tocoo()
        columns = scored.col.astype(np.int64)
        values = scored.data * rarity[columns]
        # The viewed item is struck later; one more keeps the list full.
        ids, _ = _best(scored.row.astype(np.int64), columns, values, stop - start, k + 1)
        result[start:stop] = with_popular(ids, queries.viewed[start:stop], products, k)
    return result


def _neighbour_sessions(postings: sp.csc_matrix, history: Ids, lengths: Ints) -> tuple[Ints, Ints, Floats]:
    """Returns (query row, session, weight) of each query's nearest training sessions."""
    span = np.minimum(lengths, _KNN_HISTORY)
    rows = np.repeat(np.arange(len(history)), span)
    columns = ragged_positions(lengths - span, span)
    items = history[rows, columns].astype(np.int64)
    ago = lengths[rows] - 1 - columns  # 0 is the item being viewed
    weight = ((span[rows] - ago) / span[rows]) ** 2
    # Only the most recent visits of each item are looked at: they are at the end of its postings.
    visits = np.minimum(np.diff(postings.indptr)[items], _KNN_SAMPLE).astype(np.int64)
    near = postings.indices[ragged_positions(postings.indptr[items + 1].astype(np.int64) - visits, visits)]
    rows, weight, ago = (np.repeat(values, visits) for values in (rows, weight, ago))
    sessions = postings.shape[0]
    keys, inverse = np.unique(rows * sessions + near, return_inverse=True)
    similarity = np.bincount(inverse, weights=weight, minlength=len(keys))
    latest = np.full(len(keys), np.iinfo(np.int64).max)
    np.minimum.at(latest, inverse, ago)
    rows, near = keys // sessions, keys % sessions
    order = np.lexsort((-near, -similarity, rows))  # ties go to the more recent session
    counts = np.bincount(rows, minlength=len(history))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = order[place < _KNN_NEIGHBOURS]
    return rows[kept], near[kept], similarity[kept] / (latest[kept] + 1.0) ** 2
