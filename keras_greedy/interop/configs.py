"""The config of a layer, in the words of the other Keras."""

import dataclasses
import inspect
import re
import types

import numpy as np

from keras_greedy.interop.differences import (
    ACTIVATIONS,
    AS_LAYERS,
    NOT_CONVERTED,
    POLICIES,
    PRODUCTS,
    RENAMED,
    WITHOUT_EFFECT,
    WITHOUT_EFFECT_IN,
)

_OBJECT = re.compile(r".*_(initializer|regularizer|constraint)")


class Refused(Exception):
    """Raised for a layer without a counterpart; says why."""


@dataclasses.dataclass(frozen=True)
class Translated:
    """What a layer is in the other library.

    Attributes:
        first: The layer that takes the weights; `None` for an activation that the
            other library does not have.
        after: Layers that make up for an activation, one after the other.
        product: The layer that multiplies what `after` makes by what it reads, if
            that is how it ends.
    """

    first: object
    after: list = dataclasses.field(default_factory=list)
    product: object = None

    def __call__(self, *args, **kwargs):
        x = y = self.first(*args, **kwargs) if self.first is not None else args[0]
        for layer in self.after:
            y = layer(y)
        return y if self.product is None else self.product([x, y])

    def in_a_row(self) -> list:
        """The layers, for a Sequential."""
        if self.product is not None:
            raise Refused(
                "its activation is a product, which a Sequential cannot have: make "
                "the model a keras.Model(inputs, outputs)"
            )
        return ([] if self.first is None else [self.first]) + self.after


@dataclasses.dataclass(frozen=True)
class Target:
    """The library that layers are translated to.

    Attributes:
        library: The module, `keras` or `tf_keras`.
        source: The other one.
        custom_objects: Name of a layer's class -> its class in `library`.
    """

    library: types.ModuleType
    source: types.ModuleType
    custom_objects: dict[str, type]

    @property
    def name(self) -> str:
        return self.library.__name__

    def class_of(self, layer) -> type:
        cls = type(layer)
        if cls.__name__ in self.custom_objects:
            return self.custom_objects[cls.__name__]
        public = getattr(self.source.layers, cls.__name__, None)
        found = getattr(self.library.layers, cls.__name__, None)
        if public is not cls or found is None or cls.__name__ in NOT_CONVERTED:
            raise Refused(
                f"{self.name} has no such layer, or none that is known to agree"
            )
        return found

    def made(self, kind: str, name: str, dtype: str, **config) -> "Translated":
        """A layer by the name of its class, an activation by that of Keras 3."""
        function = config.get("activation")
        if function is not None and function not in ACTIVATIONS[self.name]:
            return self._after(function, name, {"dtype": dtype})
        layer = getattr(self.library.layers, kind)
        return Translated(layer(**config, name=name, dtype=dtype))

    def translated(self, layer, name: str) -> "Translated":
        """What computes the same as a layer.

        Raises:
            Refused: When there is no such thing.
        """
        cls, config = self.class_of(layer), layer.get_config()
        config |= {"name": name, "dtype": self._policy(layer)}
        config |= self._inner_layers(layer, config)
        if cls in self.custom_objects.values():
            return Translated(_like(layer, cls, config))
        config, function = self._activated(self._known(cls, layer, config))
        config = {k: _plain(k, v) for k, v in self._with_objects(config).items()}
        if cls.__name__ == "BatchNormalization" and not isinstance(config["axis"], int):
            raise Refused(f"{self.name} has no axis={config['axis']} for it")
        renamed = RENAMED[self.name].get(cls.__name__, {})
        config = {renamed.get(key, key): value for key, value in config.items()}
        if function is None:
            return Translated(_like(layer, cls, config))
        if config.get("activity_regularizer") is not None:
            raise Refused(f"its activity is regularized behind its {function}")
        options = {"dtype": config["dtype"], "trainable": layer.trainable}
        if cls is self.library.layers.Activation:
            return self._after(function, name, options)
        after = self._after(function, f"{name}.{function}", options)
        return dataclasses.replace(after, first=_like(layer, cls, config))

    def _after(self, function: str, name: str, options: dict) -> "Translated":
        """The layers of an activation; the last has the name."""
        chain = AS_LAYERS[self.name][PRODUCTS.get(function, function)]
        names = [f"{name}.{i}" for i in range(1, len(chain) + 1)]
        product = None
        if function in PRODUCTS:
            product = self.library.layers.Multiply(name=name, **options)
        else:
            names[-1] = name
        layers = [
            getattr(self.library.layers, kind)(**entries, **options, name=own)
            for (kind, entries), own in zip(chain, names, strict=True)
        ]
        return Translated(None, layers, product)

    def _policy(self, layer) -> str:
        policy = layer.dtype_policy.name
        if policy not in POLICIES:
            raise Refused(f"its dtype policy is {policy!r}")
        return policy

    def _inner_layers(self, layer, config) -> dict:
        """The entries that are layers, as those of TimeDistributed."""
        base = self.source.layers.Layer
        inner = {key: vars(layer).get(key) for key in config}
        inner = {k: own for k, own in inner.items() if isinstance(own, base)}
        found = {key: self.translated(own, own.name) for key, own in inner.items()}
        if any(own.after for own in found.values()):
            raise Refused(f"{self.name} has no activation for the layer inside it")
        return {key: own.first for key, own in found.items()}

    def _known(self, cls, layer, config) -> dict:
        """The config without the entries that the other class does not have.

        Raises:
            Refused: When one of them says something that a layer does not do anyway.
        """
        names = RENAMED[self.name].get(cls.__name__, {})
        taken = _arguments_of(cls)
        always = {"activity_regularizer", "trainable"}
        foreign = set(config) - taken - set(names) - always
        idle = WITHOUT_EFFECT | WITHOUT_EFFECT_IN.get(cls.__name__, set())
        known = {k: v for k, v in config.items() if k not in foreign | idle}
        for entry in sorted(foreign - idle):
            plain = type(layer)(**known).get_config()
            if plain.get(entry) != config[entry]:
                raise Refused(f"{self.name} has no {entry}={config[entry]!r} for it")
        return known

    def _activated(self, config) -> tuple[dict, str | None]:
        """The config with activations by their names, and one to put after."""
        known, after = ACTIVATIONS[self.name], None
        for entry in {"activation", "recurrent_activation"} & set(config):
            function = config[entry]
            as_layers = isinstance(function, str) and (
                PRODUCTS.get(function, function) in AS_LAYERS[self.name]
            )
            if isinstance(function, str) and function in known:
                config = config | {entry: known[function]}
            elif as_layers and "recurrent_initializer" not in config:
                config, after = config | {entry: "linear"}, function
            else:
                raise Refused(f"{self.name} has no {entry}={function!r} for it")
        return config, after

    def _with_objects(self, config) -> dict:
        """The config with the library's own initializers, regularizers, constraints.

        An initializer that only the source has is left out: there are weights.
        """
        made = {}
        for key, value in config.items():
            kind = _OBJECT.fullmatch(key)
            if kind and isinstance(value, dict):
                value = self._object(kind[1], value)
                if value is None and kind[1] == "initializer":
                    continue
                if value is None:
                    raise Refused(f"{self.name} has no such {key}")
            made[key] = value
        return made

    def _object(self, kind: str, serialized: dict):
        name, config = serialized["class_name"], serialized["config"]
        cls = getattr(getattr(self.library, f"{kind}s"), name, None)
        if cls is None or serialized.get("registered_name") or isinstance(config, str):
            return None
        taken = inspect.signature(cls.__init__).parameters
        said = {k: v for k, v in config.items() if k in taken or v is not None}
        nested = any(isinstance(value, dict) for value in said.values())
        return None if nested or said.keys() - taken.keys() else cls(**said)


def _arguments_of(cls: type) -> set[str]:
    """What a class of layers takes, itself and by way of the classes it extends."""
    taken = set()
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters
            taken |= set(parameters)
            kinds = {parameter.kind for parameter in parameters.values()}
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                break
    return taken


def _like(layer, cls: type, config: dict):
    """A new layer, trainable if `layer` is."""
    # Not every layer takes this one as an argument.
    new = cls(**{key: value for key, value in config.items() if key != "trainable"})
    if not layer.trainable:
        new.trainable = False
    return new


def _plain(entry: str, value):
    """Values as they are given to a layer: tf_keras keeps some in other ways."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list) and type(value) is not list:
        value = list(value)
    if entry == "axis" and np.ndim(value) and np.size(value) == 1:
        return value[0]
    return value


def legacy_keras() -> types.ModuleType:
    """The module tf_keras, or an ImportError that says how to install it."""
    try:
        import tf_keras
    except ImportError as error:
        raise ImportError(
            "Models of legacy Keras need tf_keras, of TensorFlow's minor version: "
            "pip install tf_keras"
        ) from error
    return tf_keras
