"""Translates a layer to the other Keras."""

import dataclasses
import types
from typing import Any

from keras_greedy.interop.configs import (
    known_entries,
    plain,
    with_objects,
    without_activation,
)
from keras_greedy.interop.differences import (
    ACTIVATIONS,
    AS_LAYERS,
    NOT_CONVERTED,
    POLICIES,
    PRODUCTS,
    RENAMED,
)
from keras_greedy.interop.either import AnyLayer
from keras_greedy.interop.translated import Refused, Translated


@dataclasses.dataclass(frozen=True)
class Translator:
    """Translates layers of one library to the other.

    Attributes:
        library: The module to translate to, `keras` or `tf_keras`.
        source: The other one.
        custom_objects: Name of a layer's class -> its class in `library`.
    """

    library: types.ModuleType
    source: types.ModuleType
    custom_objects: dict[str, type]

    @property
    def name(self) -> str:
        """Returns the name of the library."""
        return self.library.__name__

    def make(
        self,
        kind: str,
        name: str,
        dtype: str,
        config: dict[str, Any],
    ) -> Translated:
        """Returns a new layer.

        Args:
            kind: The name of its class in the library.
            name: Its name.
            dtype: Its dtype, or the name of its policy.
            config: Its other arguments, an activation by its name in Keras 3.
        """
        function = config.get("activation")
        if function is not None and function not in ACTIVATIONS[self.name]:
            return self._activation(function, name, {"dtype": dtype})
        cls = getattr(self.library.layers, kind)
        return Translated(cls(**config, name=name, dtype=dtype))

    def translate(self, layer: AnyLayer, name: str) -> Translated:
        """Returns new layers that compute the same as one of the source.

        Args:
            layer: The layer.
            name: The new name.

        Raises:
            Refused: When there are none.
        """
        cls = self._class_of(layer)
        config = layer.get_config()
        config["name"] = name
        config["dtype"] = _policy(layer)
        config.update(self._inner_layers(layer, config))
        # Layers of the user's have the same config in both libraries.
        if cls in self.custom_objects.values():
            return Translated(_like(layer, cls, config))
        config = known_entries(config, layer, cls, self.name)
        config, function = without_activation(config, self.name)
        config = with_objects(config, self.library)
        config = self._renamed(cls, config)
        if function is None:
            return Translated(_like(layer, cls, config))
        # The regularizer is of the outputs, which another layer makes now.
        if config.get("activity_regularizer") is not None:
            raise Refused(f"its activity is regularized behind its {function}")
        options = {"dtype": config["dtype"], "trainable": layer.trainable}
        if cls is self.library.layers.Activation:
            return self._activation(function, name, options)
        activation = self._activation(function, f"{name}.{function}", options)
        return dataclasses.replace(activation, first=_like(layer, cls, config))

    def _class_of(self, layer: AnyLayer) -> type:
        cls = type(layer)
        if cls.__name__ in self.custom_objects:
            return self.custom_objects[cls.__name__]
        # A class of the user's may have the name of one of the library's.
        public = getattr(self.source.layers, cls.__name__, None)
        found = getattr(self.library.layers, cls.__name__, None)
        if public is not cls or found is None or cls.__name__ in NOT_CONVERTED:
            raise Refused(
                f"{self.name} has no such layer, or none that is known to agree"
            )
        return found

    def _renamed(self, cls: type, config: dict[str, Any]) -> dict[str, Any]:
        """Returns the config by the names and with the values that the class takes."""
        names = RENAMED[self.name].get(cls.__name__, {})
        renamed = {}
        for entry, value in config.items():
            renamed[names.get(entry, entry)] = plain(entry, value)
        # tf_keras normalizes over several axes, too.
        is_batch_norm = cls.__name__ == "BatchNormalization"
        if is_batch_norm and not isinstance(renamed["axis"], int):
            raise Refused(f"{self.name} has no axis={renamed['axis']} for it")
        return renamed

    def _activation(
        self,
        function: str,
        name: str,
        options: dict[str, Any],
    ) -> Translated:
        """Returns the layers of an activation.

        Args:
            function: Its name in Keras 3.
            name: Of the last layer; the others are numbered.
            options: Arguments of all layers.
        """
        chain = AS_LAYERS[self.name][PRODUCTS.get(function, function)]
        names = [f"{name}.{i}" for i in range(1, len(chain) + 1)]
        product = None
        if function in PRODUCTS:
            product = self.library.layers.Multiply(name=name, **options)
        else:
            names[-1] = name
        layers = []
        for (kind, entries), own_name in zip(chain, names, strict=True):
            cls = getattr(self.library.layers, kind)
            layers.append(cls(**entries, **options, name=own_name))
        return Translated(None, layers, product)

    def _inner_layers(
        self,
        layer: AnyLayer,
        config: dict[str, Any],
    ) -> dict[str, AnyLayer]:
        """Returns the entries that are layers, translated, as those of TimeDistributed.

        Raises:
            Refused: When one has no counterpart that is a single layer.
        """
        inner = {}
        for entry in config:
            own = vars(layer).get(entry)
            if not isinstance(own, self.source.layers.Layer):
                continue
            found = self.translate(own, own.name)
            if found.after:
                raise Refused(f"{self.name} has no activation for the layer inside it")
            inner[entry] = found.first
        return inner


def _policy(layer: AnyLayer) -> str:
    policy = layer.dtype_policy.name
    if policy not in POLICIES:
        raise Refused(f"its dtype policy is {policy!r}")
    return policy


def _like(
    layer: AnyLayer,
    cls: type,
    config: dict[str, Any],
) -> AnyLayer:
    """Returns a new layer of a class, trainable if `layer` is."""
    # Not every layer takes this one as an argument.
    arguments = {k: value for k, value in config.items() if k != "trainable"}
    new: AnyLayer = cls(**arguments)
    if not layer.trainable:
        new.trainable = False
    return new
