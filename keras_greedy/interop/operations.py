"""Raw operations: functions of `keras.ops`, and of TensorFlow, that are the same."""

import functools
import inspect

import keras

from keras_greedy.interop.configs import Refused

# Functions of keras.ops, by the module of TensorFlow that has one of the same name
# and with arguments in the same order.
_IN_MATH = """
    abs ceil cos erf exp expm1 floor log log1p negative reciprocal round rsqrt sigmoid
    sign sin softplus sqrt square tanh
    add subtract multiply divide maximum minimum
    equal not_equal greater greater_equal less less_equal
    logical_and logical_not logical_or
"""
_IN_NN = "elu gelu leaky_relu log_softmax relu relu6 selu silu softmax softsign"
_AT_TOP = """
    broadcast_to cast expand_dims pad reshape squeeze stack stop_gradient tile transpose
    where
"""
_NAMES = {
    **{name: f"math.{name}" for name in _IN_MATH.split()},
    **{name: f"math.reduce_{name}" for name in ("max", "mean", "min", "prod", "sum")},
    **{name: f"nn.{name}" for name in _IN_NN.split()},
    **{name: name for name in _AT_TOP.split()},
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
_ALIASES = {
    "__operators__.add": "add",
    "floor_div": "floor_divide",
    "__operators__.eq": "equal",
    "__operators__.ne": "not_equal",
}
# TensorFlow wants their arguments to be of one kind of number.
ONE_DTYPE = {
    *(keras.ops.add, keras.ops.subtract, keras.ops.multiply, keras.ops.divide),
    *(keras.ops.true_divide, keras.ops.floor_divide, keras.ops.mod, keras.ops.power),
    *(keras.ops.maximum, keras.ops.minimum, keras.ops.matmul),
    *(keras.ops.concatenate, keras.ops.stack),
}
SYMBOLS = {getattr(keras.ops, name): symbol for name, symbol in _NAMES.items()}
FUNCTIONS = {symbol: getattr(keras.ops, name) for name, symbol in _NAMES.items()} | {
    symbol: getattr(keras.ops, name) for symbol, name in _ALIASES.items()
}


def tensorflow_function(symbol: str):
    import tensorflow as tf

    return functools.reduce(getattr, symbol.split("."), tf)


def arguments_for(other, own, args, kwargs) -> dict:
    """The arguments of a call, by the names that its counterpart has for them.

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
    values = {k: v for k, v in bound.arguments.items() if k != "name"}
    names = [name for name in inspect.signature(other).parameters if name != "name"]
    for key in list(values)[len(names) :]:
        if values[key] != signature.parameters[key].default:
            raise Refused(f"it is called with {key}={values[key]!r}")
    return {
        name: value
        for name, value in zip(names, values.values(), strict=False)
        if value is not None
    }


def slices(spec):
    """What `tf_keras` has written down of an index, as an index."""
    if isinstance(spec, dict):
        return slice(spec["start"], spec["stop"], spec["step"])
    return tuple(map(slices, spec)) if isinstance(spec, (tuple, list)) else spec
