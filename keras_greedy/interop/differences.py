"""Where Keras 3 and tf_keras differ in what a layer is called, or under one name."""

# The same function under the same name in both. `hard_sigmoid` is not among them:
# relu6(x + 3) / 6 in Keras 3, a clipped 0.2 x + 0.5 in tf_keras.
_SAME = """
    elu exponential gelu linear mish relu selu sigmoid softmax softplus softsign tanh
"""
ACTIVATIONS = {
    "tf_keras": {name: name for name in _SAME.split()} | {"silu": "swish"},
    # Legacy models have functions of `tf.nn` for activations, too.
    "keras": {name: name for name in _SAME.split()}
    | {"swish": "silu", "silu": "silu", "relu6": "relu6", "leaky_relu": "leaky_relu"},
}
# Activations that the other library has only as layers, one after the other.
AS_LAYERS = {
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
# x times an activation of x.
PRODUCTS = {"hard_silu": "hard_sigmoid"}
RENAMED = {
    "tf_keras": {"LeakyReLU": {"negative_slope": "alpha"}},
    "keras": {"LeakyReLU": {"alpha": "negative_slope"}},
}
# What no prediction depends on, or what only says how to build.
WITHOUT_EFFECT = {"batch_input_shape", "implementation", "rng_type", "seed"}
# The legacy ones have entries for a kernel that they do not make.
_OF_NO_KERNEL = {f"kernel_{n}" for n in ("initializer", "regularizer", "constraint")}
WITHOUT_EFFECT_IN = {"SeparableConv1D": _OF_NO_KERNEL, "SeparableConv2D": _OF_NO_KERNEL}
NOT_CONVERTED = {"Bidirectional", "Lambda", "SpectralNormalization"}
POLICIES = (
    *("float16", "float32", "float64", "bfloat16"),
    *("mixed_float16", "mixed_bfloat16"),
)
