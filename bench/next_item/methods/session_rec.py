"""V-SKNN and VSTAN by their authors: the checkout of rn5l/session-rec."""

from __future__ import annotations

import heapq
import importlib
import itertools
import sys
import time

import pandas as pd

from bench.next_item.method import Answers, Job, Timer, empty_answers
from bench.next_item.shop import WIDTH

_CLASSES = {"vsknn": "VMContextKNN", "vstan": "VSKNN_STAN"}


def run(job: Job) -> Answers:
    """Walks every session step by step, as a shop would."""
    shop, kind = job.shop, job.settings["kind"]
    sys.path.insert(0, str(job.peers / "session-rec"))
    module = importlib.import_module(f"algorithms.knn.{kind}")
    options = {name: value for name, value in job.settings.items() if name != "kind"}
    model = getattr(module, _CLASSES[kind])(**options)
    log = shop.train
    with Timer() as fit:
        model.fit(pd.DataFrame({"SessionId": log.owners, "ItemId": log.items, "Time": log.times}))
    lists, latencies = empty_answers(len(shop.shown.items)), []
    items, times = shop.shown.items.tolist(), shop.shown.times.tolist()
    for session, (start, stop) in enumerate(itertools.pairwise(shop.shown.offsets)):
        model.relevant_sessions = set()  # what predict_next does when a session begins
        for row in range(start, stop):
            began = time.perf_counter()
            seen, now = items[start : row + 1], times[row]
            # Its own predict_next spreads the same scores over a pandas series of the whole catalogue.
            dwelling = [[]] if kind == "vsknn" else []
            near = model.find_neighbors(seen, seen[-1], -1 - session, *dwelling, now)
            scores = model.score_items(near, seen, now)
            best = heapq.nlargest(WIDTH, scores.items(), key=lambda pair: pair[1])
            latencies.append((time.perf_counter() - began) * 1000.0)
            lists[row, : len(best)] = [item for item, _ in best]
    return Answers(shop.per_query(lists), fit.wall, fit.cpu, latencies)
