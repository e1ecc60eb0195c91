"""A model made anew in the other library, with the models inside it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import keras

from keras_greedy.graph.calls import Call
from keras_greedy.interop.agreement import check_agreement
from keras_greedy.interop.either import AnyLayer, AnyModel, AnyTensor
from keras_greedy.interop.names import Names
from keras_greedy.interop.translated import Refused, Translated
from keras_greedy.interop.translator import Translator

# Id of a symbolic tensor of the model to convert -> its counterpart. By id: tensors of
# tf_keras overload `==`, so that they cannot be keys. The model keeps them alive.
Values: TypeAlias = dict[int, AnyTensor]

# Layers without a counterpart, and why.
Refusals: TypeAlias = list[tuple[AnyLayer, Refused]]


class Conversion:
    """Converts a model and those inside it, each layer once.

    Subclasses say how the models to convert are read.

    Args:
        translator: Translates each layer.
        check: Whether to compare each model with its conversion.
    """

    def __init__(self, translator: Translator, check: bool):
        self.translator = translator
        self._check = check
        # By the id of the layer and of the model: classes of users may overload `==`.
        self._layers: dict[int, Translated] = {}
        self._models: dict[int, AnyModel] = {}

    def calls(self, model: AnyModel) -> list[Call]:
        """Returns the calls of its layers in their order, a model's as a single one."""
        raise NotImplementedError

    def input_layers(self, model: AnyModel) -> list[AnyLayer]:
        """Returns the layers of the model's inputs, in their order."""
        raise NotImplementedError

    def graph(self, model: AnyModel) -> AnyModel:
        """Returns the one that has the `input` and the `output` of a model."""
        raise NotImplementedError

    def has_graph(self, layer: AnyLayer) -> bool:
        """Returns whether a layer is a model that can be converted."""
        raise NotImplementedError

    def is_layer(self, layer: AnyLayer) -> bool:
        """Returns whether it is not a raw operation."""
        raise NotImplementedError

    def is_symbol(self, value: object) -> bool:
        """Returns whether a value is a symbolic tensor of the model to convert."""
        raise NotImplementedError

    def new_input(self, layer: AnyLayer, name: str) -> AnyTensor:
        """Returns a new input, like that of an input layer."""
        raise NotImplementedError

    def operation(self, call: Call, name: str) -> Callable[[Values], AnyTensor]:
        """Returns a function that computes a raw operation from values."""
        raise NotImplementedError

    def run(self, model: AnyModel) -> AnyModel:
        """Returns the new model.

        Raises:
            ValueError: Names the layers that have no counterpart.
        """
        # All layers are made before any model is: all that have no counterpart are
        # named at once.
        refusals: Refusals = []
        self._prepare(model, refusals)
        if refusals:
            lines = set()
            for layer, reason in refusals:
                lines.add(f"  '{layer.name}' of type {type(layer).__name__}: {reason}")
            raise ValueError(
                "Expected every layer of `model` to have a counterpart in "
                f"{self.translator.name}. Put another layer in its place or, for a "
                "class of your own, name its counterpart in `custom_objects`. "
                "Received:\n" + "\n".join(sorted(lines))
            )
        return self._model(model)

    def _prepare(self, model: AnyModel, refusals: Refusals) -> None:
        """Makes the layers of a model, but for those that cannot be."""
        names = self._names(model)
        for layer in self.input_layers(model):
            with _collecting(refusals, layer):
                self.new_input(layer, names[layer.name])
        for call in self.calls(model):
            layer = call.operation
            if self.has_graph(layer):
                self._prepare(layer, refusals)
                continue
            with _collecting(refusals, layer):
                if not self.is_layer(layer):
                    self.operation(call, names[layer.name])
                elif id(layer) not in self._layers:
                    self._translate(layer, names[layer.name], model)

    def _translate(
        self,
        layer: AnyLayer,
        name: str,
        model: AnyModel,
    ) -> None:
        new = self.translator.translate(layer, name)
        # To raise already here if they are none.
        if self._is_sequential(model):
            new.in_a_row()
        self._layers[id(layer)] = new

    def _names(self, model: AnyModel) -> Names:
        """Returns the new names of a model's layers."""
        names = [layer.name for layer in self.input_layers(model)]
        names += [call.operation.name for call in self.calls(model)]
        return Names(self.translator.name, names)

    def _name(self, model: AnyModel) -> str:
        """Returns the new name of a model, which may be that of a layer too."""
        names = Names(self.translator.name, [model.name])
        return names[model.name]

    def _is_sequential(self, model: AnyModel) -> bool:
        return isinstance(model, self.translator.source.Sequential)

    def _model(self, model: AnyModel) -> AnyModel:
        """Returns the new one of a model, with its weights: the same each time."""
        if id(model) not in self._models:
            self._models[id(model)] = self._made(model)
        return self._models[id(model)]

    def _made(self, model: AnyModel) -> AnyModel:
        """Returns a new model of the layers that are translated."""
        names = self._names(model)
        inputs = []
        for layer in self.input_layers(model):
            inputs.append(self.new_input(layer, names[layer.name]))
        values: Values = {}
        pairs = zip(self.graph(model).inputs, inputs, strict=True)
        for tensor, new_input in pairs:
            values[id(tensor)] = new_input
        calls = self.calls(model)
        if self._is_sequential(model):
            new = self._sequential(model, calls, values)
        else:
            new = self._graph_model(model, calls, values)
        for call in calls:
            translated = self._layers.get(id(call.operation))
            if translated is not None and translated.first is not None:
                _hand_over(call.operation, translated.first)
        if self._check:
            self._compare(model, inputs, calls, values)
        return new

    def _sequential(
        self,
        model: AnyModel,
        calls: Sequence[Call],
        values: Values,
    ) -> AnyModel:
        """Returns a Sequential, and adds the counterpart of each output to `values`."""
        new = self.translator.library.Sequential(name=self._name(model))
        new.trainable = model.trainable
        model_input = self.graph(model).inputs[0]
        new.add(values[id(model_input)])
        for call in calls:
            for layer in self._row(call.operation):
                new.add(layer)
            values[id(call.outputs[0])] = new.outputs[0]
        return new

    def _row(self, layer: AnyLayer) -> list[AnyLayer]:
        if self.has_graph(layer):
            return [self._model(layer)]
        return self._layers[id(layer)].in_a_row()

    def _graph_model(
        self,
        model: AnyModel,
        calls: Sequence[Call],
        values: Values,
    ) -> AnyModel:
        """Returns a functional model, and adds the counterparts to `values`."""
        names = self._names(model)
        graph = self.graph(model)
        for call in calls:
            made = self._apply(call, values, names)
            pairs = zip(call.outputs, keras.tree.flatten(made), strict=True)
            for tensor, new in pairs:
                values[id(tensor)] = new
        return self.translator.library.Model(
            self.valued(graph.input, values),
            self.valued(graph.output, values),
            name=self._name(model),
            trainable=model.trainable,
        )

    def _apply(
        self,
        call: Call,
        values: Values,
        names: Names,
    ) -> Any:
        """Makes a call on the counterparts of its arguments."""
        layer = call.operation
        if not self.is_layer(layer):
            return self.operation(call, names[layer.name])(values)
        args, kwargs = self.valued((call.args, call.kwargs), values)
        if self.has_graph(layer):
            return self._model(layer)(*args, **kwargs)
        return self._layers[id(layer)](*args, **kwargs)

    def valued(self, structure: Any, values: Values) -> Any:
        """Returns a structure of symbolic tensors with the counterpart of each.

        Args:
            structure: Any nest of lists, tuples and dicts; other leaves stay.
            values: The counterparts.
        """

        def value(leaf: Any) -> Any:
            return values[id(leaf)] if self.is_symbol(leaf) else leaf

        return keras.tree.map_structure(value, structure)

    def _compare(
        self,
        model: AnyModel,
        inputs: Sequence[AnyTensor],
        calls: Sequence[Call],
        values: Values,
    ) -> None:
        """Checks that each call makes the same in the model and in its conversion."""
        names = []
        own = []
        new = []
        for call in calls:
            for tensor in call.outputs:
                names.append(call.name)
                own.append(tensor)
                new.append(values[id(tensor)])
        check_agreement(
            names,
            self.translator.source.Model(self.graph(model).inputs, own),
            self.translator.library.Model(inputs, new),
        )


@contextlib.contextmanager
def _collecting(refusals: Refusals, layer: AnyLayer) -> Iterator[None]:
    """Notes the reason if a layer is refused."""
    try:
        yield
    except Refused as reason:
        refusals.append((layer, reason))


def check_custom_objects(custom_objects: Any) -> dict[str, type]:
    """Returns the argument, or raises when it is no dict of classes."""
    found = custom_objects or {}
    are_classes = isinstance(found, dict)
    if are_classes:
        for name, cls in found.items():
            are_classes &= isinstance(name, str) and isinstance(cls, type)
    if not are_classes:
        raise ValueError(
            "Expected `custom_objects` to be a dict of the names of classes of "
            "layers and the classes to put in their place. Received: "
            f"custom_objects={custom_objects!r}"
        )
    return found


def _hand_over(layer: AnyLayer, new: AnyLayer) -> None:
    """Gives a layer the weights of its counterpart, which lists them in one order."""
    new.set_weights(layer.get_weights())
    # Normalization computes from numbers that it derives of its weights.
    if hasattr(new, "finalize_state"):
        new.finalize_state()
