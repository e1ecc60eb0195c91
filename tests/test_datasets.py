"""The digits that come with scikit-learn."""

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_greedy.datasets import digits


def test_digits_are_split_into_images_to_train_and_to_test_on():
    (x_train, y_train), (x_test, y_test) = digits(32)
    assert x_train.shape == (1437, 32, 32, 1)
    assert x_test.shape == (360, 32, 32, 1)
    assert y_train.shape == (1437,)
    assert y_test.shape == (360,)


def test_digits_are_float32_from_0_to_1():
    for images, _ in digits(32):
        assert images.dtype == "float32"
        assert images.min() == 0
        assert images.max() == 1


def test_at_their_own_size_digits_are_those_of_scikit_learn_each_once():
    train, test = digits(8)
    images, labels = (np.concatenate(parts) for parts in zip(train, test, strict=True))
    bunch = load_digits()
    received = sorted(
        (*image.ravel(), y) for image, y in zip(images, labels, strict=True)
    )
    expected = sorted(
        (*image.ravel(), y)
        for image, y in zip(bunch.images / 16, bunch.target, strict=True)
    )
    np.testing.assert_array_equal(received, expected)


def test_enlarged_digits_keep_their_label_and_their_picture():
    (small, labels), _ = digits(8)
    (large, same), _ = digits(32)
    np.testing.assert_array_equal(labels, same)
    shrunk = large.reshape(-1, 8, 4, 8, 4, 1).mean(axis=(2, 4))
    assert np.abs(shrunk - small).mean() < 0.1
    assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.95


def test_the_split_is_the_same_each_time():
    for (x, y), (x_again, y_again) in zip(digits(8), digits(8), strict=True):
        np.testing.assert_array_equal(x, x_again)
        np.testing.assert_array_equal(y, y_again)


def test_every_class_is_in_both_parts():
    for _, labels in digits(8):
        assert np.bincount(labels, minlength=10).min() > len(labels) / 20


@pytest.mark.parametrize("size", [7, 0, -8, 32.0, "32", None])
def test_a_wrong_size_is_named(size):
    with pytest.raises(
        ValueError, match="Expected `size` to be an integer of at least"
    ):
        digits(size)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_greedy\[datasets\]'"):
        digits()
