from __future__ import annotations

import numpy as np

import queries
from sessions import Sessions


def _sessions(rows: list[list[int]]) -> Sessions:
    ids = np.array([value for row in rows for value in row], np.int32)
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    names = np.array([f"s{number}" for number in range(len(rows))], object)
    return Sessions(names, offsets, ids, ids)


def test_every_step_is_a_query_and_unknown_items_leave_the_history() -> None:
    built = queries.build(_sessions([[4, 0, 5], [0, 7]]), limit=100, seed=1)
    assert built.owners.tolist() == [0, 0, 1]
    assert built.positions.tolist() == [1, 2, 1]
    assert built.targets.tolist() == [0, 5, 7]
    assert [row[row > 0].tolist() for row in built.history] == [[4], [4], []]
    assert built.viewed.tolist() == [4, 4, 0]


def test_history_is_the_last_window() -> None:
    length = queries.WINDOW + 5
    built = queries.build(_sessions([list(range(1, length + 1))]), limit=1000, seed=1)
    assert built.history[-1].tolist() == list(range(length - queries.WINDOW, length))
    assert built.targets[-1] == length


def test_latest_are_those_that_a_shorter_window_would_serve() -> None:
    built = queries.build(_sessions([[4, 0, 5, 6, 7, 8], [9, 3]]), limit=100, seed=1)
    short = queries.latest(built, 2)
    assert [row[row > 0].tolist() for row in short.history] == [[4], [4], [4, 5], [5, 6], [6, 7], [9]]
    assert short.lengths.tolist() == [1, 1, 2, 2, 2, 1]
    assert short.viewed.tolist() == built.viewed.tolist()


def test_cap_draws_whole_sessions_the_same_way_each_time() -> None:
    many = _sessions([[1, 2, 3]] * 50)
    first, second = (queries.build(many, limit=21, seed=7) for _ in range(2))
    assert len(first) == 20
    assert first.available == 100
    assert first.owners.tolist() == second.owners.tolist()
    assert (np.bincount(first.owners)[np.unique(first.owners)] == 2).all()
