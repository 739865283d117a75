"""Popularity, and what looks at the last product only: our own baselines, on the peers' sessions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from bench.next_item.method import Answers, Job, Timer, empty_answers
from bench.next_item.shop import WIDTH, Log

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "include" / "ml"))

import baselines  # the ML room is flat: its folder goes on the path
import sessions


def run(job: Job) -> Answers:
    """Ranks what followed, or met, the last product most."""
    shop = job.shop
    train, products = _as_sessions(shop.train), shop.products
    with Timer() as fit:
        if job.settings["kind"] == "popularity":
            table = np.zeros((products + 1, WIDTH), np.int32)  # the evaluator fills lists with the popular
        elif job.settings["kind"] == "covisitation":
            table, _ = baselines.best_columns(baselines.cooccurrence(train, products), WIDTH)
        else:
            matrix = baselines.transitions(train, products, job.settings["reach"])
            table, _ = baselines.best_columns(matrix, WIDTH)
    lists = empty_answers(len(shop.shown.items))
    lists[:] = table[shop.shown.items + 1].astype(np.int64) - 1
    return Answers(shop.per_query(lists), fit.wall, fit.cpu, [])


def _as_sessions(log: Log) -> sessions.Sessions:
    ids = (log.items + 1).astype(np.int32)  # there, 0 means none
    names = np.arange(len(log)).astype(str).astype(object)
    return sessions.Sessions(names, log.offsets, ids, ids)
