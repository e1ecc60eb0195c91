"""Teaches the compact model to make what the full one makes, layer by layer.

A few images without labels teach little by their answers, a thousand numbers each:
the network learns them by heart, and on other images it gets worse. Their streams are
targets at every position of every block, and what is learned from them holds.

References: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015; Bai et al., Few
Shot Network Compression via Cross Distillation, AAAI 2020; Wang et al., Compressing
Models with Few Samples: Mimicking then Replacing, CVPR 2022.
"""

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import Tensor, compiled
from keras_greedy.batches import Arrays, Batches
from keras_greedy.data_forms import with_tuples
from keras_greedy.graph.fold import folded
from keras_greedy.graph.outputs import Output, outputs_of
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.training.streams import streams_of, tensors_of
from keras_greedy.training.views import Views, has_views

EXAMPLES_MEASURED = 256
"""Those that the variance of each stream is measured on."""

SMALLEST_VARIANCE = 1e-12

WEIGHT_OF_OUTPUTS = 0.2
"""Of their divergence, beside the mean error of the streams."""

LAST_PHASE = 0.75
"""Of the epochs, behind which the outputs count, too, if they have no positions."""


class Student(keras.Model):
    """The compact model in training, giving its streams and its outputs.

    Its layers are called as for inference: BatchNorm normalises by its moving
    statistics, and nothing is dropped. All of their weights can be trained.

    Args:
        compact: The compact model, trained in place.
        full: The model that it was pruned from.
        batches: Some inputs, on which the variances are measured.
        epochs: Of the training.

    Attributes:
        compact: As given.
        functional: The Functional that holds its graph.
    """

    def __init__(
        self,
        compact: keras.Model,
        full: keras.Model,
        batches: Batches,
        epochs: int,
    ):
        super().__init__()
        graph = trace_quietly(compact)
        of_full = folded(trace_quietly(full))
        streams = streams_of(of_full, graph)
        self.compact = compact
        self.functional = graph.functional
        self._outputs = outputs_of(graph)
        wanted = [stream.compact for stream in streams]
        targets = [stream.full for stream in streams]
        self._tensors = tensors_of(graph, [*wanted, *graph.outputs])
        self._targets = tensors_of(of_full, [*targets, *of_full.outputs])
        self._variances = self._measured(batches, len(streams))
        # Without positions outputs are learned by heart: last, and at a low rate.
        has_positions = any(len(tensor.shape) > 2 for tensor in graph.outputs)
        are_alone = has_positions or not streams
        self._first_epoch = 0 if are_alone else int(LAST_PHASE * epochs)
        self._weight = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="weight_of_outputs"
        )

    def call(self, inputs: Any) -> list[Tensor]:
        """Returns the tensors that the full model's are compared with."""
        return self._tensors(keras.tree.flatten(inputs))

    def begin_epoch(self, epoch: int) -> None:
        """Lets the outputs count from some epoch on.

        Args:
            epoch: Of the training, from 0.
        """
        self._weight.assign(WEIGHT_OF_OUTPUTS if epoch >= self._first_epoch else 0.0)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Returns how far the student is from the full model.

        The squared error of a stream is relative to its variance: each counts alike.
        """
        wanted = self._targets(keras.tree.flatten(x))
        wanted = [ops.stop_gradient(tensor) for tensor in wanted]
        pairs = [*zip(wanted, y_pred, strict=True)]
        streams = len(self._variances)
        loss = 0.0
        of_streams = zip(pairs[:streams], self._variances, strict=True)
        for (full, own), variance in of_streams:
            error = ops.cast(full, "float32") - ops.cast(own, "float32")
            loss += ops.mean(ops.square(error)) / (variance * streams)
        for output, (full, own) in zip(self._outputs, pairs[streams:], strict=True):
            if output.kind != "none":
                divergence = ops.mean(output.divergence(full, own))
                loss += self._weight * divergence / _terms(output, own)
        return loss

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves the compact model: what a callback wants to be saved."""
        self.compact.save(*args, **kwargs)

    def _measured(self, batches: Batches, streams: int) -> list[float]:
        """Returns the variance of each stream, the mean over its channels."""
        targets = compiled(self._targets)
        sums = np.zeros(streams)
        seen = 0
        for batch in batches.take(EXAMPLES_MEASURED):
            tensors = targets([ops.convert_to_tensor(x) for x in batch])
            sums += len(batch[0]) * np.array([*map(_variance, tensors[:streams])])
            seen += len(batch[0])
        return [max(float(total) / seen, SMALLEST_VARIANCE) for total in sums]


class Phases(keras.callbacks.Callback):
    """Tells a student which epoch begins."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.begin_epoch(epoch)


def views_of(batches: Batches, student: Student, seed: int = 0) -> Iterator[tuple]:
    """Yields the examples as `fit` takes them, shuffled and seen anew, for ever.

    Args:
        batches: The inputs.
        student: The model to fit.
        seed: Of the order and of the views.
    """
    rng = np.random.default_rng(seed)
    functional = student.functional
    views = Views(rng) if has_views(functional.inputs) else None
    shuffled = batches.shuffled(rng)
    while True:
        for batch in shuffled:
            seen: Arrays = batch if views is None else views.of(batch)
            x = keras.tree.pack_sequence_as(functional.input, seen)
            yield (with_tuples(x),)


def _terms(output: Output, tensor: Tensor) -> Tensor:
    """Returns how many terms the divergence of an example is the sum of."""
    is_over_classes = output.kind in ("categorical", "logits")
    shape = ops.shape(tensor)
    terms = math.prod(shape[1:-1] if is_over_classes else shape[1:])
    return ops.cast(terms, "float32")


def _variance(tensor: Tensor) -> float:
    array = ops.convert_to_numpy(tensor).astype("float32")
    return float(array.reshape(-1, array.shape[-1]).var(axis=0).mean())
