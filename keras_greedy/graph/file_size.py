"""The size of a `.tflite` file, as a function of widths and bits of kernels.

In float32 a weight takes 4 bytes. Of integers a kernel takes 8 or 4 bits a weight, and
there is much beside it: each output channel has a bias of int32 and a scale for the
kernel and one for the bias. There are zero points, too, but files have a vector of them
only once for each length. All files name and describe their tensors and operations,
whatever the widths.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from keras import layers

from keras_greedy.graph.branches import NEVER
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.fold import foldable_norms
from keras_greedy.graph.quadratic import ONE, CountRows, Forms, Term, TermsByCondition
from keras_greedy.graph.terms import output_count, weight_terms

Precision: TypeAlias = tuple[str, ...]
"""Names of the integers that weights may be stored in."""

BITS = 8
"""Of a weight of int8, the most that an integer may have."""

FOUR_BITS = 4
"""The other choice."""

FLOAT_BYTES = 4
BIAS_BYTES = 4
"""Of an entry, in float32 and in int32."""

SCALE_BYTES = 4
ZERO_POINT_BYTES = 8
"""Of a channel of integers, in float32 and int64."""

SAME_LENGTH = 0.5
"""Between whole numbers that may be rounded."""

DESCRIPTION = 130
"""Of the tensors and operations that a call becomes: 120 to 133 bytes for each one of
MobileNetV2, ResNet-50 and ResNet-56."""

INTEGER_KERNEL = 195
"""More, of an operation with a kernel of integers: its scales are described, too. Where
a BatchNorm is folded into it, what is counted for that is as much."""

FUSED = ("linear", "relu", "relu6")
"""Activations that are a part of the operation before; others are one or two more."""

FRAME = 3000
"""Of what each file has beside these, a little more than was found."""

SCOPE = 18
"""Of a name beside those of the model and the layer, as in `_1/batchnorm/add_1`."""

KERNEL_NAMES = 3
NORM_NAMES = 4
DEPTHWISE_NORM_NAMES = 8
OTHER_NAMES = 2
"""How often a call is named: what is folded together has the names of all of it."""


class FileSize:
    """The bytes of a file at some widths of the groups and bits of kernels.

    Args:
        graph: The traced model.
        four_bits: Names of the layers whose kernels have bits to choose, in the order
            of these behind the widths.
        is_integer: Whether weights are integers, not float32.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        four_bits: Sequence[str],
        is_integer: bool,
    ):
        rows = CountRows(graph.groups, len(four_bits))
        bits: dict[str, int] = {}
        if is_integer:
            for number, name in enumerate(four_bits, start=len(graph.groups)):
                bits[name] = rows.add_number(number)
        norms = foldable_norms(graph)
        folded = {norm.index: index for index, norm in norms.items()}
        terms: TermsByCondition = collections.defaultdict(list)
        terms[NEVER].append(Term(float(FRAME)))
        lengths: list[Term] = []
        seen = set()
        for call, condition in zip(graph.calls, graph.branches.conditions, strict=True):
            into = graph.calls[folded[call.index]] if call.index in folded else None
            own = terms[condition]
            own.append(Term(float(DESCRIPTION + _names(graph, call, into))))
            is_folded_into = call.index in norms
            own.append(Term(_more_operations(call, is_integer, is_folded_into)))
            # Shared weights are there once; a BatchNorm that is folded leaves none.
            if into is None and call.weights and call.operation not in seen:
                own.extend(_terms(graph, call, rows, is_integer, bits.get(call.name)))
                if is_integer:
                    lengths.append(output_count(graph, call, rows))
            seen.add(call.operation)
        self._forms = Forms(terms, rows.matrix())
        # (L, G + 1): the lengths of the vectors of zero points, linear in the widths.
        self._lengths = np.zeros((len(lengths), rows.matrix().shape[1]))
        for place, length in enumerate(lengths):
            (row,) = length.rows or (ONE,)
            self._lengths[place] = length.coefficient * rows.matrix()[row]
        self._lengths = np.unique(self._lengths, axis=0)

    def value(self, columns: np.ndarray, is_empty: Mapping[str, Any]) -> Any:
        """Returns the bytes, as `Forms.value`.

        Args:
            columns: `(G + 1, ...)` the widths and bits, and a 1 behind.
            is_empty: As for `Forms.value`.
        """
        total = self._forms.value(columns, is_empty)
        if not len(self._lengths):
            return total
        # (L, ...): equal lengths side by side, of which the first one counts.
        lengths = np.sort(np.tensordot(self._lengths, columns, axes=1), axis=0)
        is_new = np.diff(lengths, axis=0, prepend=0.0) > SAME_LENGTH
        return total + ZERO_POINT_BYTES * (lengths * is_new).sum(axis=0)


def _terms(
    graph: ChannelGraph,
    call: Call,
    rows: CountRows,
    is_integer: bool,
    bits: int | None,
) -> Iterator[Term]:
    """Yields the bytes of the weights of a call, with those of its bias.

    Args:
        graph: The traced model.
        call: The call.
        rows: To add counts to.
        is_integer: Whether the file is of integers.
        bits: The row of the bits of its kernel, if there is a choice.
    """
    weights = weight_terms(graph, call, rows)
    kernels = [weight.term for weight in weights if weight.multiplies]
    each = 1 if is_integer else FLOAT_BYTES
    for kernel in kernels:
        coefficient = each * kernel.coefficient
        if bits is None:
            yield Term(coefficient, kernel.rows)
        else:
            yield Term(coefficient / BITS, (*kernel.rows, bits))
    if not kernels:
        for weight in weights:
            yield Term(each * weight.term.coefficient, weight.term.rows)
        return
    # The file has a bias wherever there is a kernel.
    of_channel = BIAS_BYTES
    if is_integer:
        of_channel += 2 * SCALE_BYTES
    outputs = output_count(graph, call, rows)
    yield Term(len(kernels) * of_channel * outputs.coefficient, outputs.rows)


def _more_operations(call: Call, is_integer: bool, has_norm: bool) -> float:
    """Returns the bytes that describe what a call becomes beside one operation.

    Args:
        call: The call.
        is_integer: Whether the file is of integers.
        has_norm: Whether a BatchNorm is folded into it.
    """
    kernels = sum(name.endswith("kernel") for name in call.weights)
    total = max(kernels - 1, 0) * (
        DESCRIPTION + KERNEL_NAMES * (len(call.name) + SCOPE)
    )
    if is_integer and not has_norm:
        total += kernels * INTEGER_KERNEL
    activation = getattr(call.operation, "activation", None)
    name = getattr(activation, "__name__", "linear")
    if name not in FUSED:
        total += 2 * DESCRIPTION
    return float(total)


def _names(graph: ChannelGraph, call: Call, into: Call | None) -> int:
    """Returns the length of the names that a call leaves in the file."""
    times = OTHER_NAMES
    if into is not None:
        is_depthwise = isinstance(into.operation, layers.DepthwiseConv2D)
        times = DEPTHWISE_NORM_NAMES if is_depthwise else NORM_NAMES
    elif call.weights:
        times = KERNEL_NAMES
    return times * (len(graph.model.name) + len(call.name) + SCOPE)
