"""The SavedModel: raw SKUs in, ranked SKUs out, the vocabulary inside; and scoring through that export."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from recommender import Recommender, cells
from sessions import Vocabulary

Strings = npt.NDArray[np.object_]

_BATCH = 256
_BLOCK = 64  # columns; between 32 and 256 hardly any difference was measured
_decode = np.vectorize(bytes.decode, otypes=[object])


class _Vocabulary(tf.lookup.KeyValueTensorInitializer):
    """Fills the table of SKUs at load, and refuses to beside weights that it was not exported with.

    The vocabulary is in the graph, the weights are in files of their own: mixed up, the two still fit where
    the catalogues are of one size, and every answer would be another product's.
    """

    def __init__(self, skus: tf.Tensor, ids: tf.Tensor, mark: str, mark_of_weights: tf.Variable) -> None:
        self._mark, self._mark_of_weights = mark, mark_of_weights
        super().__init__(skus, ids)

    def initialize(self, table: Any) -> Any:
        """Fills the table; raises InvalidArgumentError where the weights bear another mark."""
        same = tf.debugging.assert_equal(
            self._mark_of_weights, self._mark, "vocabulary and weights are of different models"
        )
        with tf.control_dependencies([same]):
            return super().initialize(table)


class Server(tf.Module):
    """The serving graph; uses TensorFlow's own ops only, so that TF Serving can run it."""

    def __init__(self, recommender: Recommender, vocabulary: Vocabulary, max_length: int, top_k: int) -> None:
        """Puts vocabulary and recommender together.

        Args:
            recommender: Trained, its blend set.
            vocabulary: SKUs in id order.
            max_length: Known items at the end of a session that the network looks at.
            top_k: Longest list that a request may ask for.
        """
        super().__init__()
        self.recommender = recommender
        self.max_length = max_length
        self.top_k = top_k
        skus = tf.constant([str(sku) for sku in vocabulary.skus])
        ids = tf.range(1, len(vocabulary) + 1, dtype=tf.int32)
        mark = _mark(recommender, vocabulary)
        self.mark = tf.Variable(mark, trainable=False, name="mark")
        self.ids = tf.lookup.StaticHashTable(_Vocabulary(skus, ids, mark, self.mark), 0)
        self.skus = tf.concat([[""], skus], axis=0)
        # The fallback's list is always the same, and so is made here.
        counts = np.concatenate([[-1], vocabulary.counts])
        popular = np.argsort(-counts, kind="stable")[:top_k].astype(np.int32)
        self.popular = tf.constant(popular)
        shares = counts[popular] / max(1, int(vocabulary.counts.sum()))
        self.popularity = tf.constant(shares.astype(np.float32))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.string, name="session"),
            tf.TensorSpec([None], tf.int32, name="k"),
            tf.TensorSpec([None], tf.bool, name="exclude_seen"),
        ],
        autograph=False,
    )
    def serve(self, session: tf.Tensor, k: tf.Tensor, exclude_seen: tf.Tensor) -> dict[str, tf.Tensor]:
        """Answers a batch.

        Args:
            session: SKUs, oldest first, "" pads anywhere, string [batch, length].
            k: Products wanted, cut to 1 … top_k, int32 [batch].
            exclude_seen: Whether to leave out every product of the session, also those that are too long ago
                for the network, and not only the one being viewed; bool [batch].

        Returns:
            `skus` string and `scores` float32 [batch, largest k], "" and 0 where a row has no more;
            `fallback` string [batch], "popularity" where no SKU was known, else "none"; `k` int32 [batch].
        """
        found = self.ids.lookup(session)
        known = _without_repeats(tf.ragged.boolean_mask(found, found > 0))[:, -self.max_length :]
        lengths = tf.cast(known.row_lengths(), tf.int32)
        history = known.to_tensor(0)
        # The network needs at least one step, also where nobody in the batch knows anything.
        history = tf.pad(history, [[0, 0], [0, tf.maximum(0, 1 - tf.shape(history)[1])]])
        probabilities = self.recommender(history, lengths)
        viewed = tf.gather(history, tf.maximum(lengths - 1, 0), batch_dims=1)[:, None]
        seen = tf.where(exclude_seen[:, None], found, 0)
        struck = cells(tf.concat([tf.zeros_like(viewed), viewed, seen], axis=1))  # 0 is no product
        below = tf.fill(tf.shape(struck)[:2], -1.0)  # any probability
        probabilities = tf.tensor_scatter_nd_update(probabilities, struck, below)

        wanted = tf.clip_by_value(k, 1, self.top_k)
        width = tf.minimum(tf.reduce_max(tf.concat([wanted, [1]], 0)), len(self.popular))
        scores, ids = top_k(probabilities, width)
        is_known = (lengths > 0)[:, None]
        scores = tf.where(is_known, scores, self.popularity[:width])
        ids = tf.where(is_known, ids, self.popular[:width])
        real = (scores >= 0.0) & (tf.range(width) < wanted[:, None])
        return {
            "skus": tf.gather(self.skus, tf.where(real, ids, 0)),
            "scores": tf.where(real, scores, 0.0),
            "fallback": tf.where(is_known[:, 0], "none", "popularity"),
            "k": wanted,
        }


def top_k(scores: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the k greatest of each row and their columns, as `tf.math.top_k` does, several times faster.

    Columns are cut into blocks, and only the k blocks with the greatest maxima are looked into. That is
    exact: were one of the k greatest in another block, each of those k blocks would hold one that comes
    before it. Among equals the lower column comes first, here as there: blocks and what is in them keep
    their order.

    Args:
        scores: float32 [batch, columns].
        k: At least 1, at most the columns.
    """
    columns = tf.shape(scores)[1]
    blocks = -(-columns // _BLOCK)
    padded = tf.pad(scores, [[0, 0], [0, blocks * _BLOCK - columns]], constant_values=-np.inf)
    grid = tf.reshape(padded, [-1, blocks, _BLOCK])
    _, best = tf.math.top_k(tf.reduce_max(grid, axis=2), tf.minimum(k, blocks))
    best = tf.sort(best, axis=1)
    inside = tf.gather(grid, best, batch_dims=1)
    values, places = tf.math.top_k(tf.reshape(inside, [tf.shape(scores)[0], -1]), k)
    return values, tf.gather(best, places // _BLOCK, batch_dims=1) * _BLOCK + places % _BLOCK


def _mark(recommender: Recommender, vocabulary: Vocabulary) -> str:
    """Returns a digest of everything that makes the model what it is."""
    digest = hashlib.sha256(vocabulary.sha256().encode())
    for values in [*recommender.next_item.get_weights(), *(value.numpy() for value in recommender.variables)]:
        digest.update(f"{values.dtype} {values.shape}".encode() + values.tobytes())
    return digest.hexdigest()


def _without_repeats(ids: tf.RaggedTensor) -> tf.RaggedTensor:
    """Collapses consecutive repeats, as the training sessions were; [batch, (length)] to the same."""
    rows = ids.value_rowids()
    same = (ids.values[1:] == ids.values[:-1]) & (rows[1:] == rows[:-1])
    fresh = tf.concat([tf.ones_like(ids.values[:1], tf.bool), ~same], axis=0)
    return tf.ragged.boolean_mask(ids, ids.with_values(fresh))


def save(server: Server, path: Path) -> None:
    """Writes the SavedModel with its `serving_default` signature."""
    for layer in server.recommender.next_item.layers:
        if isinstance(layer, keras.layers.GRU):
            # Traced on a GPU machine, "auto" would bake in a kernel that a CPU endpoint does not have.
            layer.use_cudnn = False
    tf.saved_model.save(server, str(path), signatures={"serving_default": server.serve})


class Exported:
    """A SavedModel read back from disk: what is scored is what is served."""

    def __init__(self, path: Path) -> None:
        """Loads `path`, a folder with `saved_model.pb`."""
        self._loaded = tf.saved_model.load(str(path))  # keeps the variables alive
        self._signature = self._loaded.signatures["serving_default"]

    def answer(self, sessions: Strings, k: int, exclude_seen: bool = False) -> dict[str, Any]:
        """Answers one batch: object array of SKUs [batch, length] to numpy outputs of the signature."""
        rows = [len(sessions)]
        outputs = self._signature(
            session=tf.constant(sessions, tf.string),
            k=tf.fill(rows, k),
            exclude_seen=tf.fill(rows, exclude_seen),
        )
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def recommend(self, sessions: Strings, lengths: Any, k: int) -> tuple[Strings, npt.NDArray[np.float32]]:
        """Answers many sessions, those of like length together.

        Args:
            sessions: SKUs padded with "" on the right, object array [queries, length].
            lengths: SKUs per row, [queries].
            k: Length of the lists.

        Returns:
            SKUs as str, [queries, k], "" where there are no more, and their scores.
        """
        skus = np.full((len(sessions), k), "", dtype=object)
        scores = np.zeros((len(sessions), k), np.float32)
        order = np.argsort(lengths, kind="stable")
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            width = max(1, int(lengths[rows].max()))
            outputs = self.answer(sessions[rows, :width], k)
            found = outputs["skus"]
            skus[rows, : found.shape[1]] = _decode(found)
            scores[rows, : found.shape[1]] = outputs["scores"]
        return skus, scores
