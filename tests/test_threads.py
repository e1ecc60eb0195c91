"""Work that is spread over the cores."""

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from keras_greedy import threads
from keras_greedy.threads import in_parallel


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(threads, "_cores", lambda: 2)


def test_results_come_in_the_order_of_the_items():
    def slow_first(item):
        time.sleep(0.05 if item == 0 else 0)
        return item * item

    assert [*in_parallel(slow_first, range(7))] == [0, 1, 4, 9, 16, 25, 36]


def test_two_items_are_worked_on_at_once():
    # Each waits for the other: alone, neither would get there.
    both = threading.Barrier(2, timeout=30)
    assert len([*in_parallel(lambda _: both.wait(), range(2))]) == 2


def test_few_items_are_taken_before_their_results_are():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    results = in_parallel(lambda item: item, items())
    assert next(results) == 0
    assert len(taken) <= 4
    results.close()


def test_no_items_give_no_results():
    assert [*in_parallel(str, [])] == []


def test_an_error_of_one_item_is_raised_and_the_next_ones_are_left():
    begun = []

    def fail(item):
        begun.append(item)
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        list(in_parallel(fail, range(100)))
    assert len(begun) <= 4


def test_a_product_has_one_core_and_as_many_as_before_afterwards():
    before = threads_of_products()
    inside = in_parallel(lambda _: threads_of_products(), range(2))
    assert {number for own in inside for number in own} <= {1}
    assert threads_of_products() == before


def threads_of_products():
    np.ones((8, 8)) @ np.ones((8, 8))
    pools = threadpool_info()
    return [own["num_threads"] for own in pools if own["user_api"] == "blas"]
