"""Multiply-accumulates and parameters, of a model or of hypothetical widths."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

from keras_greedy.graph.branches import ALWAYS, Condition, both, holds
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph, Reasons
from keras_greedy.graph.file_size import BITS, FileSize, Precision
from keras_greedy.graph.multiplications import COUNTED, WITH_KERNELS, macs_by_call
from keras_greedy.graph.products import Uncounted
from keras_greedy.graph.quadratic import CountRows, Forms, TermsByCondition
from keras_greedy.graph.rules.probed import ProbedRule, ReadingRule
from keras_greedy.graph.terms import position_counts, weight_terms, work_terms
from keras_greedy.graph.trace import trace_quietly
from tflite_export.checks import shown
from tflite_export.user_warnings import warn_user

# Group name -> width, or an array of widths to try.
Widths: TypeAlias = Mapping[str, Any]
# An int, or an array where a width is an array.
Cost: TypeAlias = Any


def macs(model: keras.Model) -> int:
    """Returns the multiply-accumulates of one input through `model`.

    All products of tensors count, wherever they are: in models and layers inside the
    model, at each step of a recurrent layer, in attention. As is usual, per-channel
    work does not. One warning names the layers that cannot be looked into, as those
    written in operations of a backend.

    Args:
        model: A built Functional or Sequential model with a fixed input size.

    Returns:
        The number of multiply-accumulates.

    Raises:
        ValueError: When `model` has no graph, or no fixed input size.

    Example:

    ```python
    import keras

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, padding="same"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    # At 8 x 8 positions a kernel of 3 x 3 x 3 x 4, then a matrix of 4 x 2.
    assert keras_greedy.macs(model) == 8 * 8 * 3 * 3 * 3 * 4 + 4 * 2
    ```
    """
    costs = Costs(trace_quietly(model))
    warn_of_uncounted(costs)
    return costs.macs()


def warn_of_uncounted(costs: "Costs") -> None:
    """Warns of the layers whose MACs could not be counted, if there are any."""
    if costs.uncounted:
        lines = [f"  {name}: {reason}" for name, reason in costs.uncounted]
        listed = "\n".join(dict.fromkeys(lines))
        warn_user(
            UserWarning(
                "The multiply-accumulates of these layers are not counted, so that all "
                f"shares of them are of the others:\n{listed}"
            )
        )


def count_params(model: keras.Model) -> int:
    """Returns the number of parameters of `model`, as Keras counts them.

    Args:
        model: A built model.

    Raises:
        ValueError: When `model` is none.

    Example:

    ```python
    import keras

    import keras_greedy

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    assert keras_greedy.count_params(model) == 4 * 3 + 3
    ```
    """
    if not hasattr(model, "count_params"):
        raise ValueError(
            f"Expected `model` to be a keras.Model. Received: model={shown(model)}"
        )
    return model.count_params()


class Costs:
    """MACs and parameters as functions of the widths of a graph's groups.

    Args:
        graph: The traced model.
        new_biases: Calls of layers that get a bias as soon as a group that they read is
            cut.
        four_bits: Names of the layers whose kernels may be stored in 4 bits.

    Attributes:
        bits: What stands for the bits of a kernel among the widths -> the layer's name.
        uncounted: `(layer name, reason)` of each layer whose MACs cannot be counted.
        branches: Those of the graph, which cost nothing when they have gone.
        entries: Group name -> `ChannelGroup.entries`.

    Raises:
        ValueError: When the model has no fixed input size.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        new_biases: Sequence[Call] = (),
        four_bits: Sequence[str] = (),
    ):
        self._graph = graph
        self.bits = {f"bits of {name}": name for name in four_bits}
        self._files: dict[bool, FileSize] = {}
        self._sizes: dict[str, float] = {}
        for group in graph.groups:
            self._sizes[group.name] = float(group.size)
        self.uncounted: Reasons = []
        self.branches = graph.branches
        self.entries = {group.name: group.entries for group in graph.groups}
        rows = CountRows(graph.groups)
        mac_terms: TermsByCondition = collections.defaultdict(list)
        param_terms: TermsByCondition = collections.defaultdict(list)
        goes = _conditions_of_operations(graph)
        seen: set[keras.Operation] = set()
        examples = graph.inputs[0].shape[0] or 1
        for call, work in zip(graph.calls, macs_by_call(graph), strict=True):
            weights = weight_terms(graph, call, rows)
            # Shared weights are there once, but work at every call.
            if call.operation not in seen:
                own = param_terms[goes[call.operation]]
                own.extend(weight.term for weight in weights)
            seen.add(call.operation)
            kernels = [weight for weight in weights if weight.multiplies]
            if not isinstance(work, Uncounted):
                own = mac_terms[self.branches.conditions[call.index]]
                positions = position_counts(graph, call, rows)
                own += work_terms(work / examples, kernels, positions)
                continue
            _check_counted(graph, rows, call, work)
            is_known = call.rule and not isinstance(call.rule, ProbedRule | ReadingRule)
            if kernels or not is_known:
                self.uncounted.append((call.name, str(work)))
        self._new_biases: list[_NewBias] = []
        for call in new_biases:
            outputs = rows.add(_entries_of_bias(graph, call))
            read = rows.groups_of(graph.channels_read(call).ravel())
            self._new_biases.append(_NewBias(outputs, read, goes[call.operation]))
        self._counts = rows.matrix()
        self._macs = Forms(mac_terms, self._counts)
        self._params = Forms(param_terms, self._counts)

    def macs(self, widths: Widths | None = None) -> Cost:
        """Returns the MACs when the named groups have these widths, the others all.

        Args:
            widths: Group name -> width, or an array of widths to try.

        Returns:
            An int, or an array when a width is one.
        """
        return self._total(self._macs, widths or {})

    def params(self, widths: Widths | None = None) -> Cost:
        """Returns the parameters, as `macs`.

        Args:
            widths: Group name -> width, or an array of widths to try.

        Returns:
            An int, or an array when a width is one.
        """
        return self._total(self._params, widths or {}, self._new_biases)

    def file_bytes(
        self,
        widths: Widths | None = None,
        precision: Precision | None = None,
    ) -> Cost:
        """Returns the size of the `.tflite` file.

        Args:
            widths: Group name -> width, and names of `bits` -> 4 or 8, or arrays of
                such to try.
            precision: The integers that weights are stored in; `None` for float32.

        Returns:
            An int, or an array when a width is one.
        """
        is_integer = precision is not None
        sizes = self._sizes | dict.fromkeys(self.bits, BITS)
        if is_integer not in self._files:
            layers = [*self.bits.values()]
            self._files[is_integer] = FileSize(self._graph, layers, is_integer)
        return self._total(self._files[is_integer], widths or {}, sizes=sizes)

    def _total(
        self,
        forms: Forms | FileSize,
        widths: Widths,
        new_biases: Sequence["_NewBias"] = (),
        sizes: Mapping[str, float] | None = None,
    ) -> Cost:
        sizes = self._sizes if sizes is None else sizes
        chosen = []
        for name, size in sizes.items():
            chosen.append(widths.get(name, size))
        # (G + 1, ...): the widths of the G groups, and 1 for the constants. Arrays of
        # widths to try add their axes behind.
        columns = np.array(np.broadcast_arrays(*chosen, 1.0))
        is_empty = {}
        for column, name in zip(columns, sizes, strict=False):
            if name in self.branches.ends and not column.all():
                is_empty[name] = column == 0
        total = forms.value(columns, is_empty)
        full = [*sizes.values()]
        for bias in new_biases:
            is_made = False
            for group in bias.groups:
                is_made = is_made | (columns[group] < full[group])
            is_made = is_made & np.logical_not(holds(bias.goes, is_empty))
            outputs = np.tensordot(self._counts[bias.outputs], columns, axes=1)
            total = total + outputs * is_made
        # Costs are whole numbers; a group's share of a count need not be.
        if np.ndim(total) > 0:
            return np.rint(total)
        return round(float(total))


def _conditions_of_operations(
    graph: ChannelGraph,
) -> dict[keras.Operation, Condition]:
    """Returns what each operation takes to go: that all of its calls do."""
    goes: dict[keras.Operation, Condition] = {}
    for call, condition in zip(graph.calls, graph.branches.conditions, strict=True):
        goes[call.operation] = both(goes.get(call.operation, ALWAYS), condition)
    return goes


def _entries_of_bias(graph: ChannelGraph, call: Call) -> np.ndarray:
    """Returns the channel number of each entry of a bias, of all that a call makes."""
    axis = call.rule.made_axis if call.rule else -1
    ids = graph.channels[call.outputs[0]][axis]
    return np.repeat(ids, call.entries_made)


class _NewBias(NamedTuple):
    """A bias that a layer gets when it is to make up for lost channels.

    Attributes:
        outputs: The row of the counts that is its length.
        groups: The numbers of the groups that the layer reads.
        goes: What the layer takes to go.
    """

    outputs: int
    groups: list[int]
    goes: Condition


def _check_counted(
    graph: ChannelGraph,
    rows: CountRows,
    call: Call,
    reason: Uncounted,
) -> None:
    """Raises a ValueError where only a size is missing that a model can be given."""
    touched = [*call.inputs[:1], *call.outputs]
    is_cut = any(rows.groups_of(graph.channels_of(tensor)) for tensor in touched)
    lacks_size = is_cut and None in call.inputs[0].shape[1:]
    is_missing = lacks_size and isinstance(call.operation, WITH_KERNELS)
    if is_missing or isinstance(call.operation, COUNTED):
        raise ValueError(
            "Expected `model` to have a fixed input size, so that its MACs can be "
            "counted: build it with `keras.Input((height, width, channels))`. "
            f"Received: layer '{call.name}' on a tensor of shape "
            f"{call.inputs[0].shape}"
        ) from reason
