"""The outputs of a model, computed on all devices.

Keras' own `predict_on_batch` gives every replica of a strategy the whole batch, and
returns as many answers for each example; on JAX it takes no batch that the devices
cannot share equally.
"""

from collections.abc import Callable

import keras

from keras_greedy.backend import Tensor, compiled_over
from keras_greedy.batch_arrays import Arrays
from keras_greedy.devices import gathered, split
from keras_greedy.graph.model_kinds import check_model


def answering(model: keras.Model) -> Callable[[Arrays], list[Tensor]]:
    """Returns a function of a batch that gives the outputs of a model as it is then.

    Args:
        model: A model; its weights may change between two batches.
    """
    functional = check_model(model)

    def answers(inputs: list[Tensor]) -> list[Tensor]:
        x = keras.tree.pack_sequence_as(functional.input, inputs)
        return keras.tree.flatten(functional(x, training=False))

    on_devices = compiled_over(functional.variables, answers)
    return lambda batch: gathered(on_devices(split(batch)))
