"""Weights and multiply-accumulates of a call as terms in the widths of the groups."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.multiplications import WITH_KERNELS
from keras_greedy.graph.quadratic import CountRows, Term
from keras_greedy.graph.rules.base import IN, OUT, Axes


class Weight(NamedTuple):
    """A weight of a call.

    Attributes:
        term: Its entries, as a function of the widths.
        entries: How many there are in the whole model.
        multiplies: Whether they are a matrix that the layer multiplies by, with a rule
            that says how it is cut.
    """

    term: Term
    entries: int
    multiplies: bool


def weight_terms(
    graph: ChannelGraph,
    call: Call,
    rows: CountRows,
) -> list[Weight]:
    """Returns the weights of a call; adds the counts that they refer to."""
    counts = _axis_counts(graph, call, rows)
    weights = []
    for name, weight in call.weights.items():
        shape = weight.shape
        has_others = isinstance(call.operation, WITH_KERNELS)
        is_kernel = name.endswith("kernel") or not has_others
        multiplies = call.rule is not None and is_kernel and len(shape) > 1
        term = _term(call, name, shape, counts)
        weights.append(Weight(term, math.prod(shape), multiplies))
    return weights


def work_terms(
    work: float,
    kernels: Sequence[Weight],
    positions: Sequence["AxisCount"] = (),
) -> list[Term]:
    """Returns the multiply-accumulates of a call as terms.

    Args:
        work: Their number in the whole model.
        kernels: What the call multiplies by, and is cut with the channels.
        positions: The axes of its output whose entries are channels that it acts on
            one by one.
    """
    if not work:
        return []
    rows = tuple(count.row for count in positions)
    work /= math.prod(count.full for count in positions)
    if not kernels:
        return [Term(work, rows)]
    # A layer multiplies by the entries of its kernels, so often each.
    often = work / sum(kernel.entries for kernel in kernels)
    terms = []
    for kernel in kernels:
        coefficient = kernel.term.coefficient * often
        terms.append(Term(coefficient, kernel.term.rows + rows))
    return terms


def position_counts(
    graph: ChannelGraph,
    call: Call,
    rows: CountRows,
) -> "list[AxisCount]":
    """Returns the counts of the channels of an output, but for those of a kernel.

    Args:
        graph: The traced model.
        call: The call that makes it.
        rows: To add the counts to.
    """
    counts: list[AxisCount] = []
    # A convolution over the channels works at the places of those cut, too.
    if call.rule is None or call.rule.normalizes:
        return counts
    # A product of tensors has no kernel: it works for each entry that it makes.
    first_of_kernel = call.rule.made_axis if call.weights else 0
    for axis, channels in graph.channels[call.outputs[0]].items():
        if axis < first_of_kernel:
            row = rows.add(channels)
            counts.append(AxisCount(len(channels), row))
    if call.rule.consumes and not call.weights:
        # A product of tensors works for each channel that it sums over, too.
        channels = graph.channels_read(call).ravel()
        counts.append(AxisCount(len(channels), rows.add(channels)))
    return counts


class AxisCount(NamedTuple):
    """The channels that an axis runs over: how many in the whole model, and a row."""

    full: int
    row: int


def output_count(graph: ChannelGraph, call: Call, rows: CountRows) -> Term:
    """Returns the number of the output channels of a call as a term.

    Args:
        graph: The traced model.
        call: A call.
        rows: To add the count to.
    """
    counts = _axis_counts(graph, call, rows)
    if OUT in counts:
        return Term(1.0, (counts[OUT].row,))
    return Term(float(call.outputs[0].shape[-1] or 1))


def _axis_counts(
    graph: ChannelGraph,
    call: Call,
    rows: CountRows,
) -> dict[str, AxisCount]:
    """Returns the counts of the channels going `IN` and `OUT`; none without a rule."""
    if not call.rule:
        return {}
    tensors = {
        IN: (call.inputs[0], call.rule.read_axis),
        OUT: (call.outputs[0], call.rule.made_axis),
    }
    counts = {}
    for axis, (tensor, place) in tensors.items():
        channels = graph.channels[tensor].get(place)
        if channels is None:
            continue
        row = rows.add(channels)
        counts[axis] = AxisCount(len(channels), row)
    return counts


def _term(
    call: Call,
    name: str,
    shape: tuple[int, ...],
    counts: dict[str, AxisCount],
) -> Term:
    """Returns the entries of a weight of this shape as a term."""
    axes: Axes = ()
    if call.rule:
        axes = call.rule.axes_of(name, len(shape))
    cut = [counts[axis] for axis in axes if axis]
    # All entries over those of the axes that are cut: an axis may have several entries
    # for each channel, or, in a grouped convolution, fewer.
    entries_cut = math.prod(count.full for count in cut)
    coefficient = math.prod(shape) / entries_cut
    return Term(coefficient, tuple(count.row for count in cut))
