"""Processes that search together, each with data of its own.

A search is sums over examples, and decisions that follow from the sums. Each process
makes the sums over its own data, on its own devices. Here they tell them each other, on
the host: from then on all have the same numbers, and decide the same.

The processes are those of `jax.distributed`, of a `MultiWorkerMirroredStrategy`, or of
`torch.distributed`, which carry the numbers.
"""

import contextlib
import contextvars
import functools
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import keras
import numpy as np

Drawn = TypeVar("Drawn")

WORD = np.dtype("int32")
"""All of the engines carry it, and none rounds it."""

LEAST_BYTES = 2**12
MOST_BYTES = 2**22
"""Of what goes round at once, a power of two."""

_strategy: contextvars.ContextVar[Any] = contextvars.ContextVar("strategy")


@contextlib.contextmanager
def workers_of(strategy: Any) -> Iterator[None]:
    """Makes the processes those of a `MultiWorkerMirroredStrategy`, in a `with`."""
    token = _strategy.set(strategy)
    try:
        yield
    finally:
        _strategy.reset(token)


def process_count() -> int:
    """Returns how many processes search together."""
    return _place()[1]


def process_index() -> int:
    """Returns the rank of this one, from 0 on."""
    return _place()[0]


def share_of(limit: int) -> int:
    """Returns how many of `limit` things are for this process, at least one."""
    return -(-limit // process_count())


def gathered(array: np.ndarray) -> list[np.ndarray]:
    """Returns the array of each process, in the order of their ranks.

    Args:
        array: Of the same shape and dtype in all of them.

    Raises:
        RuntimeError: When another process has ended, or does something else.
    """
    if process_count() == 1:
        return [array]
    contents = _told(array.tobytes(), f"{array.dtype.str} {array.shape}")
    return [
        np.frombuffer(content, array.dtype).reshape(array.shape) for content in contents
    ]


def gathered_bytes(content: bytes) -> list[bytes]:
    """Returns the bytes of each process, which may be of any number, as `gathered`."""
    if process_count() == 1:
        return [content]
    lengths = [int(length) for length in gathered(np.array(len(content)))]
    filled = _told(content.ljust(max(lengths), b"\0"), "bytes")
    return [own[:length] for own, length in zip(filled, lengths, strict=True)]


def total_of_processes(value: Any) -> Any:
    """Returns the sum of a number or an array over the processes, in rank order."""
    if process_count() == 1:
        return value
    first, *others = gathered(np.asarray(value))
    total = sum(others, start=first)
    return total if np.ndim(value) else total.item()


def most_of_processes(value: int) -> int:
    """Returns the greatest of the numbers of all processes."""
    return int(max(gathered(np.array(value))))


def check_agreed(parts: dict[str, str]) -> None:
    """Raises a RuntimeError when the processes are about to do different things.

    Args:
        parts: Words for what decides what is done -> a short string that tells it.
    """
    first, *others = map(json.loads, gathered_bytes(json.dumps(parts).encode()))
    for rank, other in enumerate(others, start=1):
        for name in {**first, **other}:
            one, two = first.get(name), other.get(name)
            if one != two:
                raise RuntimeError(
                    "Expected the same model and arguments in all processes, whose "
                    f"data alone are each its own. Received: {name}: {one} in process "
                    f"number 0, {two} in number {rank}"
                )


def own_draw(draw: Callable[[], Drawn]) -> Drawn:
    """Returns what a common source of random numbers gives this process.

    Each process draws for all, in the order of their ranks, as one process would that
    reads a batch of each in turn.

    Args:
        draw: Draws from a source that is the same in all processes.
    """
    drawn = [draw() for _ in range(process_count())]
    return drawn[process_index()]


def own_generator(rng: np.random.Generator) -> np.random.Generator:
    """Returns a source of random numbers for what each process draws as it needs it.

    Args:
        rng: The common one, which stays the same in all processes.
    """
    if process_count() == 1:
        return rng
    seed = own_draw(lambda: int(rng.integers(2**32)))
    return np.random.default_rng(seed)


def check_one_process(what: str) -> None:
    """Raises a ValueError where several processes would each go their own way.

    Args:
        what: That is not shared by them.
    """
    if process_count() > 1:
        raise ValueError(
            f"Expected one process for {what}. Received: {process_count()} processes, "
            f"of which this is number {process_index()}. Prune in all of them, and go "
            "on with the compact model, which is the same in each."
        )


def _place() -> tuple[int, int]:
    """Returns the rank of this process, and how many there are."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.process_index(), jax.process_count()
    if backend == "torch":
        import torch.distributed as group

        if group.is_available() and group.is_initialized():
            return group.get_rank(), group.get_world_size()
    strategy = _strategy.get(None)
    if strategy is None:
        return 0, 1
    resolver = strategy.cluster_resolver
    tasks = tasks_of(resolver.cluster_spec().as_dict())
    if not tasks:
        # It was made without a cluster.
        return 0, 1
    return tasks.index((resolver.task_type, resolver.task_id)), len(tasks)


def tasks_of(cluster: dict[str, Any]) -> list[tuple[str, int]]:
    """Returns the tasks of a cluster of TensorFlow that train, in rank order."""
    tasks = []
    for kind in ("chief", "worker"):
        tasks += [(kind, index) for index in range(len(cluster.get(kind, ())))]
    return tasks


def _told(content: bytes, name: str) -> list[bytes]:
    """Returns the content of each process, all of the same length.

    Args:
        content: Of this one.
        name: Of what is told; it has to be the same in all of them.
    """
    told = zlib.crc32(name.encode()).to_bytes(WORD.itemsize, "little")
    # What is small goes with its name, and takes one turn.
    is_small = len(told) + len(content) <= LEAST_BYTES
    found = _carried(told + content if is_small else told)
    if len({own[: len(told)] for own in found}) > 1:
        raise RuntimeError(
            "Expected all processes to go the same way. Received: another step of the "
            f"search than this one of process number {process_index()}, {name}. Call "
            "the same functions with the same arguments in all of them."
        )
    if is_small:
        return [own[len(told) : len(told) + len(content)] for own in found]
    parts = []
    for start in range(0, len(content), MOST_BYTES):
        part = content[start : start + MOST_BYTES]
        parts.append([own[: len(part)] for own in _carried(part)])
    return [b"".join(own) for own in zip(*parts, strict=True)]


def _carried(content: bytes) -> list[bytes]:
    """Returns the bytes of each process, filled up with zeros to a power of two.

    Engines compile what they do for each length: so there are few of them.
    """
    length = max(LEAST_BYTES, 1 << (len(content) - 1).bit_length())
    words = np.frombuffer(content.ljust(length, b"\0"), WORD)
    return [own.tobytes() for own in _words_of_all(words)]


def _words_of_all(words: np.ndarray) -> list[np.ndarray]:
    """Returns the `(n,)` words of each process; n is the same in all of them."""
    carry = {
        "jax": _carried_by_jax,
        "tensorflow": _carried_by_tensorflow,
        "torch": _carried_by_torch,
    }
    try:
        return carry[keras.backend.backend()](words)
    except _errors_of_engines() as error:
        raise RuntimeError(
            f"Expected all {process_count()} processes to go on until the end. "
            f"Received: an error in what they tell each other, {error}. Another one "
            "has ended: look for its own error. Start all of them again; with the same "
            "`checkpoint` they go on from where they were."
        ) from error


def _carried_by_jax(words: np.ndarray) -> list[np.ndarray]:
    from jax.experimental import multihost_utils

    return list(np.asarray(multihost_utils.process_allgather(words)))


def _carried_by_tensorflow(words: np.ndarray) -> list[np.ndarray]:
    import tensorflow as tf

    strategy = _strategy.get()
    found = _gathering(strategy)(tf.convert_to_tensor(words))
    every = strategy.experimental_local_results(found)
    # All devices of a process tell the same; one of them is heard.
    of_devices = every[0].numpy().reshape(-1, len(words))
    return list(of_devices[:: len(of_devices) // process_count()])


@functools.cache
def _gathering(strategy: Any) -> Callable[[np.ndarray], Any]:
    """Returns a function that hands words round, compiled once for each length."""
    import tensorflow as tf

    def on_device(words: Any) -> Any:
        # The copy lies on the device, which has to be known.
        own = tf.identity(words)
        return tf.distribute.get_replica_context().all_gather(own, axis=0)

    return tf.function(lambda words: strategy.run(on_device, args=(words,)))


def _carried_by_torch(words: np.ndarray) -> list[np.ndarray]:
    import torch
    import torch.distributed as group

    device = "cpu" if group.get_backend() == "gloo" else keras.ops.zeros(()).device
    own = torch.tensor(words, device=device)
    found = [torch.empty_like(own) for _ in range(process_count())]
    group.all_gather(found, own)
    return [each.cpu().numpy() for each in found]


def _errors_of_engines() -> tuple[type[Exception], ...]:
    """Returns what an engine raises where another process does not answer."""
    if keras.backend.backend() != "tensorflow":
        return RuntimeError, ValueError, OSError
    import tensorflow as tf

    return (tf.errors.OpError,)
