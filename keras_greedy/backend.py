"""Compiles functions and takes gradients, which `keras.ops` lacks, on each backend.

This is the first module that the package imports: it says so if Keras, SciPy,
threadpoolctl or the backend is missing, which come with the extra of a backend.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

NEEDED = ("keras", "scipy", "threadpoolctl", "tensorflow", "jax", "torch")

try:
    import keras
    import scipy  # noqa: F401
    import threadpoolctl  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in NEEDED:
        raise
    raise ImportError(
        "Expected Keras with a backend, SciPy and threadpoolctl, which keras_greedy "
        f"prunes with; {error.name} is not installed: "
        "pip install 'keras_greedy[tensorflow]', or [jax] or [torch] with "
        "KERAS_BACKEND=jax or torch set before Keras is imported. "
        f"Received: KERAS_BACKEND={os.environ.get('KERAS_BACKEND')!r}"
    ) from error

from keras_greedy.exact_products import exact_products  # noqa: E402

# A tensor of the backend, whose type is known only when it has been chosen.
Tensor: TypeAlias = Any


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` compiled by the backend, or as it is where that cannot.

    Where its arguments are split over the replicas of a TensorFlow strategy, each runs
    it on its part, and the result is split, too.

    Args:
        function: Maps arrays to arrays.
    """
    if keras.backend.backend() == "tensorflow":
        return _with_exact_products(_compiled_by_tensorflow(function))
    if keras.backend.backend() == "jax":
        import jax

        return _with_exact_products(jax.jit(function))
    import torch

    # Torch runs operation by operation: only the record for gradients can be saved. And
    # unlike the compilers it takes no NumPy arrays for tensors.
    @torch.no_grad()
    def on_tensors(*args: Any) -> Any:
        return function(*keras.tree.map_structure(_as_tensor, args))

    return _with_exact_products(on_tensors)


def _with_exact_products(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` as it runs in `exact_products`."""

    def in_context(*args: Any) -> Any:
        with exact_products():
            return function(*args)

    return in_context


def compiled_for_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` compiled for what happens to data before they are split.

    Args:
        function: Maps arrays to arrays; it may do what a TPU cannot.
    """
    if keras.backend.backend() != "tensorflow":
        return compiled(function)
    import tensorflow as tf

    # TensorFlow counts traces per code object, and warns of many; a partial makes one
    # closure made for many parts of a network count as many.
    own = functools.partial(function)
    return tf.function(own, reduce_retracing=True, autograph=False)


def _compiled_by_tensorflow(function: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    whole = compiled_for_host(function)

    def run_by_strategy(*args: Any) -> Any:
        return tf.distribute.get_strategy().run(function, args=args)

    # Of the shapes that are met: a TPU takes none that are not known.
    by_strategy = tf.function(functools.partial(run_by_strategy), autograph=False)

    def on_devices(*args: Any) -> Any:
        has_one = tf.distribute.get_strategy().num_replicas_in_sync == 1
        is_for_strategy = tf.distribute.has_strategy() and (has_one or is_split(args))
        return by_strategy(*args) if is_for_strategy else whole(*args)

    return on_devices


def is_split(structure: Any) -> bool:
    """Returns whether a tensor in it is split over the replicas of a strategy."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    leaves = keras.tree.flatten(structure)
    return any(isinstance(leaf, tf.distribute.DistributedValues) for leaf in leaves)


def compiled_over(
    variables: Sequence[keras.Variable],
    function: Callable[..., Any],
) -> Callable[..., Any]:
    """Returns `function` compiled, reading variables as they are at each call.

    JAX would take those that a function closes over for constants.

    Args:
        variables: Those that may have changed between two calls.
        function: Maps arrays to arrays.
    """
    if keras.backend.backend() != "jax":
        return compiled(function)

    def stateless(values: list[Tensor], *args: Any) -> Any:
        mapping = [*zip(variables, values, strict=True)]
        with keras.StatelessScope(state_mapping=mapping):
            return function(*args)

    on_values = compiled(stateless)
    return lambda *args: on_values([v.value for v in variables], *args)


def without_gradients() -> contextlib.AbstractContextManager:
    """Returns a context in which operations leave no record to differentiate by."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()  # The others keep one only where asked.
    import torch

    return torch.no_grad()


def _as_tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return keras.ops.convert_to_tensor(value)
    return value


def float32(array: np.ndarray) -> Tensor:
    """Returns a NumPy array as a tensor."""
    return keras.ops.convert_to_tensor(array.astype("float32"))


def pulled_back(
    function: Callable[[list[Tensor]], tuple[list[Tensor], list[Tensor]]],
    tensors: list[Tensor],
    directions: Callable[[list[Tensor]], Sequence[list[Tensor]]],
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Returns gradients of the outputs of a function along several directions.

    The outputs are computed once.

    Args:
        function: Maps the list to a list of tensors of real numbers, its outputs, and
            to other tensors.
        tensors: Where to differentiate.
        directions: Maps the outputs to directions, each a list of tensors like them.
            They are seen as constants.

    Returns:
        The other tensors; and for each direction, for each tensor, the gradient of the
        sum of the products of outputs and direction: 0 where they do not depend on it.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            tape.watch(tensors)
            outputs, others = function(tensors)
        found = []
        for direction in directions(outputs):
            found.append(
                tape.gradient(
                    outputs,
                    tensors,
                    output_gradients=direction,
                    unconnected_gradients="zero",
                )
            )
        return others, found
    if keras.backend.backend() == "jax":
        import jax

        outputs, pull, others = jax.vjp(function, tensors, has_aux=True)
        return others, [pull(direction)[0] for direction in directions(outputs)]
    import torch

    with torch.enable_grad():
        tensors = [tensor.detach().requires_grad_() for tensor in tensors]
        outputs, others = function(tensors)
    # Those that depend on nothing have no record to walk.
    places = [i for i, output in enumerate(outputs) if output.requires_grad]
    found = []
    for direction in directions([output.detach() for output in outputs]):
        if not places:
            found.append([torch.zeros_like(tensor) for tensor in tensors])
            continue
        gradients_along = torch.autograd.grad(
            [outputs[i] for i in places],
            tensors,
            [direction[i] for i in places],
            retain_graph=True,
            materialize_grads=True,
        )
        found.append(list(gradients_along))
    return [other.detach() for other in others], found


def gradients_of_each(
    function: Callable[[Tensor], list[Tensor]],
    tensor: Tensor,
) -> list[Tensor]:
    """Returns the gradient of each of several scalars, which are computed once.

    Args:
        function: Maps the tensor to a list of scalar tensors.
        tensor: Where to differentiate.

    Returns:
        For each scalar a tensor of the shape of `tensor`: 0 where the scalar does not
        depend on it.
    """

    def values(tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        return function(tensors[0]), []

    def one_each(found: list[Tensor]) -> list[list[Tensor]]:
        ones = [keras.ops.ones_like(value) for value in found]
        zeros = [keras.ops.zeros_like(value) for value in found]
        places = range(len(found))
        return [[*zeros[:i], ones[i], *zeros[i + 1 :]] for i in places]

    _, found = pulled_back(values, [tensor], one_each)
    return [gradient for (gradient,) in found]
