"""Products of float32 with the digits of float32, on accelerators as well.

By default GPUs round what they multiply to 11 bits and TPUs to 8. A network answers
much the same. But of a scatter, whose eigenvalues are of very unlike size, the small
ones are lost, and some come out below 0: other channels would be selected than on a
CPU.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

EXACT = "ieee"
"""Torch's name for products that are not rounded."""


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Lets products of float32 be computed in float32, and nothing else change.

    A TPU under TensorFlow has no such setting.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        with jax.default_matmul_precision("highest"):
            yield
    elif backend == "torch":
        with _exact_on_torch():
            yield
    else:
        with _exact_on_tensorflow():
            yield


@contextlib.contextmanager
def _exact_on_tensorflow() -> Iterator[None]:
    import tensorflow as tf

    setting = tf.config.experimental
    before = setting.tensor_float_32_execution_enabled()
    setting.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        setting.enable_tensor_float_32_execution(before)


@contextlib.contextmanager
def _exact_on_torch() -> Iterator[None]:
    import torch

    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    # Since torch 2.9 a setting has a name for each precision; before it was a flag.
    has_names = hasattr(cudnn, "conv")
    name, exact = ("fp32_precision", EXACT) if has_names else ("allow_tf32", False)
    places = [matmul, cudnn.conv if has_names else cudnn]
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, exact)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)
