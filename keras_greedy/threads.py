"""Work on the host, spread over the cores: one item on each, in order."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 8
"""What each works on is in memory together."""


def in_parallel(
    function: Callable[[Item], Result],
    items: Iterable[Item],
) -> Iterator[Result]:
    """Yields `function(item)` of each item, in their order, made on several cores.

    The function works with NumPy and SciPy, which let other threads run meanwhile. Each
    call has one core: many small products gain nothing from more, and threads of two
    products on busy cores wait for each other. So results are the same for any number
    of cores, too.

    Args:
        function: Maps an item to its result. When it raises, so does this.
        items: Taken a few at a time, as results are.
    """
    threads = min(_cores(), MOST_THREADS)
    waiting: collections.deque[Future[Result]] = collections.deque()
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
