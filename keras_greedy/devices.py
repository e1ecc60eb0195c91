"""All devices that Keras distributes over, for what looks at data.

On TensorFlow these are the replicas of a `tf.distribute` strategy: each runs a function
on an equal part of a batch, and what the replicas make is put together on the host. On
JAX they are the mesh of `keras.distribution`: a batch is an array whose examples lie on
all of them, and the compiler adds what they have to tell each other.

A batch that they cannot share equally, as the last one of the data, is not split: one
device runs it, or each of them runs all of it. Examples added to fill it up would have
to be left out of every statistic; this way there are none.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import Tensor, is_split


def device_count() -> int:
    """Returns how many devices share a batch."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy().num_replicas_in_sync
    distribution = _distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


def whole_number(size: int) -> int:
    """Returns the least batch size from `size` on that the devices share equally."""
    return size + -size % device_count()


def check_fixed_size(size: int | None) -> None:
    """Raises a ValueError where no device can take a batch of a model's own size.

    Args:
        size: The batch size of the model, if it has one.
    """
    is_parted = keras.backend.backend() == "tensorflow" and device_count() > 1
    if size and is_parted:
        raise ValueError(
            "Expected a model of any batch size under a strategy, each of whose "
            f"{device_count()} replicas gets a part of a batch. Received: a model of "
            f"inputs with a batch size of {size}"
        )


def is_under_strategy() -> bool:
    """Returns whether the scope of a `tf.distribute` strategy is open."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.distribute.has_strategy()


def split(batch: Sequence[np.ndarray]) -> list[Tensor]:
    """Returns the arrays of a batch as tensors, the examples split over the devices.

    Args:
        batch: `(n, ...)` each, of the same examples.

    Returns:
        A tensor for each array; on TensorFlow, where n is a multiple of the number of
        replicas, values of each replica, which `compiled` functions take as tensors.
    """
    count = device_count()
    is_for_replicas = keras.backend.backend() == "tensorflow" and count > 1
    if is_for_replicas and len(batch[0]) % count == 0:
        return [_over_replicas(np.split(array, count)) for array in batch]
    return spread(batch)


def spread(batch: Sequence[np.ndarray]) -> list[Tensor]:
    """Returns the arrays of a batch as tensors of all examples.

    On JAX these lie on all devices, as of `split`. On TensorFlow one device has them:
    the replicas share what is compiled, not operations that run one by one.

    Args:
        batch: As for `split`.
    """
    count = device_count()
    is_shared = keras.backend.backend() == "jax" and count > 1
    if not is_shared or len(batch[0]) % count:
        return [ops.convert_to_tensor(array) for array in batch]
    tensors = []
    for array in batch:
        layout = _distribution().get_data_layout(array.shape)
        tensors.append(keras.distribution.distribute_tensor(array, layout))
    return tensors


def _over_replicas(parts: list[np.ndarray]) -> Any:
    import tensorflow as tf

    def part_of(context: Any) -> Tensor:
        return ops.convert_to_tensor(parts[context.replica_id_in_sync_group])

    strategy = tf.distribute.get_strategy()
    return strategy.experimental_distribute_values_from_function(part_of)


def parts_of(made: Any) -> list[Any]:
    """Returns what each replica made of its part of a batch, or what was made whole.

    Args:
        made: A structure of tensors, the result of a `compiled` function.
    """
    if not is_split(made):
        return [made]
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    parts = []
    for index in range(device_count()):

        def own(leaf: Any, index: int = index) -> Any:
            results = strategy.experimental_local_results(leaf)
            # What does not depend on the data is there once.
            return results[index] if len(results) > 1 else results[0]

        parts.append(keras.tree.map_structure(own, made))
    return parts


def gathered(made: list[Tensor]) -> list[Tensor]:
    """Returns tensors of all examples, `(n, ...)` each, of those of each replica."""
    parts = parts_of(made)
    if len(parts) == 1:
        return made
    return [ops.concatenate(own, axis=0) for own in zip(*parts, strict=True)]


def summed(made: Tensor) -> Tensor:
    """Returns the sum of what each replica made of its part of a batch."""
    first, *others = parts_of(made)
    return sum(others, start=first)


def total_over_devices(x: Tensor) -> Tensor:
    """Returns the sum of a tensor over the replicas that run this function.

    On JAX a tensor is of all examples, wherever they lie: it is that sum already.
    """
    if _replicas_here() == 1:
        return x
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def moments_over_devices(x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns the mean and the variance of the examples of all devices.

    Args:
        x: The examples of this device, as many as each of the others has.
        axes: Those to take them over.
    """
    mean, variance = ops.moments(x, list(axes))
    replicas = _replicas_here()
    if replicas == 1:
        return mean, variance
    common = total_over_devices(mean) / replicas
    # Around the common mean, the examples of a device have their own variance and the
    # square of the distance of their mean.
    around = variance + ops.square(mean - common)
    return common, total_over_devices(around) / replicas


def share_of_loss(loss: Tensor) -> Tensor:
    """Returns what a replica adds to the loss of a training step.

    Keras adds up the gradients of all replicas, as if each loss were a sum; this one
    is a mean over the examples.
    """
    is_tensorflow = keras.backend.backend() == "tensorflow"
    return loss / device_count() if is_tensorflow else loss


def _replicas_here() -> int:
    """Returns how many replicas run this function, each on a part of the examples."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def _distribution() -> Any:
    """Returns the distribution that Keras is told to use, `None` without one."""
    if keras.backend.backend() != "jax":
        return None
    return keras.distribution.distribution()
