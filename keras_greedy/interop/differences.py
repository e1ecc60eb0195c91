"""Where Keras 3 and tf_keras differ: in the names of layers, or under one name."""

from typing import Any, TypeAlias

# A layer's class by its name, and its arguments.
LayerSpec: TypeAlias = tuple[str, dict[str, Any]]

# Activations that are the same function under the same name in both. `hard_sigmoid` is
# not among them: relu6(x + 3) / 6 in Keras 3, a clipped 0.2 x + 0.5 in tf_keras.
_SAME = (
    "elu",
    "exponential",
    "gelu",
    "linear",
    "mish",
    "relu",
    "selu",
    "sigmoid",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
)

# Library -> name of an activation in the other one -> its name there.
ACTIVATIONS: dict[str, dict[str, str]] = {
    "tf_keras": {name: name for name in _SAME},
    "keras": {name: name for name in _SAME},
}
ACTIVATIONS["tf_keras"]["silu"] = "swish"
ACTIVATIONS["keras"]["swish"] = "silu"
# Legacy models have functions of `tf.nn` for activations, too.
ACTIVATIONS["keras"]["silu"] = "silu"
ACTIVATIONS["keras"]["relu6"] = "relu6"
ACTIVATIONS["keras"]["leaky_relu"] = "leaky_relu"

# Activations that a library has only as layers, one after the other.
AS_LAYERS: dict[str, dict[str, list[LayerSpec]]] = {
    "tf_keras": {
        "relu6": [("ReLU", {"max_value": 6.0})],
        "leaky_relu": [("LeakyReLU", {"alpha": 0.2})],
        "hard_sigmoid": [
            ("Rescaling", {"scale": 1.0, "offset": 3.0}),
            ("ReLU", {"max_value": 6.0}),
            ("Rescaling", {"scale": 1 / 6}),
        ],
    },
    "keras": {
        "hard_sigmoid": [
            ("Rescaling", {"scale": 0.2, "offset": 0.5}),
            ("ReLU", {"max_value": 1.0}),
        ],
    },
}

# Activations that are x times an activation of x.
PRODUCTS = {"hard_silu": "hard_sigmoid"}

# Library -> a layer's class -> name of an argument in the other one -> its name there.
RENAMED: dict[str, dict[str, dict[str, str]]] = {
    "tf_keras": {"LeakyReLU": {"negative_slope": "alpha"}},
    "keras": {"LeakyReLU": {"alpha": "negative_slope"}},
}

# Arguments that no prediction depends on, or that only say how to build.
WITHOUT_EFFECT = {"batch_input_shape", "implementation", "rng_type", "seed"}

# The legacy ones have entries for a kernel that they do not make.
_OF_NO_KERNEL = {"kernel_initializer", "kernel_regularizer", "kernel_constraint"}
WITHOUT_EFFECT_IN = {
    "SeparableConv1D": _OF_NO_KERNEL,
    "SeparableConv2D": _OF_NO_KERNEL,
}

# Layers of one name that are not known to agree.
NOT_CONVERTED = {"Bidirectional", "Lambda", "SpectralNormalization"}

# Dtype policies that both have.
POLICIES = {
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "mixed_float16",
    "mixed_bfloat16",
}
