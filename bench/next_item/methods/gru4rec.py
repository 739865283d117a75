"""GRU4Rec by its author: the checkout of hidasib/GRU4Rec_PyTorch_Official."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import torch

from bench.next_item.method import Answers, Job, Timer, empty_answers, one_by_one
from bench.next_item.shop import WIDTH, Ints

_BATCH = 256


def run(job: Job) -> Answers:
    """Trains by the official class and asks the official network, sessions in parallel."""
    shop = job.shop
    sys.path.insert(0, str(job.peers / "gru4rec"))
    from gru4rec_pytorch import GRU4Rec

    torch.set_num_threads(2)
    # Its initial weights are always the same; batches of negatives and dropout follow this seed.
    torch.manual_seed(job.seed)
    model = GRU4Rec(device=torch.device("cpu"), **job.settings)
    log = shop.train
    frame = pd.DataFrame({"SessionId": log.owners, "ItemId": log.items, "Time": log.times})
    with Timer() as fit:
        model.fit(frame, sample_cache_max_size=10_000_000)
    model.model.eval()
    place = model.data_iterator.itemidmap[np.arange(shop.products)].to_numpy()
    code = np.empty(shop.products, np.int64)
    code[place] = np.arange(shop.products)
    lists = empty_answers(len(shop.shown.items))
    starts, lengths = shop.shown.offsets[:-1], np.diff(shop.shown.offsets)
    longest_first = np.argsort(-lengths, kind="stable")
    width = min(WIDTH, shop.products)
    with torch.no_grad():
        for first in range(0, len(longest_first), _BATCH):
            batch = longest_first[first : first + _BATCH]
            hidden = _no_history(model, len(batch))
            for step in range(lengths[batch[0]]):
                batch = batch[lengths[batch] > step]
                rows = starts[batch] + step
                hidden = [layer[: len(batch)] for layer in hidden]
                scores = _step(model, place[shop.shown.items[rows]], hidden)
                lists[rows, :width] = code[scores.topk(width, dim=1).indices.numpy()]

        def answer(row: int) -> object:
            return _step(model, place[shop.shown.items[row : row + 1]], _no_history(model, 1)).topk(width)

        latencies = one_by_one(answer, shop)
    notes = {"latency": "one step, the session's state kept"}
    return Answers(shop.per_query(lists), fit.wall, fit.cpu, latencies, notes)


def _no_history(model: Any, sessions: int) -> list[torch.Tensor]:
    return [torch.zeros(sessions, units) for units in model.layers]


def _step(model: Any, items: Ints, hidden: list[torch.Tensor]) -> torch.Tensor:
    network = model.model
    embedded, outputs, bias = network.embed(torch.as_tensor(items, dtype=torch.int64), hidden, None)
    return network.score_items(network.hidden_step(embedded, hidden, training=False), outputs, bias)
