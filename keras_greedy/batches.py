"""Reads the user's data as checked batches of a bounded size, as often as needed.

The data pass this door once per call of the library: what is made of them here is
handed on, and the rooms behind it ask for other batch sizes or for the labels.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import keras
import numpy as np

BATCH_SIZE = 32
ENDLESS = -1
"""The cardinality of a `tf.data.Dataset` that repeats for ever."""

Data: TypeAlias = Any
"""Arrays, `(x, y)`, a dict, a `tf.data.Dataset`, `PyDataset` or batches."""

Arrays: TypeAlias = list[np.ndarray]


class Batches:
    """Inputs of a model, in batches of at most `batch_size`.

    Accepts arrays, an `(x, y)` pair of arrays, `tf.data.Dataset`,
    `keras.utils.PyDataset`, or any iterable of `x` or `(x, y)` batches; for several
    inputs x is a dict by their names, or a list. A one-shot iterator is read into
    memory, since the search reads the data more than once.

    Args:
        data: See above.
        model: The Functional whose inputs the data must fit.
        batch_size: Most examples in a batch.

    Attributes:
        data: The data as given; the list of batches of a one-shot iterator.
        first: The first batch, one array per model input.

    Raises:
        ValueError: When there is no data, or it does not fit the model.
    """

    def __init__(
        self,
        data: Data,
        model: keras.Model,
        batch_size: int = BATCH_SIZE,
    ):
        self._model = model
        self._inputs = model.inputs
        self._structure = model.input
        self._batch_size = batch_size
        self._shuffle: np.random.Generator | None = None
        self.data = repeatable(data)
        is_one_batch = self._is_one_array_per_input(self.data)
        self._source = _source_of((self.data,) if is_one_batch else self.data)
        first = next(iter(self), None)
        if first is None:
            raise ValueError(
                "Expected `data` to hold at least one batch. Received none."
            )
        self.first: Arrays = first

    @classmethod
    def of(
        cls,
        data: "Data | Batches",
        model: keras.Model,
        batch_size: int = BATCH_SIZE,
    ) -> "Batches":
        """Returns the batches of `data`, which is read only if it is none yet.

        Args:
            data: As for the constructor, or `Batches` made of it for this model or for
                one with the same inputs.
            model: As for the constructor.
            batch_size: As for the constructor.
        """
        if isinstance(data, Batches):
            return data.of_size(batch_size)
        return cls(data, model, batch_size)

    def of_size(self, batch_size: int) -> "Batches":
        """Returns the same data in batches of another size."""
        return self._changed(_batch_size=batch_size)

    def shuffled(self, rng: np.random.Generator) -> "Batches":
        """Returns the same data, shuffled anew in each pass.

        Args:
            rng: Shuffles as much as the source hands over at once: whole arrays, or
                each of a dataset's own batches.
        """
        other = self._changed(_shuffle=rng)
        other.first = next(iter(other))
        return other

    def labelled(self) -> "LabelledBatches":
        """Returns the same data with labels.

        Raises:
            ValueError: When there are no labels that fit.
        """
        return LabelledBatches(self.data, self._model)

    def __iter__(self) -> Iterator[Arrays]:
        """Yields one array per model input, `(n, ...)` each, of the input's dtype."""
        waiting: list[Arrays] = []
        size = 0
        for batch in self._source():
            arrays = self._in_order(self._checked(batch))
            waiting.append(arrays)
            size += len(arrays[0])
            while size >= self._batch_size:
                joined = _joined(waiting)
                yield self._converted([x[: self._batch_size] for x in joined])
                waiting = [[x[self._batch_size :] for x in joined]]
                size -= self._batch_size
        if size:
            yield self._converted(_joined(waiting))

    def take(self, limit: int) -> Iterator[Arrays]:
        """Yields the first `limit` examples, but for a last batch that is not full."""
        full = None
        for batch in self:
            size = len(batch[0])
            full = size if full is None else full
            # A divergence is scaled by the variance of the batch, and that of a few
            # examples says nothing.
            if size < full:
                return
            yield [x[:limit] for x in batch]
            limit -= size
            if limit <= 0:
                return

    def _changed(self, **attributes: Any) -> "Batches":
        other = copy.copy(self)
        vars(other).update(attributes)
        return other

    def _is_one_array_per_input(self, data: Data) -> bool:
        """Returns whether a list is one array for each of several inputs."""
        if not isinstance(data, list) or len(self._inputs) == 1:
            return False
        return len(data) == len(self._inputs) and all(map(_is_array, data))

    def _in_order(self, arrays: Arrays) -> Arrays:
        if self._shuffle is None:
            return arrays
        order = self._shuffle.permutation(len(arrays[0]))
        return [array[order] for array in arrays]

    def _checked(self, batch: Any) -> Arrays:
        """Returns the inputs of a batch of the source, checked against the model."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        if isinstance(x, dict):
            x = self._by_name(x)
        arrays = [_to_numpy(leaf) for leaf in keras.tree.flatten(x)]
        expected = [tuple(tensor.shape) for tensor in self._inputs]
        received = [array.shape for array in arrays]
        has_all = len(received) == len(expected)
        if not has_all or not all(map(_fits, received, expected)):
            raise ValueError(
                f"Expected `data` to give batches of shape {_bare(expected)}, as the "
                f"model's input. Received: a batch of shape {_bare(received)}."
                + _unbatched_hint(received, expected)
            )
        if len({len(array) for array in arrays}) > 1:
            raise ValueError(
                "Expected `data` to give as many examples for each of the model's "
                f"inputs. Received: a batch of shape {_bare(received)}."
            )
        return arrays

    def _by_name(self, x: dict) -> Any:
        """Returns the values of a dict in the order of the model's inputs."""
        is_named = isinstance(self._structure, dict)
        names = self._structure if is_named else [t.name for t in self._inputs]
        if not set(names) <= set(x):
            raise ValueError(
                "Expected `data` to give a dict with the names of the model's inputs, "
                f"{[*names]}. Received: a dict with {[*x]}."
            )
        if is_named:
            # Keras flattens a dict in an order that depends on its class.
            return type(self._structure)((name, x[name]) for name in names)
        return [x[name] for name in names]

    def _converted(self, arrays: Arrays) -> Arrays:
        """Returns the arrays in the dtypes of the model's inputs."""
        pairs = zip(arrays, self._inputs, strict=True)
        converted = [x.astype(tensor.dtype, copy=False) for x, tensor in pairs]
        _check_finite(converted)
        return converted


class LabelledBatches(Batches):
    """Inputs of a model and their labels: each batch gives first those, then these.

    Arguments and errors are those of `Batches`; labels are arrays of `(n, ...)`, one
    for each output, by its name if they come as a dict.
    """

    def __init__(
        self,
        data: Data,
        model: keras.Model,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self._outputs = output_keys(model)
        super().__init__(data, model, batch_size)

    def pairs(self) -> Iterator[tuple[Arrays, Arrays]]:
        """Yields the inputs and the labels of each batch."""
        inputs = len(self._inputs)
        for batch in self:
            yield batch[:inputs], batch[inputs:]

    def _checked(self, batch: Any) -> Arrays:
        _, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        if isinstance(y, dict):
            y = [y[name] for name in self._outputs]
        labels = [_to_numpy(leaf) for leaf in keras.tree.flatten(y)]
        inputs = super()._checked(batch)
        examples = len(inputs[0])
        lengths = [len(array) for array in labels]
        if lengths != [examples] * len(self._outputs):
            shapes = [array.shape for array in labels]
            raise ValueError(
                "Expected `data` to give labels, as many as examples, for each output "
                f"{self._outputs}. Received: labels of shape {shapes} for {examples} "
                "examples."
            )
        return [*inputs, *labels]

    def _converted(self, arrays: Arrays) -> Arrays:
        inputs = super()._converted(arrays[: len(self._inputs)])
        return [*inputs, *arrays[len(self._inputs) :]]


def output_keys(functional: keras.Model) -> list[str]:
    """Returns the key of each output in a dict of losses or labels."""
    if not isinstance(functional.output, dict):
        return list(functional.output_names)
    keys = {tensor: key for key, tensor in functional.output.items()}
    return [keys[tensor] for tensor in keras.tree.flatten(functional.output)]


def repeatable(data: Data) -> Data:
    """Returns data that can be read again: of a one-shot iterator, its list."""
    return list(data) if isinstance(data, Iterator) else data


def is_arrays(data: Data) -> bool:
    """Returns whether `data` is the whole data set in memory: x, (x, y) or a dict."""
    if isinstance(data, tuple):
        leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
        return len(data) in (1, 2, 3) and all(map(_is_array, leaves))
    return isinstance(data, dict) or _is_array(data)


def _source_of(data: Data) -> Callable[[], Iterator]:
    """Returns a function that starts reading the data from their beginning."""
    if isinstance(data, keras.utils.PyDataset):
        return lambda: (data[i] for i in range(_finite_length(data.num_batches)))
    if is_arrays(data):
        return lambda: iter([data])
    if not isinstance(data, Iterable):
        raise ValueError(
            "Expected `data` to be arrays, a tf.data.Dataset, a PyDataset or an "
            f"iterable of batches. Received: data={data!r} of type "
            f"{type(data).__name__}"
        )
    if hasattr(data, "cardinality"):
        _finite_length(int(data.cardinality()))
    return lambda: iter(data)


def _finite_length(batches: int | None) -> int:
    if batches is None or batches == ENDLESS:
        raise ValueError(
            "Expected `data` to be finite. Received: a dataset that repeats for ever; "
            "limit it, with `dataset.take(n)` for example."
        )
    return batches


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or keras.ops.is_tensor(value)


def _to_numpy(leaf: Any) -> np.ndarray:
    if isinstance(leaf, np.ndarray):
        return leaf
    return keras.ops.convert_to_numpy(leaf)


def _check_finite(arrays: Arrays) -> None:
    for array in arrays:
        if not np.isfinite(array).all():
            raise ValueError(
                "Expected `data` to be finite. Received: a batch with NaN or "
                f"infinite values, of shape {array.shape}. Remove or repair them."
            )


def _joined(batches: list[Arrays]) -> Arrays:
    if len(batches) == 1:
        return batches[0]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _fits(received: tuple, expected: tuple) -> bool:
    """Returns whether a batch has the sizes that are fixed, but for the first."""
    if len(received) != len(expected):
        return False
    pairs = zip(received[1:], expected[1:], strict=True)
    return all(size is None or size == got for got, size in pairs)


def _bare(shapes: list[tuple]) -> tuple | list[tuple]:
    return shapes[0] if len(shapes) == 1 else shapes


def _unbatched_hint(received: list[tuple], expected: list[tuple]) -> str:
    if received and _fits((None, *received[0]), expected[0]):
        return " It looks unbatched: batch it, with `dataset.batch(32)` for example."
    return ""
