"""Models with a preprocessor of their own, as the tasks of KerasHub are.

Their `fit` and `predict` take raw data, as images of any size from 0 to 255, and hand
what the preprocessor makes of them to the network. A compact model is that, alone or
behind a `Rescaling`, where the preprocessor only scales images of its size.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_greedy.batch_arrays import unpacked
from keras_greedy.batches import Batches
from keras_greedy.data_forms import Data, Source, is_arrays, repeatable, to_numpy
from keras_greedy.graph.model_kinds import check_model, has_graph
from keras_greedy.graph.nodes import without_new_nodes
from keras_greedy.training.compiling import compile_alike
from tflite_export.user_warnings import warn_user

EXAMPLES_AT_ONCE = 64

SCALING_ERROR = 1e-5
"""Of the greatest value, in float32."""


def has_preprocessor(model: Any) -> bool:
    """Returns whether `fit` and `predict` of a model preprocess what they are given."""
    has_one = getattr(model, "preprocessor", None) is not None
    return has_one and callable(getattr(model, "preprocess_samples", None))


def network_of(model: keras.Model) -> keras.Model:
    """Returns the network of a model that has a preprocessor; any other as it is.

    It has the layers of the model, and is compiled as that is. Where the preprocessor
    scales images, a `Rescaling` in front does.
    """
    if not has_preprocessor(model):
        return model
    scaling = scaling_of(model)
    if scaling is None:
        network = keras.Model(model.input, model.output, name=model.name)
    else:
        images = keras.Input(model.input.shape[1:])
        scaled = keras.layers.Rescaling(
            scaling.scale.tolist(), scaling.offset.tolist(), name="preprocessing"
        )(images)
        with without_new_nodes(model):
            made = check_model(model).call(scaled)
            network = keras.Model(images, made, name=model.name)
    compile_alike(network, model)
    return network


class Scaling(NamedTuple):
    """A preprocessor of images as `scale * x + offset`, for each channel.

    Attributes:
        scale: `(C,)`, none of them 0.
        offset: `(C,)`.
    """

    scale: np.ndarray
    offset: np.ndarray


def scaling_of(model: keras.Model) -> Scaling | None:
    """Returns what a preprocessor does to images of the network's size, if it scales.

    Args:
        model: A model with a preprocessor.
    """
    read = model.input
    if not has_graph(model) or not isinstance(read, keras.KerasTensor):
        return None
    if len(read.shape) != 4 or None in read.shape[1:]:
        return None
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (4, *read.shape[1:])).astype("float32")
    try:
        black = _as_arrays(model.preprocess_samples(np.zeros_like(images)))
        made = _as_arrays(model.preprocess_samples(images))
    except Exception:
        # Whatever it is: the code is the user's, and it does not take such images.
        return None
    if np.shape(made) != images.shape or np.shape(black) != images.shape:
        return None
    offset = black[0, 0, 0].astype(float)
    scale = (made - black).std(axis=(0, 1, 2)) / images.std(axis=(0, 1, 2))
    error = np.abs(scale * images + offset - made).max()
    if not scale.all() or error > SCALING_ERROR * np.abs(made).max():
        return None
    return Scaling(scale, offset)


def preprocessed(
    model: keras.Model | None,
    data: Any,
    name: str = "data",
) -> Any:
    """Returns what a model's own `fit` makes of the data; of any other the data.

    Args:
        model: The model.
        data: In any form that `prune` takes. `Batches` have been preprocessed before.
        name: Of the argument, for the errors.
    """
    if data is None or isinstance(data, Batches) or not has_preprocessor(model):
        return data
    data = repeatable(data, name)
    preprocess = Preprocessing(model, name)
    if hasattr(data, "cardinality"):
        return data.map(lambda *batch: preprocess(batch))
    if is_arrays(data):
        return _all_at_once(preprocess, data)
    return PreprocessedBatches(preprocess, data, name)


def tell_of_preprocessor(model: keras.Model) -> None:
    """Warns that a preprocessor, if there is one, is no part of the compact model."""
    if has_preprocessor(model):
        takes = (
            "is the network alone, and takes what the preprocessor gives: "
            "`compact(model.preprocessor(x))`."
        )
        if scaling_of(model) is not None:
            height, width, channels = model.input.shape[1:]
            takes = (
                "has a `Rescaling` in its place: it takes images as the preprocessor "
                f"does, of the size {height} x {width} x {channels}."
            )
        warn_user(
            f"The data go through the preprocessor of '{model.name}', as in its own "
            f"`fit`. The compact model {takes}"
        )


class Preprocessing:
    """Makes of a batch, with labels and weights if it has them, what `fit` does.

    The scaling that is a layer of the network is taken back.

    Args:
        model: A model with a preprocessor.
        name: Of the data, for the errors.
    """

    def __init__(self, model: keras.Model, name: str):
        self._model = model
        self._name = name
        self._scaling = scaling_of(model)

    def __call__(self, batch: Any) -> Any:
        if isinstance(batch, tuple) and len(batch) == 1:
            (batch,) = batch
        x, y, weights = unpacked(batch, self._name)
        made = self._model.preprocess_samples(x, y=y, sample_weight=weights)
        if self._scaling is None:
            return made
        images, y, weights = keras.utils.unpack_x_y_sample_weight(made)
        scale, offset = (part.astype("float32") for part in self._scaling)
        images = (images - offset) / scale
        return keras.utils.pack_x_y_sample_weight(images, y, weights)


class PreprocessedBatches:
    """Batches as a model preprocesses them, each time they are read.

    Args:
        preprocess: What makes the batches.
        data: Batches that can be read again.
        name: Of the argument, for the errors.
    """

    def __init__(self, preprocess: Preprocessing, data: Data, name: str):
        self._preprocess = preprocess
        self._source = Source(data, name)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._source():
            yield _as_arrays(self._preprocess(batch))


def _all_at_once(preprocess: Preprocessing, data: Data) -> Any:
    """Returns whole arrays, preprocessed in parts."""
    examples = len(keras.tree.flatten(data)[0])
    parts = []
    for start in range(0, examples, EXAMPLES_AT_ONCE):
        rows = slice(start, start + EXAMPLES_AT_ONCE)
        part = keras.tree.map_structure(lambda array, rows=rows: array[rows], data)
        parts.append(_as_arrays(preprocess(part)))
    return keras.tree.map_structure(lambda *own: np.concatenate(own), *parts)


def _as_arrays(structure: Any) -> Any:
    return keras.tree.map_structure(to_numpy, structure)
