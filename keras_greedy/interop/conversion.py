"""A model made anew in the other library, with the models inside it."""

from collections.abc import Callable

import keras

from keras_greedy.graph.channels import Call
from keras_greedy.interop.agreement import check_agreement
from keras_greedy.interop.configs import Refused, Target, Translated
from keras_greedy.interop.names import Names


class Conversion:
    """Converts a model and those inside it, each layer once.

    Subclasses say how the models to convert are read.

    Args:
        target: Where to.
        check: Whether to compare each model with what was made of it.
    """

    def __init__(self, target: Target, check: bool):
        self.target = target
        self._check = check
        self._layers: dict[int, Translated] = {}
        self._models: dict[int, object] = {}

    def calls(self, model) -> list[Call]:
        """The calls of its layers in their order, one of a model being a single one."""
        raise NotImplementedError

    def input_layers(self, model) -> list:
        raise NotImplementedError

    def graph(self, model):
        """What has the `input` and the `output` of a model."""
        raise NotImplementedError

    def has_graph(self, layer) -> bool:
        """Whether a layer is a model that can be converted."""
        raise NotImplementedError

    def is_layer(self, layer) -> bool:
        """Whether it is not a raw operation."""
        raise NotImplementedError

    def is_symbol(self, value) -> bool:
        raise NotImplementedError

    def new_input(self, layer, name: str):
        raise NotImplementedError

    def operation(self, call: Call, name: str) -> Callable:
        """Computes a raw operation from the values of tensors."""
        raise NotImplementedError

    def run(self, model):
        """The new model.

        Raises:
            ValueError: Names the layers that have no counterpart.
        """
        refused: list[tuple] = []
        self._prepare(model, refused)
        if refused:
            lines = {
                f"  '{layer.name}' of type {type(layer).__name__}: {reason}"
                for layer, reason in refused
            }
            raise ValueError(
                "Expected every layer of `model` to have a counterpart in "
                f"{self.target.name}. Put another layer in its place or, for a class "
                "of your own, name its counterpart in `custom_objects`. Received:\n"
                + "\n".join(sorted(lines))
            )
        return self._model(model)

    def _prepare(self, model, refused: list) -> None:
        """Makes the layers of a model, but for those that cannot be."""

        def attempt(layer, make, *args):
            try:
                return make(*args)
            except Refused as reason:
                refused.append((layer, reason))

        names = self._names(model)
        for layer in self.input_layers(model):
            attempt(layer, self.new_input, layer, names[layer.name])
        for call in self.calls(model):
            layer = call.operation
            if self.has_graph(layer):
                self._prepare(layer, refused)
            elif not self.is_layer(layer):
                attempt(layer, self.operation, call, names[layer.name])
            elif id(layer) not in self._layers:
                attempt(layer, self._translate, layer, names[layer.name], model)

    def _translate(self, layer, name, model) -> None:
        new = self.target.translated(layer, name)
        if self._is_sequential(model):
            new.in_a_row()
        self._layers[id(layer)] = new

    def _names(self, model) -> Names:
        layers = [*self.input_layers(model), *(c.operation for c in self.calls(model))]
        return Names(self.target.name, [layer.name for layer in layers])

    def _is_sequential(self, model) -> bool:
        return isinstance(model, self.target.source.Sequential)

    def _model(self, model):
        """The new one of a model, with its weights."""
        if id(model) not in self._models:
            self._models[id(model)] = self._made(model)
        return self._models[id(model)]

    def _made(self, model):
        names, graph = self._names(model), self.graph(model)
        layers = self.input_layers(model)
        inputs = [self.new_input(layer, names[layer.name]) for layer in layers]
        values = dict(zip(map(id, graph.inputs), inputs, strict=True))
        calls = self.calls(model)
        make = self._sequential if self._is_sequential(model) else self._graph_model
        name = Names(self.target.name, [model.name])[model.name]
        new = make(model, name, calls, values)
        for call in calls:
            translated = self._layers.get(id(call.operation))
            if translated is not None and translated.first is not None:
                copy_weights(call.operation, translated.first)
        if self._check:
            tensors = [tensor for call in calls for tensor in call.outputs]
            made = [values[id(tensor)] for tensor in tensors]
            check_agreement(
                [call.name for call in calls for _ in call.outputs],
                self.target.source.Model(graph.inputs, tensors),
                self.target.library.Model(inputs, made),
            )
        return new

    def _sequential(self, model, name, calls, values):
        """A Sequential; `values` gets what each call makes in it."""
        new = self.target.library.Sequential(name=name)
        new.trainable = model.trainable
        new.add(values[id(self.graph(model).inputs[0])])
        for call in calls:
            for layer in self._row(call.operation):
                new.add(layer)
            values[id(call.outputs[0])] = new.outputs[0]
        return new

    def _row(self, layer) -> list:
        if self.has_graph(layer):
            return [self._model(layer)]
        return self._layers[id(layer)].in_a_row()

    def _graph_model(self, model, name, calls, values):
        names, graph = self._names(model), self.graph(model)
        for call in calls:
            made = keras.tree.flatten(self._apply(call, values, names))
            values.update(zip(map(id, call.outputs), made, strict=True))
        return self.target.library.Model(
            self.valued(graph.input, values),
            self.valued(graph.output, values),
            name=name,
            trainable=model.trainable,
        )

    def _apply(self, call: Call, values: dict, names: Names):
        layer = call.operation
        if not self.is_layer(layer):
            return self.operation(call, names[layer.name])(values)
        args, kwargs = self.valued((call.args, call.kwargs), values)
        if self.has_graph(layer):
            return self._model(layer)(*args, **kwargs)
        return self._layers[id(layer)](*args, **kwargs)

    def valued(self, structure, values: dict):
        """A structure of symbolic tensors with the value of each."""

        def value(leaf):
            return values[id(leaf)] if self.is_symbol(leaf) else leaf

        return keras.tree.map_structure(value, structure)


def check_custom_objects(custom_objects) -> dict[str, type]:
    """Returns the argument, or raises when it is no dict of classes."""
    found = custom_objects or {}
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(cls, type) for name, cls in found.items()
    ):
        raise ValueError(
            "Expected `custom_objects` to be a dict of the names of classes of "
            "layers and the classes to put in their place. Received: "
            f"custom_objects={custom_objects!r}"
        )
    return found


def copy_weights(layer, new) -> None:
    """Gives a layer the weights of its counterpart, which lists them in one order."""
    new.set_weights(layer.get_weights())
    if hasattr(new, "finalize_state"):  # Normalization computes from what it derives.
        new.finalize_state()
