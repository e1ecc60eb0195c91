"""A Keras model as a graph of channels: which ones live and die together.

Every position of every tensor's last axis carries the number of a channel.
Layers that make channels draw fresh numbers, layers that act per channel pass
them on, and joins declare numbers equal. What is left in the end are classes of
positions that can only be removed together.

This is the one module that touches Keras' private node API.
"""

import inspect
import sys
import warnings

import keras
from keras.src.models.functional import Functional

from keras_greedy.graph.carry import Carrier
from keras_greedy.graph.channels import Call, ChannelGraph
from keras_greedy.graph.groups import find_groups
from keras_greedy.graph.rules import rule_for


def trace(model: keras.Model) -> ChannelGraph:
    """Finds which channels of a model must be cut together.

    Layers without a rule keep all channels they touch; one warning lists them.

    Args:
        model: A built Functional or Sequential model, channels last. The layers of
            such models inside it are traced too, a group's name then begins with
            that model's: `"backbone/conv1"`.

    Returns:
        The `ChannelGraph`.

    Raises:
        ValueError: When `model` is of another kind, not built, or has a layer that
            cannot be made anew from its config.

    Example:

    ```python
    model = keras.applications.MobileNetV2(weights=None)
    for group in keras_greedy.trace(model).groups:
        print(group.name, group.size)
    ```
    """
    graph = trace_quietly(model)
    for call in graph.calls:
        _check_has_config(call.operation)
    if graph.unprunable:
        lines = "\n".join(f"  {name}: {reason}" for name, reason in graph.unprunable)
        warnings.warn(
            f"Some channels of model '{model.name}' stay unpruned because of "
            f"these layers:\n{lines}",
            stacklevel=2,
        )
    return graph


def trace_quietly(model: keras.Model) -> ChannelGraph:
    """`trace` without its warning, for copies of a model traced before."""
    functional = check_model(model)
    layout = Layout(functional)
    carrier = Carrier(functional.inputs)
    for call in layout.calls:
        carrier.carry(call)
    for one, other in layout.shared_inputs:
        carrier.tie(one, other)
    channels, pins = carrier.finish(layout.outputs)
    groups, unprunable = find_groups(carrier.calls, channels, pins)
    return ChannelGraph(
        model=model,
        functional=functional,
        calls=carrier.calls,
        outputs=layout.outputs,
        stand_ins=layout.stand_ins,
        channels=channels,
        groups=groups,
        unprunable=unprunable,
    )


def check_model(model) -> Functional:
    """Returns the built Functional that backs `model`, or raises."""
    if has_graph(model):
        return model._functional if isinstance(model, keras.Sequential) else model
    if isinstance(model, keras.Sequential) and _calls_as(model, keras.Sequential):
        raise ValueError(
            "Expected `model` to be built: call `model.build(input_shape)` or "
            f"start it with `keras.Input`. Received: model={model!r}"
        )
    raise ValueError(
        "Expected `model` to be a Functional or Sequential keras.Model without a "
        "`call` of its own (there is no graph to trace in one: express it with "
        f"`keras.Model(inputs, outputs)`). Received: model={model!r} "
        f"of type {type(model).__name__}"
    )


def has_graph(model) -> bool:
    """Whether `model` is a model that computes what its graph of layers says."""
    if isinstance(model, keras.Sequential):
        return model._functional is not None and _calls_as(model, keras.Sequential)
    return isinstance(model, Functional) and _calls_as(model, Functional)


def _calls_as(model, base: type) -> bool:
    return type(model).call is base.call


def own_calls(functional) -> list[Call]:
    """The calls of a model's graph, one of a model inside it being a single one."""
    return [
        _call(i, node.operation.name, node.operation, *_arguments(node), node.outputs)
        for i, node in enumerate(_nodes(functional))
    ]


class Layout:
    """All calls of a model, those of the models inside it among them.

    A model inside gets fresh symbolic tensors, as it may be called several times.

    Attributes:
        calls: In topological order.
        outputs: What the model returns, as the calls make it.
        stand_ins: As of `ChannelGraph`.
        shared_inputs: Pairs of tensors that are the same input of a model inside, at
            different times.
    """

    def __init__(self, functional):
        self.calls: list[Call] = []
        self.stand_ins: dict[keras.KerasTensor, keras.KerasTensor] = {}
        self.shared_inputs: list[tuple] = []
        self._names: dict[keras.Operation, str] = {}
        self.outputs = self._add(functional, functional.inputs, (), None)

    def _add(self, functional, inputs, path, training) -> list:
        """Adds a model's calls; returns the tensors that stand for its outputs."""
        here = dict(zip(functional.inputs, inputs, strict=True))
        for own in functional.inputs:
            if own.shape[-1] is not None and own in self.stand_ins:
                pair = self.stand_ins[own], here[own]
                self.shared_inputs.append(pair)
        for own in own_calls(functional):
            args, kwargs = own.arguments(here)
            if _is_transparent(own):
                inner, inner_path = check_model(own.operation), (*path, own.name)
                mode = kwargs.get("training", training)
                inputs = keras.tree.flatten(args[0])
                outputs = self._add(inner, inputs, inner_path, mode)
            else:
                kwargs |= _training(own, training)
                outputs = _fresh_outputs(own, args, kwargs) if path else own.outputs
                name = "/".join((*path, own.name))
                name = self._names.setdefault(own.operation, name)
                index = len(self.calls)
                call = _call(index, name, own.operation, args, kwargs, outputs)
                self.calls.append(call)
            here |= zip(own.outputs, outputs, strict=True)
        self.stand_ins = here | self.stand_ins
        return [here[tensor] for tensor in functional.outputs]


def _is_transparent(call: Call) -> bool:
    """Whether the call is of a model that is the calls of its layers, no more."""
    options = {k: v for k, v in call.kwargs.items() if k != "training"}
    has_options = any(leaf is not None for leaf in keras.tree.flatten(options))
    if not has_graph(call.operation) or len(call.args) != 1 or has_options:
        return False
    inputs, given = check_model(call.operation).input, call.args[0]
    if isinstance(inputs, dict) or isinstance(given, dict):
        return isinstance(given, dict) and inputs.keys() == given.keys()
    inputs, given = keras.tree.flatten(inputs), keras.tree.flatten(given)
    ranks = [len(getattr(tensor, "shape", ())) for tensor in given]
    return call.inputs == given and ranks == [len(tensor.shape) for tensor in inputs]


def _training(call: Call, training) -> dict:
    """The mode of the model around, for a layer that was called without one."""
    takes = inspect.signature(call.operation.call).parameters
    if training is None or "training" not in takes or "training" in call.kwargs:
        return {}
    return {"training": training}


def _fresh_outputs(call: Call, args, kwargs) -> tuple:
    """Tensors like the call's outputs, of the sizes that these arguments make."""
    inputs = keras.tree.flatten((args, kwargs))
    shapes = [x.shape for x in inputs if isinstance(x, keras.KerasTensor)]
    made = call.outputs
    if shapes != [tensor.shape for tensor in call.inputs]:
        made = keras.tree.flatten(call.operation.compute_output_spec(*args, **kwargs))
    return tuple(keras.KerasTensor(t.shape, t.dtype, name=t.name) for t in made)


def maker(tensor: keras.KerasTensor) -> keras.Operation:
    """The operation that made a symbolic tensor."""
    return tensor._keras_history.operation


def _nodes(functional):
    """The nodes that belong to this model alone, in topological order."""
    by_depth = functional._nodes_by_depth
    nodes = [
        node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]
    ]
    return [node for node in nodes if not node.is_input]


def _arguments(node) -> tuple[tuple, dict]:
    args, kwargs = node.arguments.args, dict(node.arguments.kwargs)
    first = next(iter(inspect.signature(node.operation.call).parameters), None)
    return ((kwargs.pop(first),), kwargs) if first in kwargs else (args, kwargs)


def _call(index, name, operation, args, kwargs, outputs) -> Call:
    rule = rule_for(public_key(operation), operation)
    return Call(index, name, operation, args, kwargs, tuple(outputs), rule)


def public_key(operation):
    """A layer's class; for a raw operation its public `keras.ops` function."""
    cls = type(operation)
    if cls.__module__.startswith("keras.src.applications."):
        return cls.__name__
    if isinstance(operation, keras.Layer) or not cls.__module__.startswith("keras."):
        return cls
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__)
    return getattr(sys.modules[cls.__module__], name.lstrip("_"), cls)


def _check_has_config(operation):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            operation.get_config()
    except (NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n\n")[0]
        raise ValueError(
            "Expected every layer of `model` to have a config, as saving the model "
            f"takes. Received: '{operation.name}' of type {type(operation).__name__}, "
            f"whose `get_config()` says: {reason}"
        ) from error
