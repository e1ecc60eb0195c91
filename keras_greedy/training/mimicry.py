"""Teaches the compact model to make what the full one makes, layer by layer.

A few images without labels teach little by their answers, a thousand numbers each:
the network learns them by heart, and on other images it gets worse. Their streams are
targets at every position of every block, and what is learned from them holds.

References: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015; Bai et al., Few
Shot Network Compression via Cross Distillation, AAAI 2020; Wang et al., Compressing
Models with Few Samples: Mimicking then Replacing, CVPR 2022.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import KerasTensor, ops

from keras_greedy.backend import Tensor, compiled
from keras_greedy.batches import Arrays, Batches
from keras_greedy.data_forms import with_tuples
from keras_greedy.devices import gathered, share_of_loss, split
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.fold import folded
from keras_greedy.graph.outputs import Output, outputs_of
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.training.amounts import layers_to_freeze
from keras_greedy.training.streams import Stream, streams_of, tensors_of
from keras_greedy.training.views import Views, has_views, shrunk_size

EXAMPLES_MEASURED = 256
"""Those that the variance of each stream is measured on."""

SMALLEST_VARIANCE = 1e-12

WEIGHT_OF_OUTPUTS = 0.2
"""Of their divergence, beside the mean error of the streams."""


class Student(keras.Model):
    """The compact model in training, giving its streams.

    Outputs are taught, too, where they have positions, as of a segmentation, or where
    there are more examples than weights behind the streams. The layers are called as
    for inference: BatchNorm normalises by its moving statistics, nothing is dropped.

    Args:
        compact: The compact model, trained in place.
        full: The model that it was pruned from.
        batches: Inputs, on some of which the variances are measured.

    Attributes:
        compact: As given.
        functional: The Functional that holds its graph.
        frozen: The layers that are to keep their weights, from `layers_to_freeze`.
    """

    def __init__(self, compact: keras.Model, full: keras.Model, batches: Batches):
        super().__init__()
        graph = trace_quietly(compact)
        of_full = folded(trace_quietly(full))
        streams = streams_of(of_full, graph)
        answers = answers_of(of_full, graph)
        examples = batches.examples()
        if streams and _are_learned_by_heart(graph, streams, answers, examples):
            answers = [answer for answer in answers if answer.has_positions]
        taught: list[Stream | Answer] = [*streams, *answers]
        wanted = [each.compact for each in taught]
        targets = [each.full for each in taught]
        self.compact = compact
        self.functional = graph.functional
        self.frozen = layers_to_freeze(graph, wanted, examples if streams else math.inf)
        self._answers = answers
        self._tensors = tensors_of(graph, wanted)
        self._targets = tensors_of(of_full, targets)
        self._variances = self._measured(batches, len(streams))

    def call(self, inputs: Any) -> list[Tensor]:
        """Returns the tensors that the full model's are compared with."""
        return self._tensors(keras.tree.flatten(inputs))

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
        of_answers = zip(pairs[streams:], self._answers, strict=True)
        for (full, own), answer in of_answers:
            loss += WEIGHT_OF_OUTPUTS * answer.divergence(full, own)
        return share_of_loss(loss)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves the compact model: what a callback wants to be saved."""
        self.compact.save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Saves the weights of the compact model."""
        self.compact.save_weights(*args, **kwargs)

    @contextlib.contextmanager
    def freezing(self) -> Iterator[None]:
        """Makes the weights of the frozen layers not trainable for a time."""
        # Not the layers: one of several may have been frozen by the user inside it.
        frozen = [weight for layer in self.frozen for weight in layer.trainable_weights]
        for weight in frozen:
            weight.trainable = False
        try:
            yield
        finally:
            for weight in frozen:
                weight.trainable = True

    def _measured(self, batches: Batches, streams: int) -> list[float]:
        """Returns the variance of each stream, the mean over its channels."""
        targets = compiled(self._targets)
        sums = np.zeros(streams)
        seen = 0
        for batch in batches.take(EXAMPLES_MEASURED) if streams else ():
            tensors = gathered(targets(split(batch)))
            sums += len(batch[0]) * np.array([*map(_variance, tensors[:streams])])
            seen += len(batch[0])
        return [max(float(total) / seen, SMALLEST_VARIANCE) for total in sums]


class Answer(NamedTuple):
    """An output of the full model, and the one in its place in the compact model.

    Attributes:
        output: Its kind.
        full: `(n, ...)`.
        compact: Of the same shape.
    """

    output: Output
    full: KerasTensor
    compact: KerasTensor

    @property
    def has_positions(self) -> bool:
        """Whether there is more of it than one vector for each example."""
        return len(self.full.shape) > 2

    def divergence(self, full: Tensor, compact: Tensor) -> Tensor:
        """Returns the mean divergence of a position, or of a number of a real output.

        Args:
            full: The answers of the full model.
            compact: Those of the compact one.
        """
        is_over_classes = self.output.kind in ("categorical", "logits")
        shape = ops.shape(compact)
        terms = math.prod(shape[1:-1] if is_over_classes else shape[1:])
        divergence = ops.mean(self.output.divergence(full, compact))
        return divergence / ops.cast(terms, "float32")


def answers_of(full: ChannelGraph, compact: ChannelGraph) -> list[Answer]:
    """Returns the outputs that have a derivative.

    Args:
        full: The graph of the full model.
        compact: That of the compact one.
    """
    answers = []
    tensors = zip(full.outputs, compact.outputs, strict=True)
    for output, pair in zip(outputs_of(compact), tensors, strict=True):
        if output.kind != "none":
            answers.append(Answer(output, *pair))
    return answers


def _are_learned_by_heart(
    graph: ChannelGraph,
    streams: Sequence[Stream],
    answers: Sequence[Answer],
    examples: int,
) -> bool:
    """Returns whether a layer that only the answers teach has too few examples."""
    tensors = [stream.compact for stream in streams]
    behind = layers_to_freeze(graph, tensors, math.inf)
    tensors += [answer.compact for answer in answers]
    frozen = layers_to_freeze(graph, tensors, examples)
    return any(layer in frozen for layer in behind)


def views_of(batches: Batches, student: Student, seed: int = 0) -> Iterator[tuple]:
    """Yields the examples as `fit` takes them, shuffled and seen anew, for ever.

    Args:
        batches: The inputs.
        student: The model to fit.
        seed: Of the order and of the views.
    """
    rng = np.random.default_rng(seed)
    functional = student.functional
    views = None
    if has_views(functional.inputs):
        views = Views(rng, size_of_views(student))
    shuffled = batches.shuffled(rng)
    while True:
        for batch in shuffled:
            seen: Arrays = batch if views is None else views.of(batch)
            x = keras.tree.pack_sequence_as(functional.input, seen)
            yield (with_tuples(x),)


def size_of_views(student: Student) -> tuple[int, int] | None:
    """Returns the height and width of smaller views, if the student can see them.

    Args:
        student: Of images.
    """
    inputs = student.functional.inputs
    size = shrunk_size(inputs)
    if size is None:
        return None
    view = ops.zeros((1, *size, inputs[0].shape[-1]), inputs[0].dtype)
    try:
        seen = student(view)
        student.compute_loss(view, y_pred=seen)
    except Exception:
        # Each backend and layer has errors of its own, as where a Dense behind a
        # Flatten needs all positions.
        return None
    # A pooling of a fixed size may leave no position.
    return size if all(math.prod(tensor.shape) for tensor in seen) else None


def _variance(tensor: Tensor) -> float:
    array = ops.convert_to_numpy(tensor).astype("float32")
    return float(array.reshape(-1, array.shape[-1]).var(axis=0).mean())
