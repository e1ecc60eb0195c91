"""What `keras.ops` lacks: compilation and gradients, for each Keras backend."""

import functools

import keras


def compiled(function):
    """`function` compiled by the backend where it can; arguments are arrays."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # TensorFlow counts traces per code object, and warns of many; a partial
        # makes one closure made for many parts of a network count as many.
        own = functools.partial(function)
        return tf.function(own, reduce_retracing=True, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import torch

    return torch.no_grad()(function)


def float32(array):
    """A NumPy array as a tensor."""
    return keras.ops.convert_to_tensor(array.astype("float32"))


def gradients(function, tensors: list) -> list:
    """Gradients of a scalar function at a list of tensors.

    Args:
        function: Maps the list to a scalar tensor.
        tensors: Where to differentiate.

    Returns:
        One tensor of the same shape for each tensor.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(tensors)
        return tape.gradient(value, tensors, unconnected_gradients="zero")
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function)(tensors)
    import torch

    with torch.enable_grad():
        tensors = [tensor.detach().requires_grad_() for tensor in tensors]
        value = function(tensors)
    return list(torch.autograd.grad(value, tensors, materialize_grads=True))
