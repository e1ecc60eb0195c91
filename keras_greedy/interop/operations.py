"""Raw operations: functions of `keras.ops`, and of TensorFlow, that are the same."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras

from keras_greedy.interop.translated import Refused

Function: TypeAlias = Callable[..., Any]

# Names of functions of keras.ops, by the module of TensorFlow that has one of the same
# name and with arguments in the same order.
_OF_ONE_NAME = {
    "": """
        broadcast_to cast expand_dims pad reshape squeeze stack stop_gradient tile
        transpose where
    """,
    "math.": """
        abs ceil cos erf exp expm1 floor log log1p negative reciprocal round rsqrt
        sigmoid sign sin softplus sqrt square tanh
        add subtract multiply divide maximum minimum
        equal not_equal greater greater_equal less less_equal
        logical_and logical_not logical_or
    """,
    "math.reduce_": "max mean min prod sum",
    "nn.": "elu gelu leaky_relu log_softmax relu relu6 selu silu softmax softsign",
}
# Those that TensorFlow calls otherwise, likewise.
_OF_OTHER_NAMES = {
    "absolute": "math.abs",
    "clip": "clip_by_value",
    "concatenate": "concat",
    "floor_divide": "math.floordiv",
    "matmul": "linalg.matmul",
    "mod": "math.floormod",
    "power": "math.pow",
    "std": "math.reduce_std",
    "true_divide": "math.truediv",
    "var": "math.reduce_variance",
}
# Names that legacy models have for functions of TensorFlow besides.
_ALIASES = {
    "__operators__.add": "add",
    "floor_div": "floor_divide",
    "__operators__.eq": "equal",
    "__operators__.ne": "not_equal",
}

# TensorFlow wants their arguments to be of one kind of number.
ONE_DTYPE = {
    keras.ops.add,
    keras.ops.concatenate,
    keras.ops.divide,
    keras.ops.floor_divide,
    keras.ops.matmul,
    keras.ops.maximum,
    keras.ops.minimum,
    keras.ops.mod,
    keras.ops.multiply,
    keras.ops.power,
    keras.ops.stack,
    keras.ops.subtract,
    keras.ops.true_divide,
}


def _symbols() -> dict[str, str]:
    """Returns the name in TensorFlow of each function of `keras.ops`."""
    symbols = {}
    for prefix, names in _OF_ONE_NAME.items():
        for name in names.split():
            symbols[name] = f"{prefix}{name}"
    return symbols | _OF_OTHER_NAMES


# Function of keras.ops -> its name in TensorFlow, and the other way round.
SYMBOLS: dict[Function, str] = {}
FUNCTIONS: dict[str, Function] = {}
for _name, _symbol in _symbols().items():
    SYMBOLS[getattr(keras.ops, _name)] = _symbol
    FUNCTIONS[_symbol] = getattr(keras.ops, _name)
for _symbol, _name in _ALIASES.items():
    FUNCTIONS[_symbol] = getattr(keras.ops, _name)


def tensorflow_function(symbol: str) -> Function:
    """Returns a function of TensorFlow by its name, such as `"math.abs"`."""
    # Here, not above: the package does without TensorFlow where this is not called.
    import tensorflow as tf

    return functools.reduce(getattr, symbol.split("."), tf)


def arguments_for(
    other: Function,
    own: Function,
    args: Sequence,
    kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the arguments of a call, by the names that its counterpart has for them.

    Args:
        other: The counterpart; its arguments have the same order.
        own: The function that is called.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Raises:
        Refused: When one of them has no counterpart and is not at its default.
    """
    signature = inspect.signature(own)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    # TensorFlow's functions take a name as well, which is not about values.
    values = {k: value for k, value in bound.arguments.items() if k != "name"}
    names = [k for k in inspect.signature(other).parameters if k != "name"]
    for key in list(values)[len(names) :]:
        if values[key] != signature.parameters[key].default:
            raise Refused(f"it is called with {key}={values[key]!r}")
    arguments = {}
    for name, value in zip(names, values.values(), strict=False):
        # Left out, the counterpart has its own default.
        if value is not None:
            arguments[name] = value
    return arguments


def index_of(spec: Any) -> Any:
    """Returns the index that `tf_keras` has written down, with its slices."""
    if isinstance(spec, dict):
        return slice(spec["start"], spec["stop"], spec["step"])
    if isinstance(spec, (tuple, list)):
        return tuple(index_of(part) for part in spec)
    return spec
