"""Next-item networks in Keras: a GRU or causal self-attention under a softmax tied to the item embedding."""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import layers, ops

from sessions import Ids

# Two blocks of two heads: the SASRec paper's set-up for sessions this short.
_BLOCKS = 2
_HEADS = 2


def _normal(dim: int) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=dim**-0.5)


def _last_only(shape: tuple[int, int], dtype: str | None = None) -> tf.Tensor:
    """Starts with the last product alone."""
    return ops.concatenate(
        [ops.ones((min(1, shape[0]), shape[1])), ops.zeros((max(0, shape[0] - 1), shape[1]))]
    )


class NextItem(keras.Model):
    """Scores the whole catalogue after every step of a session.

    Rows are padded on the right with 0. Both encoders look only backwards, so what a row is padded with can
    not reach its real steps and no mask is needed.
    """

    def __init__(
        self,
        architecture: str,
        products: int,
        dim: int,
        dropout: float,
        max_length: int,
        shortcuts: int = 0,
        embedding_dtype: str = "float32",
        kinds: Ids | None = None,
    ) -> None:
        """Builds the network.

        Args:
            architecture: `gru` or `attention`.
            products: Size of the vocabulary; ids run from 1 to `products`.
            dim: Width of the embedding and of the state.
            dropout: Share of embedding and state units dropped in training.
            max_length: Longest row, which the position embedding of `attention` needs.
            shortcuts: Products, counted back from the last, that also reach the state directly, each unit of
                each place with a weight of its own; what was just seen matters too much to be left to the
                encoder alone.
            embedding_dtype: Type that the item embedding is kept in, and the catalogue scored in; training
                needs `float32`.
            kinds: Kinds that each id is of, [products + 1, any], 0 for none, which adds nothing; a product's
                vector is then its own and those of its kinds together, so that a rare product begins where
                its kinds are.

        Raises:
            ValueError: The architecture is unknown.
        """
        super().__init__()
        self.items = layers.Embedding(
            products + 1, dim, embeddings_initializer=_normal(dim), dtype=embedding_dtype
        )
        self.kinds_of = None if kinds is None else tf.constant(kinds, tf.int32)
        if kinds is not None:
            self.kinds = layers.Embedding(int(kinds.max()) + 1, dim, embeddings_initializer=_normal(dim))
        self.bias = self.add_weight(name="bias", shape=(products + 1,), initializer="zeros")
        # Where there are none, not trainable: there is no gradient either.
        self.shortcuts = self.add_weight(
            name="shortcuts", shape=(shortcuts, dim), initializer=_last_only, trainable=shortcuts > 0
        )
        self.draws = keras.random.SeedGenerator()  # of losses that sample
        self.dropout_in = layers.Dropout(dropout)
        self.dropout_out = layers.Dropout(dropout)
        if architecture == "gru":
            self.encoder: layers.Layer = layers.GRU(dim, return_sequences=True)
        elif architecture == "attention":
            self.encoder = CausalAttention(dim, dropout, max_length)
        else:
            raise ValueError(f"architecture must be gru or attention, not {architecture!r}")
        self(ops.zeros((1, 2), dtype="int32"))

    def call(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the state after each step: int32 [batch, length] to float32 [batch, length, dim]."""
        items = self.vectors(ids)
        state = self.encoder(self.dropout_in(items, training=training), training=training)
        for ago in range(self.shortcuts.shape[0]):
            shifted = ops.pad(items, [[0, 0], [ago, 0], [0, 0]])[:, : ops.shape(items)[1]]
            state = state + ops.cast(self.shortcuts[ago], state.dtype) * ops.cast(shifted, state.dtype)
        return self.dropout_out(state, training=training)

    def vectors(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns what stands for products, int32 [...] to [..., dim]."""
        # Gathered from the variables, so that the gradient has these rows only.
        own = self.items(ids)
        if self.kinds_of is None:
            return own
        kinds = tf.gather(self.kinds_of, ids)
        return own + ops.sum(self.kinds(kinds) * _known(kinds, own.dtype), axis=-2)

    def table(self) -> tf.Tensor:
        """Returns what stands for every id, [products + 1, dim]."""
        own = self.items.embeddings
        if self.kinds_of is None:
            return own
        table = ops.convert_to_tensor(own)
        for kinds in tf.unstack(self.kinds_of, axis=1):  # not all at once, which would take thrice the memory
            table += tf.gather(self.kinds.embeddings.value, kinds) * _known(kinds, own.dtype)
        return table

    def copy_to(self, other: NextItem) -> None:
        """Hands the weights to a network without kinds, or of another type of embedding."""
        other.items.embeddings.assign(ops.cast(self.table(), other.items.embeddings.dtype))
        other.bias.assign(self.bias)
        other.shortcuts.assign(self.shortcuts)
        other.encoder.set_weights(self.encoder.get_weights())

    def logits(self, states: tf.Tensor) -> tf.Tensor:
        """Scores every id from states: [rows, dim] to float32 [rows, products + 1], padding far below."""
        # The product runs in the type of the table, or of the states where they are mixed precision's; what
        # is added and compared is float32.
        table = self.table()
        dtype = table.dtype if table.dtype != "float32" else states.dtype
        scores = ops.matmul(ops.cast(states, dtype), ops.transpose(ops.cast(table, dtype)))
        return ops.cast(scores, "float32") + self._shift()

    def logits_of(self, states: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Scores one id for each state: [rows, dim], int32 [rows] to float32 [rows]."""
        items = ops.cast(self.vectors(ids), states.dtype)
        scores = ops.cast(ops.sum(states * items, axis=1), "float32")
        return scores + tf.gather(self.bias.value, ids)

    def logits_among(self, states: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        """Scores the same ids for all states: [rows, dim], int32 [ids] to float32 [rows, ids]."""
        items = ops.cast(self.vectors(ids), states.dtype)
        scores = ops.cast(ops.matmul(states, ops.transpose(items)), "float32")
        return scores + tf.gather(self.bias.value, ids)

    def last_logits(self, ids: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Scores what follows each row: int32 [batch, length], int32 [batch] to [batch, products + 1].

        Rows of length 0 are scored on padding; the caller must not use them.
        """
        states = self(ids, training=False)
        # Few rows, of which an order is to be read: rounded as mixed precision does, many would be equal.
        last = ops.cast(tf.gather(states, tf.maximum(lengths - 1, 0), batch_dims=1), "float32")
        table = self.table()
        if table.dtype != "float32":
            return self.logits(last)
        # A server's batch: TensorFlow multiplies a large matrix by a few columns faster than a few rows by
        # a large matrix, in two thirds of the time at 8 rows; below and far above it is the other way around.
        rows = tf.shape(last)[0]
        return tf.cond(
            (rows > 4) & (rows <= 64),
            lambda: tf.transpose(tf.matmul(table, last, transpose_b=True)) + self._shift(),
            lambda: self.logits(last),
        )

    def _shift(self) -> tf.Tensor:
        return self.bias + ops.one_hot(0, ops.shape(self.bias)[0], dtype="float32") * -1e9


def _known(kinds: tf.Tensor, dtype: str) -> tf.Tensor:
    """Returns 1 for a kind and 0 for none, [..., 1]."""
    return ops.cast(kinds > 0, dtype)[..., None]


class CausalAttention(layers.Layer):
    """Stack of pre-norm causal self-attention blocks with learned positions (SASRec)."""

    def __init__(self, dim: int, dropout: float, max_length: int) -> None:
        """Builds the blocks; arguments as in `NextItem`."""
        super().__init__()
        heads = _HEADS if dim % _HEADS == 0 else 1
        self.places = layers.Embedding(max_length, dim)
        self.places.build()
        self.attention = [
            layers.MultiHeadAttention(heads, dim // heads, dropout=dropout) for _ in range(_BLOCKS)
        ]
        self.norms = [layers.LayerNormalization() for _ in range(2 * _BLOCKS + 1)]
        self.wide = [layers.Dense(2 * dim, activation="gelu") for _ in range(_BLOCKS)]
        self.narrow = [layers.Dense(dim) for _ in range(_BLOCKS)]
        self.dropout = layers.Dropout(dropout)

    def call(self, embedded: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps [batch, length, dim] to the same shape; step `t` sees steps up to `t`."""
        # A slice's gradient is dense: places beyond a batch's length move as under any Adam, on one replica
        # as on several.
        state = embedded + ops.cast(self.places.embeddings[: ops.shape(embedded)[1]], embedded.dtype)
        for block in range(_BLOCKS):
            normed = self.norms[2 * block](state)
            state = state + self.attention[block](normed, normed, use_causal_mask=True, training=training)
            fed = self.narrow[block](self.wide[block](self.norms[2 * block + 1](state)))
            state = state + self.dropout(fed, training=training)
        return self.norms[-1](state)
