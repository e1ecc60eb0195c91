"""The config of a layer, in the words of the other Keras."""

import inspect
import re
import types
from typing import Any, TypeAlias

import numpy as np

from keras_greedy.interop.differences import (
    ACTIVATIONS,
    AS_LAYERS,
    PRODUCTS,
    RENAMED,
    WITHOUT_EFFECT,
    WITHOUT_EFFECT_IN,
)
from keras_greedy.interop.either import AnyLayer
from keras_greedy.interop.translated import Refused

# A layer's arguments by their names, as its `get_config` has them.
Config: TypeAlias = dict[str, Any]

OBJECT = re.compile(r".*_(initializer|regularizer|constraint)")

# Every layer has these, though not every class takes them.
ALWAYS_TAKEN = {"activity_regularizer", "trainable"}


def known_entries(
    config: Config,
    layer: AnyLayer,
    cls: type,
    library: str,
) -> Config:
    """Returns the config without the entries that the other class does not have.

    Args:
        config: Of the layer.
        layer: The layer.
        cls: Its class in the other library.
        library: The name of that library.

    Raises:
        Refused: When one of them says something that a layer does not do anyway.
    """
    renamed = RENAMED[library].get(cls.__name__, {})
    taken = _arguments_of(cls) | renamed.keys() | ALWAYS_TAKEN
    idle = WITHOUT_EFFECT | WITHOUT_EFFECT_IN.get(cls.__name__, set())
    foreign = config.keys() - taken - idle
    known = {}
    for entry, value in config.items():
        if entry in taken and entry not in idle:
            known[entry] = value
    # An entry that is at its default says nothing: it may be left out.
    for entry in sorted(foreign):
        defaults = type(layer)(**known).get_config()
        if defaults.get(entry) != config[entry]:
            raise Refused(f"{library} has no {entry}={config[entry]!r} for it")
    return known


def _arguments_of(cls: type) -> set[str]:
    """Returns all arguments of a class of layers, with those of its base classes."""
    taken: set[str] = set()
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters
        taken.update(parameters)
        # Only such a class hands the arguments of others on.
        kinds = {parameter.kind for parameter in parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return taken


def without_activation(config: Config, library: str) -> tuple[Config, str | None]:
    """Translates the activations of a config.

    Args:
        config: Of a layer.
        library: The name of the library to translate to.

    Returns:
        The config with activations by their names in the library, and the name of an
        activation to put behind the layer, which the library has not as a function.

    Raises:
        Refused: When an activation is neither there nor can be put behind.
    """
    config = dict(config)
    behind = None
    # A step of a recurrent layer goes on after its activation: none can follow it.
    is_recurrent = "recurrent_initializer" in config
    for entry in ("activation", "recurrent_activation"):
        if entry not in config:
            continue
        function = config[entry]
        # An activation of the user's is a function or a layer: it has no name.
        is_named = isinstance(function, str)
        if is_named and function in ACTIVATIONS[library]:
            config[entry] = ACTIVATIONS[library][function]
        elif is_named and not is_recurrent and _is_in_layers(function, library):
            config[entry] = "linear"
            behind = function
        else:
            raise Refused(f"{library} has no {entry}={function!r} for it")
    return config, behind


def _is_in_layers(function: str, library: str) -> bool:
    return PRODUCTS.get(function, function) in AS_LAYERS[library]


def with_objects(config: Config, library: types.ModuleType) -> Config:
    """Returns the config with the library's initializers, regularizers, constraints.

    An initializer that only the source has is left out: the weights are there.

    Args:
        config: Of a layer, with serialized objects.
        library: The module of the library.

    Raises:
        Refused: When the library has no such regularizer or constraint.
    """
    made = {}
    for entry, value in config.items():
        match = OBJECT.fullmatch(entry)
        if match is None or not isinstance(value, dict):
            made[entry] = value
            continue
        kind = match[1]
        found = _object(kind, value, library)
        if found is not None:
            made[entry] = found
        elif kind != "initializer":
            raise Refused(f"{library.__name__} has no such {entry}")
    return made


def _object(
    kind: str,
    serialized: Config,
    library: types.ModuleType,
) -> Any | None:
    """Returns an object of the library, or `None` if it has no such class.

    Args:
        kind: `"initializer"`, `"regularizer"` or `"constraint"`.
        serialized: The object of the other library.
        library: The module of the library.
    """
    config = serialized["config"]
    module = getattr(library, f"{kind}s")
    cls = getattr(module, serialized["class_name"], None)
    # A registered object is of the user's; a function has its name for a config.
    is_users = bool(serialized.get("registered_name"))
    if cls is None or is_users or isinstance(config, str):
        return None
    taken = inspect.signature(cls.__init__).parameters
    arguments = {}
    for entry, value in config.items():
        if entry in taken:
            arguments[entry] = value
        elif value is not None:
            return None
    # An object inside of it would have to be translated as well.
    if any(isinstance(value, dict) for value in arguments.values()):
        return None
    return cls(**arguments)


def plain(entry: str, value: Any) -> Any:
    """Returns a value as it is given to a layer: tf_keras keeps some in other ways.

    Args:
        entry: Its name in the config.
        value: The value.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    # tf_keras tracks lists of layers' attributes by a class of its own.
    if isinstance(value, list) and type(value) is not list:
        value = list(value)
    if entry == "axis" and np.ndim(value) and np.size(value) == 1:
        return value[0]
    return value
