"""Rules of products of tensors: attention, and layers of an Einstein sum.

An axis has a letter in each. Channels along a letter that comes out are followed; where
two tensors have it, their channels are one. The heads of an attention are channels, of
as many features as a head is wide.
"""

import string
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from keras_greedy.graph.calls import Call, one_by_one
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.rules.base import IN, OUT, Rule, Unprunable, pin_mixed
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ByAxis, ChannelSpace

HEADS = -2
"""The axis of the heads in `(batch, positions, heads, size of a head)`."""


class ContractionRule(Rule):
    """Follows the channels through a product that sums over some axes.

    The channels that it sums over are one in both tensors, and read: one that is 0 in
    the first adds nothing.
    """

    takes_several = True

    def of_call(self, call: Call) -> Rule:
        # Of its own, as it may read channels or not.
        return type(self)()

    def letters(self, call: Call) -> tuple[list[str], str]:
        """Returns a letter for each axis of each input, and for those of the output.

        Raises:
            Unprunable: When they are not known.
        """
        raise NotImplementedError

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        tensors = call.channel_inputs
        of_inputs, of_output = self.letters(call)
        if len(tensors) != len(of_inputs):
            raise Unprunable("it multiplies the channels by a constant")
        of_letter: dict[str, np.ndarray] = {}
        for letters, by_axis in zip(of_inputs, channels, strict=True):
            for axis, ids in by_axis.items():
                letter = letters[axis]
                others = _sizes_of(letter, tensors, of_inputs)
                if letter not in of_output:
                    continue
                if others != {len(ids)}:
                    space.pin(ids, call.name, "its channels are broadcast")
                else:
                    space.unify(of_letter.setdefault(letter, ids), ids)
        self._sum(call, of_inputs, of_output, channels, space)
        _pin_shared(call, tensors, of_inputs, channels, space)
        return [_of_output(call.outputs[0], of_output, of_letter, space)]

    def _sum(
        self,
        call: Call,
        of_inputs: Sequence[str],
        of_output: str,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> None:
        """Declares the channels read that are summed over, or forbids cutting them."""
        summed: dict[str, list[np.ndarray]] = {}
        for letters, by_axis in zip(of_inputs, channels, strict=True):
            for axis, ids in by_axis.items():
                if letters[axis] not in of_output:
                    summed.setdefault(letters[axis], []).append(ids)
        for letter, of_tensors in summed.items():
            is_read = letter == of_inputs[0][-1] and len(of_tensors) == 2
            if is_read and call.inputs[0] is one_by_one(call.args)[0]:
                space.unify(*of_tensors)
                self.consumes = True
                continue
            for ids in of_tensors:
                space.pin(ids, call.name, "it sums over products of the channels")


def _sizes_of(
    letter: str,
    tensors: Sequence[KerasTensor],
    of_inputs: Sequence[str],
) -> set[int | None]:
    """Returns the sizes of all axes of the inputs that have a letter."""
    sizes = set()
    for tensor, letters in zip(tensors, of_inputs, strict=True):
        for own, size in zip(letters, tensor.shape, strict=True):
            if own == letter:
                sizes.add(size)
    return sizes


def _pin_shared(
    call: Call,
    tensors: Sequence[KerasTensor],
    of_inputs: Sequence[str],
    channels: Sequence[ByAxis],
    space: ChannelSpace,
) -> None:
    """Forbids cutting channels that meet positions of another input."""
    for letters, by_axis in zip(of_inputs, channels, strict=True):
        for axis, ids in by_axis.items():
            for others, other_axes in zip(of_inputs, channels, strict=True):
                place = others.find(letters[axis]) - len(others)
                if letters[axis] in others and place not in other_axes:
                    space.pin(ids, call.name, "its channels meet positions")


def _of_output(
    made: KerasTensor,
    letters: str,
    of_letter: Mapping[str, np.ndarray],
    space: ChannelSpace,
) -> ByAxis:
    """Returns the channels on the axes of an output."""
    by_axis = {}
    for place, letter in enumerate(letters):
        if letter in of_letter:
            by_axis[place - len(letters)] = of_letter[letter]
    if -1 not in by_axis:
        by_axis[-1] = space.fixed(made.shape[-1] or 1)
    return by_axis


@register_rule(ops.einsum)
class EinsumRule(ContractionRule):
    """An Einstein sum of tensors."""

    def letters(self, call: Call) -> tuple[list[str], str]:
        subscripts = call.operation.subscripts.replace(" ", "")
        if "->" not in subscripts or "..." in subscripts:
            raise Unprunable(f"its subscripts {subscripts} do not name all axes")
        read, made = subscripts.split("->")
        of_inputs = read.split(",")
        if any(len(set(letters)) < len(letters) for letters in of_inputs):
            raise Unprunable(f"it takes a diagonal, {subscripts}")
        return of_inputs, made


@register_rule(ops.matmul)
class MatmulRule(ContractionRule):
    """Products of matrices, the last two axes."""

    def letters(self, call: Call) -> tuple[list[str], str]:
        ranks = [len(tensor.shape) for tensor in call.channel_inputs]
        if len(ranks) != 2 or ranks[0] != ranks[1] or ranks[0] < 3:
            raise Unprunable(f"it multiplies tensors of the ranks {ranks}")
        around = string.ascii_lowercase[: ranks[0] - 2]
        row, summed, column = ("R", "S", "C")
        return [around + row + summed, around + summed + column], around + row + column


@register_rule(layers.Dot)
class DotRule(ContractionRule):
    """Products of the examples of two tensors, along one axis of each."""

    def letters(self, call: Call) -> tuple[list[str], str]:
        if call.operation.normalize:
            raise Unprunable("it divides by the norm")
        axes = call.operation.axes
        first, second = (axes, axes) if isinstance(axes, int) else axes
        left, right = call.channel_inputs
        own = list(string.ascii_lowercase[: len(left.shape)])
        other = list(string.ascii_uppercase[: len(right.shape)])
        other[0] = own[0]
        other[second] = own[first]
        made = [letter for letter in own if letter != own[first]]
        made += [letter for letter in other[1:] if letter != own[first]]
        return ["".join(own), "".join(other)], "".join(made)


@register_rule(ops.dot_product_attention)
class AttentionRule(Rule):
    """Each head of the queries, keys and values attends by itself."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        query, key, value = operands(call)
        for name in ("mask", "bias"):
            given = call.kwargs.get(name)
            if given is not None and given.shape[-3] != 1:
                raise Unprunable(f"it has a {name} for each head")
        by_tensor = dict(zip(call.channel_inputs, channels, strict=True))
        of_heads = []
        for tensor in (query, key, value):
            by_axis = by_tensor[tensor]
            of_heads.append(by_axis.get(HEADS))
            if tensor is not value:
                reason = "the features of queries and keys are multiplied"
                space.pin(by_axis[-1], call.name, reason)
        made = {-1: by_tensor[value][-1]}
        if any(ids is None for ids in of_heads):
            for ids in of_heads:
                if ids is not None:
                    space.pin(ids, call.name, "not all that it attends to has heads")
            return [made]
        first, *rest = of_heads
        for ids in rest:
            space.unify(first, ids)
        return [made | {HEADS: first}]


def operands(call: Call) -> list[KerasTensor]:
    """Returns the queries, keys and values of an attention."""
    given = dict(zip(("query", "key", "value"), call.args, strict=False)) | call.kwargs
    return [given[name] for name in ("query", "key", "value")]


@register_rule(layers.EinsumDense)
class EinsumDenseRule(Rule):
    """A matrix from the last axes of the input to the last ones of the output.

    Where it makes several axes, or reads several, the first of them has the channels:
    those are heads, and the others what belongs to a head.

    Args:
        read: Letters of the axes that it sums over.
        made: Letters of the axes that it makes.
        kernel: Letters of the axes of its kernel.
    """

    produces = True
    consumes = True

    def __init__(self, read: str = "", made: str = "", kernel: str = ""):
        self.read = read
        self.made = made
        self.read_axis = -len(read)
        self.made_axis = -len(made)
        self.kernel = kernel
        roles = {read[:1]: IN, made[:1]: OUT}
        self.weight_axes = {
            "kernel": tuple(roles.get(letter) for letter in kernel),
            "bias": tuple(roles.get(letter) for letter in made),
        }

    def specialised(self, operation: keras.Operation) -> Rule:
        given, made = operation.equation.replace(" ", "").split("->")
        read, kernel = given.split(",")
        summed = "".join(letter for letter in read if letter not in [*made, "."])
        new = "".join(letter for letter in made if letter not in [*read, "."])
        is_matrix = read.endswith(summed) and made.endswith(new)
        if not (is_matrix and summed and new and {*kernel} == {*summed, *new}):
            return _Whole(f"its equation {operation.equation} is no matrix")
        return EinsumDenseRule(summed, new, kernel)

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        (read,) = channels
        if self.read_axis not in read:
            raise Unprunable("it reads an axis without channels")
        made = {}
        for axis, ids in read.items():
            if axis < self.read_axis:
                made[axis - self.read_axis + self.made_axis] = ids
            elif axis != self.read_axis:
                space.pin(ids, None, "it is the size of a head")
        sizes = call.outputs[0].shape
        for axis in range(self.made_axis + 1, 0):
            made[axis] = space.fixed(sizes[axis])
        made[self.made_axis] = space.fresh(sizes[self.made_axis])
        pin_mixed(call, made[self.made_axis], space)
        return [made]

    def changes(self, call: Call, kept: Kept) -> dict[str, Any]:
        sizes = keras.tree.flatten(call.operation.get_config()["output_shape"])
        return {"output_shape": kept.shape(call.outputs[0])[-len(sizes) :]}

    def with_bias(self, call: Call) -> dict[str, Any]:
        return {"bias_axes": self.made}


class _Whole(Rule):
    """The rule of a layer that keeps all channels it touches.

    Args:
        reason: Why it does.
    """

    def __init__(self, reason: str):
        self._reason = reason

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        raise Unprunable(self._reason)
