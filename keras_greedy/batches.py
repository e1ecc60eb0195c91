"""The user's data as checked batches of a bounded size, read as often as needed."""

from collections.abc import Iterable, Iterator

import keras
import numpy as np


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
        shuffle: Shuffles what the source hands over at once: whole arrays, or each
            of a dataset's own batches.

    Raises:
        ValueError: When there is no data, or it does not fit the model.
    """

    def __init__(
        self,
        data,
        model: keras.Model,
        batch_size: int = 32,
        shuffle: np.random.Generator | None = None,
    ):
        self._inputs = model.inputs
        self._structure = model.input
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._source = _repeatable((data,) if self._is_x(data) else data)
        self.first = next(iter(self), None)
        if self.first is None:
            raise ValueError(
                "Expected `data` to hold at least one batch. Received none."
            )

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        """Yields one array per model input, `(n, ...)` each, of the input's dtype."""
        waiting, size = [], 0
        for batch in self._source():
            waiting.append(self._shuffled(self._checked(batch)))
            size += len(waiting[-1][0])
            while size >= self._batch_size:
                joined = _joined(waiting)
                yield self._converted([x[: self._batch_size] for x in joined])
                waiting = [[x[self._batch_size :] for x in joined]]
                size -= self._batch_size
        if size:
            yield self._converted(_joined(waiting))

    def take(self, limit: int) -> Iterator[list[np.ndarray]]:
        """Yields the first `limit` examples, but for a last batch that is not full.

        A divergence is scaled by the variance of the batch, and that of a few
        examples says nothing.
        """
        for batch in self:
            if len(batch[0]) < len(self.first[0]):
                return
            yield [x[:limit] for x in batch]
            limit -= len(batch[0])
            if limit <= 0:
                return

    def _is_x(self, data) -> bool:
        """Whether a list is one array for each of several inputs, and no batches."""
        is_arrays = isinstance(data, list) and all(map(_is_array, data))
        return is_arrays and len(data) == len(self._inputs) > 1

    def _shuffled(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        if self._shuffle is None:
            return arrays
        order = self._shuffle.permutation(len(arrays[0]))
        return [array[order] for array in arrays]

    def _checked(self, batch) -> list[np.ndarray]:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        if isinstance(x, dict):
            x = self._by_name(x)
        arrays = [_to_numpy(leaf) for leaf in keras.tree.flatten(x)]
        expected = [tuple(tensor.shape) for tensor in self._inputs]
        received = [array.shape for array in arrays]
        if len(expected) != len(received) or not all(map(_fits, received, expected)):
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

    def _by_name(self, x: dict):
        """The values of a dict in the order of the model's inputs."""
        named = isinstance(self._structure, dict)
        names = self._structure if named else [t.name for t in self._inputs]
        if not set(names) <= set(x):
            raise ValueError(
                "Expected `data` to give a dict with the names of the model's inputs, "
                f"{[*names]}. Received: a dict with {[*x]}."
            )
        if named:
            return type(self._structure)((name, x[name]) for name in names)
        return [x[name] for name in names]

    def _converted(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        dtypes = (tensor.dtype for tensor in self._inputs)
        pairs = zip(arrays, dtypes, strict=True)
        return _finite([x.astype(dtype, copy=False) for x, dtype in pairs])


class LabelledBatches(Batches):
    """Inputs of a model and their labels: each batch gives first those, then these.

    Arguments and errors are those of `Batches`; labels are arrays of `(n, ...)`, one
    for each output, by its name if they come as a dict.
    """

    def __init__(self, data, model: keras.Model, batch_size: int = 32):
        self._outputs = output_keys(model)
        super().__init__(data, model, batch_size)

    def _checked(self, batch):
        _, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        y = [y[name] for name in self._outputs] if isinstance(y, dict) else y
        labels = [_to_numpy(leaf) for leaf in keras.tree.flatten(y)]
        inputs = super()._checked(batch)
        if [len(array) for array in labels] != [len(inputs[0])] * len(self._outputs):
            raise ValueError(
                "Expected `data` to give labels, as many as examples, for each output "
                f"{self._outputs}. Received: labels of shape "
                f"{[array.shape for array in labels]} for {len(inputs[0])} examples."
            )
        return [*inputs, *labels]

    def _converted(self, arrays):
        inputs = super()._converted(arrays[: len(self._inputs)])
        return [*inputs, *arrays[len(self._inputs) :]]


def output_keys(functional: keras.Model) -> list:
    """What each output is called in a dict of losses or labels."""
    if not isinstance(functional.output, dict):
        return list(functional.output_names)
    flat = keras.tree.flatten(functional.output)
    places = {tensor: key for key, tensor in functional.output.items()}
    return [places[tensor] for tensor in flat]


def _repeatable(data):
    """Returns a function that starts reading the data from its beginning."""
    if isinstance(data, Batches):
        return data._source
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
    if iter(data) is data:
        batches = list(data)
        return lambda: iter(batches)
    return lambda: iter(data)


def _finite_length(number_of_batches):
    if number_of_batches is None or number_of_batches == -1:
        raise ValueError(
            "Expected `data` to be finite. Received: a dataset that repeats for ever; "
            "limit it, with `dataset.take(n)` for example."
        )
    return number_of_batches


def is_arrays(data) -> bool:
    """Whether `data` is the whole data set in memory: x, (x, y) or a dict."""
    if isinstance(data, tuple):
        leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
        return len(data) in (1, 2, 3) and all(map(_is_array, leaves))
    return isinstance(data, dict) or _is_array(data)


def _is_array(value) -> bool:
    return isinstance(value, np.ndarray) or keras.ops.is_tensor(value)


def _to_numpy(leaf) -> np.ndarray:
    is_numpy = isinstance(leaf, np.ndarray)
    return leaf if is_numpy else keras.ops.convert_to_numpy(leaf)


def _finite(arrays: list[np.ndarray]) -> list[np.ndarray]:
    for array in arrays:
        if not np.isfinite(array).all():
            raise ValueError(
                "Expected `data` to be finite. Received: a batch with NaN or "
                f"infinite values, of shape {array.shape}. Remove or repair them."
            )
    return arrays


def _joined(batches) -> list[np.ndarray]:
    if len(batches) == 1:
        return batches[0]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _fits(received, expected) -> bool:
    return len(received) == len(expected) and all(
        e in (None, r) for r, e in zip(received[1:], expected[1:], strict=True)
    )


def _bare(shapes):
    return shapes[0] if len(shapes) == 1 else shapes


def _unbatched_hint(received, expected) -> str:
    if received and _fits((None, *received[0]), expected[0]):
        return " It looks unbatched: batch it, with `dataset.batch(32)` for example."
    return ""
