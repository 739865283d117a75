"""The encoded split that every method reads: numpy alone, so that any environment can.

Product codes are popularity ranks in the sessions that peers train on, from 0; codes from `products` on are
unknown to them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

WIDTH = 21  # 20, and one more because the item being viewed is struck


@dataclass(frozen=True)
class Log:
    """Sessions in order of their start, ragged: session `s` is `items[offsets[s]:offsets[s + 1]]`.

    Attributes:
        items: Product codes [interactions].
        times: Seconds since 1970 [interactions].
        offsets: [sessions + 1], from 0.
    """

    items: Ints
    times: Floats
    offsets: Ints

    def __len__(self) -> int:
        """Returns the number of sessions."""
        return len(self.offsets) - 1

    @property
    def owners(self) -> Ints:
        """Session of each interaction [interactions]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def steps(self) -> Ints:
        """Place of each interaction in its session, from 0 [interactions]."""
        return np.arange(len(self.items)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))


@dataclass(frozen=True)
class Shop:
    """One split.

    Attributes:
        products: Number of products that peers can know.
        train: What peers train on: the train and validation parts.
        test: Test sessions as they came, unknown products included.
        shown: Test sessions as peers see them: without their last interaction, which is only ever asked for,
            and without unknown products. A method answers after each interaction of these.
        answer_of: For every query, the interaction of `shown` whose answer counts, -1 where nothing known was
            seen yet [queries].
        skus: SKU of each code.
        session_ids: Of the test sessions.
    """

    products: int
    train: Log
    test: Log
    shown: Log
    answer_of: Ints
    skus: list[str]
    session_ids: list[str]

    @property
    def asked(self) -> Ints:
        """The interaction of `test` that each query asks for: all but the first of a session [queries]."""
        return np.flatnonzero(self.test.steps > 0)

    @property
    def targets(self) -> Ints:
        """Product code that each query asks for [queries]."""
        return self.test.items[self.asked]

    @property
    def viewed(self) -> Ints:
        """Last known product before each query, -1 for none [queries]."""
        return self.per_query(self.shown.items[:, None])[:, 0]

    def per_query(self, answers: Ints) -> Ints:
        """Returns the row of each query out of a row per interaction of `shown`; -1 where there is none."""
        if not len(answers):
            return np.full((len(self.answer_of), answers.shape[1]), -1, np.int64)
        return np.where(self.answer_of[:, None] < 0, -1, answers[np.maximum(self.answer_of, 0)])


def build(train: Log, test: Log, products: int, skus: list[str], session_ids: list[str]) -> Shop:
    """Derives what peers are shown from the sessions."""
    usable = test.items < products
    usable[test.offsets[1:] - 1] = False
    owners = test.owners
    kept = np.flatnonzero(usable)
    # Striking an unknown product can put two views of the same one side by side.
    fresh = np.ones(len(kept), bool)
    same_owner = owners[kept[1:]] == owners[kept[:-1]]
    fresh[1:] = ~(same_owner & (test.items[kept[1:]] == test.items[kept[:-1]]))
    shown_at = kept[fresh]
    lengths = np.bincount(owners[shown_at], minlength=len(test))
    shown = Log(test.items[shown_at], test.times[shown_at], np.concatenate([[0], np.cumsum(lengths)]))
    asked = np.flatnonzero(test.steps > 0)
    last = np.searchsorted(shown_at, asked) - 1  # the last one shown before the interaction asked for
    is_own = np.append(owners[shown_at], -1)[last] == owners[asked]  # index -1 is the appended one
    return Shop(products, train, test, shown, np.where(is_own, last, -1), skus, session_ids)


def save(shop: Shop, folder: Path) -> None:
    """Writes `shop.npz` and `names.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{name}_{field}": getattr(getattr(shop, name), field)
        for name in ("train", "test")
        for field in ("items", "times", "offsets")
    }
    np.savez_compressed(folder / "shop.npz", products=np.array(shop.products), **arrays)
    names = {"skus": shop.skus, "session_ids": shop.session_ids}
    (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")


def load(folder: Path) -> Shop:
    """Reads what `save` wrote."""
    names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
    with np.load(folder / "shop.npz") as arrays:
        train, test = (
            Log(*(arrays[f"{name}_{field}"] for field in ("items", "times", "offsets")))
            for name in ("train", "test")
        )
        return build(train, test, int(arrays["products"]), names["skus"], names["session_ids"])
