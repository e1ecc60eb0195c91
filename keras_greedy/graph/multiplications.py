"""Multiply-accumulates of calls, counted where they are made: inside of layers too.

A layer is called on symbolic tensors of one example. The operations that this leaves
behind say by their shapes how much they multiply, and so on for the layers inside it.
"""

import math
from typing import Any, TypeAlias

import keras
from keras import KerasTensor, layers

from keras_greedy.graph.calls import Call, Values, is_reshape, run_calls
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.nodes import calls_behind, without_new_nodes
from keras_greedy.graph.products import RAW, Uncounted, fixed, shapes_of
from keras_greedy.graph.rules.elementwise import DEPTHWISE
from keras_greedy.graph.rules.linear import CONVOLUTIONS, SEPARABLE, TRANSPOSED
from keras_greedy.graph.symbols import first_line, is_symbolic, symbols_take_weights

# Multiply-accumulates, and the symbolic tensors that a call makes.
Followed: TypeAlias = tuple[int, Any]

# The layers whose kernels are applied at each position.
COUNTED = (layers.Dense, *CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE, *SEPARABLE)

# Layers that call another one at each step of a sequence.
STEPWISE = (layers.RNN, layers.Bidirectional, layers.TimeDistributed)

# Cells that multiply by each of their kernels once. With dropout they cannot be called
# on symbolic tensors.
CELLS = (layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell)

# Layers whose kernels, by that name, are all that they multiply by.
WITH_KERNELS = (
    *COUNTED,
    *STEPWISE,
    layers.EinsumDense,
    layers.SpectralNormalization,
)

# Those of Keras' layers without a matrix among their weights that multiply tensors.
MULTIPLYING = (
    layers.Attention,
    layers.Dot,
    layers.Lambda,
    keras.Model,
)


def macs_by_call(graph: ChannelGraph) -> "list[int | Uncounted]":
    """Returns the multiply-accumulates of each call of a graph on one example.

    A model of a fixed batch size makes them of so many examples.

    Returns:
        For each call their number, or the reason why they cannot be counted.
    """
    found: list[int | Uncounted] = []
    values: Values = {}
    for tensor in graph.inputs:
        values[tensor] = _of_one(tensor)

    def apply(call: Call, *args: Any, **kwargs: Any) -> Any:
        try:
            macs, made = _follow(call.operation, args, kwargs)
            found.append(macs)
            flat = keras.tree.flatten(made)
            if len(flat) == len(call.outputs):
                return [_sized(own, call, args) for own in flat]
        except Uncounted as reason:
            found.append(reason)
        return [_of_one(tensor) for tensor in call.outputs]

    run_calls(graph.calls, values, apply)
    return found


def _sized(made: Any, call: Call, args: tuple) -> Any:
    """Returns what a reshape makes of one example, with sizes that it leaves open."""
    if not is_reshape(call.operation) or None not in made.shape:
        return made
    # All but the first, of which the rest of the entries are.
    sizes = fixed(call.outputs[0].shape[1:])
    first = math.prod(fixed(args[0].shape)) // math.prod(sizes)
    return KerasTensor((first, *sizes), made.dtype)


def _of_one(tensor: KerasTensor) -> KerasTensor:
    shape = tensor.shape
    if shape and shape[0] is None:
        shape = (1, *shape[1:])
    return KerasTensor(shape, tensor.dtype)


def _follow(
    operation: keras.Operation,
    args: tuple,
    kwargs: dict[str, Any],
) -> Followed:
    """Returns the multiply-accumulates of one call, and the tensors that it makes.

    Args:
        operation: A layer or a raw operation.
        args: Its arguments, symbolic tensors of fixed sizes among them.
        kwargs: Likewise.

    Raises:
        Uncounted: When the operation cannot be looked into.
    """
    is_layer = isinstance(operation, keras.Layer)
    if is_layer and _is_looked_into(operation):
        return _follow_inside(operation, args, kwargs)
    try:
        with keras.StatelessScope():
            made = operation.compute_output_spec(*args, **kwargs)
    except Exception as error:
        raise Uncounted(f"its output has no shape: {first_line(error)}") from error
    count = RAW.get(type(operation).__name__)
    if isinstance(operation, COUNTED):
        return _macs_of_kernels(operation, args[0], made), made
    if isinstance(operation, layers.Bidirectional):
        own = (operation.forward_layer, operation.backward_layer)
        return sum(_macs_of_steps(layer, args[0]) for layer in own), made
    if isinstance(operation, layers.RNN):
        return _macs_of_steps(operation, args[0]), made
    if isinstance(operation, layers.TimeDistributed):
        _, steps, *rest = fixed(args[0].shape)
        step = KerasTensor((1, *rest), args[0].dtype)
        macs, _ = _follow(operation.layer, (step,), {})
        return steps * macs, made
    if not is_layer and count is not None:
        return count(operation, shapes_of((args, kwargs)), *shapes_of(made)), made
    return 0, made


def _is_looked_into(layer: keras.Layer) -> bool:
    """Returns whether a layer may multiply in a way that only its own calls show."""
    if isinstance(layer, (*COUNTED, *STEPWISE)):
        return False
    if not type(layer).__module__.startswith("keras."):
        return True
    if isinstance(layer, MULTIPLYING):
        return True
    return any(len(weight.shape) > 1 for weight in layer.weights)


def _follow_inside(
    layer: keras.Layer,
    args: tuple,
    kwargs: dict[str, Any],
) -> Followed:
    """Returns the sum over the calls that a layer makes, and its outputs."""
    inputs = [t for t in keras.tree.flatten((args, kwargs)) if is_symbolic(t)]
    total = 0
    # Nothing that the call does to the layer is to last.
    with without_new_nodes(layer), keras.StatelessScope(), symbols_take_weights():
        try:
            outputs = layer.call(*args, **kwargs)
        except Exception as error:
            reason = first_line(error)
            raise Uncounted(
                f"it cannot be called on symbolic tensors: {reason}"
            ) from error
        values: Values = {tensor: tensor for tensor in inputs}

        def apply(call: Call, *args: Any, **kwargs: Any) -> Any:
            nonlocal total
            macs, made = _follow(call.operation, args, kwargs)
            total += macs
            return made

        for output in keras.tree.flatten(outputs):
            if is_symbolic(output):
                run_calls(calls_behind(output, values), values, apply)

    def followed(output: Any) -> Any:
        return values.get(output, output) if is_symbolic(output) else output

    return total, keras.tree.map_structure(followed, outputs)


def _macs_of_kernels(
    layer: keras.Layer,
    read: KerasTensor,
    made: KerasTensor,
) -> int:
    """Returns the multiply-accumulates of kernels that are applied at each position."""
    # A transposed convolution applies its kernel at each position of its input.
    shape = read.shape if isinstance(layer, TRANSPOSED) else made.shape
    is_first = getattr(layer, "data_format", "") == "channels_first"
    positions = shape[2:] if is_first else shape[1:-1]
    # An example may have become several, as the windows of an image.
    count = math.prod(fixed((shape[0], *positions)))
    kernels = [w for w in layer.weights if w.path.endswith("kernel")]
    return count * sum(math.prod(kernel.shape) for kernel in kernels)


def _macs_of_steps(layer: layers.RNN, sequence: KerasTensor) -> int:
    """Returns the multiply-accumulates of a cell, as often as it is called."""
    _, steps, *rest = fixed(sequence.shape)
    if type(layer.cell) in CELLS:
        kernels = (layer.cell.kernel, layer.cell.recurrent_kernel)
        return steps * sum(math.prod(kernel.shape) for kernel in kernels)
    initial = layer.get_initial_state(1)
    states = keras.tree.map_structure(
        lambda state: KerasTensor(state.shape, state.dtype),
        initial,
    )
    step = KerasTensor((1, *rest), sequence.dtype)
    macs, _ = _follow(layer.cell, (step, states), {})
    return steps * macs
