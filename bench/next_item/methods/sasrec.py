"""SASRec by RecTools, through its public interface."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet

from bench.next_item.method import Answers, Job, Timer, empty_answers, one_by_one
from bench.next_item.shop import WIDTH, Ints, Log

_FIRST_QUERY = 10**9  # users that training never saw


def run(job: Job) -> Answers:
    """Trains on sessions as users; every prefix of a test session is a user of its own."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    seed_everything(job.seed)
    shop, settings = job.shop, job.settings
    model = SASRecModel(
        **settings,
        item_net_block_types=(IdEmbeddingsItemNet,),
        verbose=0,
        dataloader_num_workers=0,
        train_min_user_interactions=2,
        get_trainer_func=lambda: Trainer(
            max_epochs=settings["epochs"],
            min_epochs=settings["epochs"],
            accelerator="cpu",
            deterministic=True,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            enable_checkpointing=False,
        ),
    )
    with Timer() as fit:
        model.fit(Dataset.construct(_interactions(shop.train.owners, shop.train.items)))
    length = settings["session_max_len"]
    lists = empty_answers(len(shop.shown.items))
    _answer(model, shop.shown, np.arange(len(lists)), length, lists)
    spare = empty_answers(len(lists))
    latencies = one_by_one(lambda row: _answer(model, shop.shown, np.array([row]), length, spare), shop, 50)
    notes = {"latency": "through RecTools' recommend, which builds a data set"}
    return Answers(shop.per_query(lists), fit.wall, fit.cpu, latencies, notes)


def _answer(model: SASRecModel, log: Log, rows: Ints, length: int, lists: Ints) -> None:
    spans = np.minimum(log.steps[rows] + 1, length)
    users = np.repeat(rows, spans)
    back = np.arange(len(users)) - np.repeat(np.cumsum(spans) - spans, spans)
    items = log.items[users - np.repeat(spans, spans) + 1 + back]
    data = Dataset.construct(_interactions(users + _FIRST_QUERY, items))
    # It learns the end of a long session alone, and knows no product that was met in beginnings only: a query
    # of such products has no list.
    asked = rows + _FIRST_QUERY
    found = model.recommend(asked, data, WIDTH, filter_viewed=False, on_unsupported_targets="ignore")
    lists[found[Columns.User] - _FIRST_QUERY, found[Columns.Rank] - 1] = found[Columns.Item]


def _interactions(users: Ints, items: Ints) -> pd.DataFrame:
    # Rows are in order; a clock of their own keeps ties of the shop's clock so.
    clock = pd.to_datetime(1_600_000_000_000 + np.arange(len(users)), unit="ms")
    return pd.DataFrame(
        {Columns.User: users, Columns.Item: items, Columns.Weight: 1.0, Columns.Datetime: clock}
    )
