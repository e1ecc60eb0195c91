"""The data that a command is given."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import keras
import numpy as np

from keras_greedy.cli.results import say
from keras_greedy.datasets import Examples, guess_preprocessing, load
from tflite_export.checks import check_count

# Of data that have no more examples than are asked for, this part is left to test on.
HELD_PART = 4
DIGITS = ("digits", "digits:train")
DIGITS_TO_TEST = "digits:test"
ARRAYS = (".npy", ".npz")
PIECE = 2048
"""Examples read at a time, where all of a data set are: 1.2 GB of 224 x 224 pixels."""

CLASSES_AXES = 2


def shapes_of(model: keras.Model) -> dict[str, tuple[int | None, ...]]:
    """Returns the shape of an example of each of a model's inputs, by its name."""
    return {tensor.name: tuple(tensor.shape[1:]) for tensor in model.inputs}


def classes_of(model: keras.Model) -> int | None:
    """Returns the number of classes of a classifier, `None` of another model."""
    (*others, output) = model.outputs
    is_one = not others and len(output.shape) == CLASSES_AXES
    return output.shape[-1] if is_one and (output.shape[-1] or 0) > 1 else None


def told_preprocessing(
    model: keras.Model,
    source: str,
    preprocessing: str | None,
) -> str | None:
    """Returns the preprocessing to use, and says so where the model tells it.

    Args:
        model: The model.
        source: The word for the data: those in arrays are as the model takes them.
        preprocessing: The one that the user asks for, if any.
    """
    if preprocessing is not None or _is_ready(source):
        return preprocessing
    guess = guess_preprocessing(model)
    if guess is not None:
        say(f"Preprocessing: {guess}, as model {model.name!r} tells")
    return guess


def read(
    source: str,
    shapes: Mapping[str, tuple[int | None, ...]],
    preprocessing: str | None,
    count: int | None,
    seed: int = 0,
) -> Examples:
    """Returns the first examples of a source, and says how many.

    Args:
        source: The word for the data.
        shapes: As for `keras_greedy.datasets.load`.
        preprocessing: As for `keras_greedy.datasets.load`.
        count: Most examples to read.
        seed: As for `keras_greedy.datasets.load`.
    """
    say(f"Reading {source}")
    examples = load(source, shapes, preprocessing, count, seed=seed)
    labels = "no labels" if examples.y is None else "labels"
    say(f"{len(examples):,} examples, {labels}")
    return examples


def read_in_pieces(
    source: str,
    shapes: Mapping[str, tuple[int | None, ...]],
    preprocessing: str | None,
    count: int | None,
) -> Iterator[Examples]:
    """Yields the examples of a source, as many at a time as fit into memory.

    Args:
        source: The word for the data; arrays are one piece.
        shapes: As for `keras_greedy.datasets.load`.
        preprocessing: As for `keras_greedy.datasets.load`.
        count: Most examples to read, or `None` for all.
    """
    most = count if _is_ready(source) else PIECE
    start = 0
    while count is None or start < count:
        size = most if count is None or most is None else min(most, count - start)
        piece = load(source, shapes, preprocessing, size, skip=start)
        if len(piece):
            yield piece
        start += len(piece)
        if size is None or len(piece) < size:
            return
        say(f"{start:,} examples")


def _is_ready(source: str) -> bool:
    """Returns whether examples are as the model takes them, without preprocessing."""
    return source.endswith(ARRAYS) or source.partition(":")[0] == "digits"


class Parts(NamedTuple):
    """Examples to prune with, and examples to test on; the latter may be the same."""

    own: Examples
    test: Examples
    is_held: bool

    @classmethod
    def of_test(cls, test: Examples) -> "Parts":
        """Returns the parts of a command that prunes nothing.

        Args:
            test: The examples to test on.
        """
        return cls(test.part(0, 0), test, is_held=True)

    @property
    def tested_on(self) -> str:
        """Returns words for the examples of the test."""
        kind = "other" if self.is_held else "of the same"
        return f"on {len(self.test):,} {kind} examples"


def read_parts(
    model: keras.Model,
    data: str,
    preprocessing: str | None,
    samples: int,
    test: str | None,
    test_samples: int,
    seed: int,
) -> Parts:
    """Reads the examples to prune with, and others to test on.

    Args:
        model: The model that they are for.
        data: The word for the data.
        preprocessing: As for `keras_greedy.datasets.load`.
        samples: The number of examples to prune with.
        test: The word for the data to test on, by default what `data` has left.
        test_samples: Most examples to test on.
        seed: As for `keras_greedy.datasets.load`.
    """
    samples = check_count("samples", samples, minimum=1)
    test_samples = check_count("test_samples", test_samples, minimum=1)
    shapes = shapes_of(model)
    classes = classes_of(model)
    if test is None and data in DIGITS:
        test = DIGITS_TO_TEST
    if test is not None:
        own = read(data, shapes, preprocessing, samples, seed)
        others = read(test, shapes, preprocessing, test_samples, seed)
        return Parts(fitting(own, classes), fitting(others, classes), is_held=True)
    both = read(data, shapes, preprocessing, samples + test_samples, seed)
    both = fitting(both, classes)
    count = len(both)
    if count <= samples:
        samples = count - count // HELD_PART
    if samples == count:
        return Parts(both, both, is_held=False)
    return Parts(both.part(0, samples), both.part(samples, count), is_held=True)


def fitting(examples: Examples, classes: int | None) -> Examples:
    """Returns the examples, without labels that are not the model's classes.

    Args:
        examples: The examples.
        classes: The number of the model's classes; labels stay if it is no classifier.
    """
    if examples.y is None or classes is None:
        return examples
    names = examples.class_names
    # A folder of some of the classes only would number them anew.
    is_numbered = all(name.isdecimal() for name in names)
    has_others = bool(names) and not is_numbered and len(names) != classes
    if has_others or not 0 <= _numbers(examples.y).max() < classes:
        count = len(names) or int(_numbers(examples.y).max()) + 1
        say(
            f"Labels are not used: they are of {count} classes, and the model has "
            f"{classes}"
        )
        return examples.without_labels()
    return examples


def _numbers(y: np.ndarray) -> np.ndarray:
    """Returns labels as numbers of classes, from these or from one-hot rows."""
    is_one_hot = y.ndim == CLASSES_AXES and y.shape[-1] > 1
    return y.argmax(axis=-1) if is_one_hot else y.reshape(-1)


def answers_of(model: keras.Model, examples: Examples) -> np.ndarray | None:
    """Returns the class that a classifier gives each example; `None` of another model.

    Args:
        model: The model.
        examples: The inputs.
    """
    if classes_of(model) is None:
        return None
    return np.argmax(model.predict(examples.x, verbose=0), axis=-1)


def top1(answers: np.ndarray | None, examples: Examples) -> float | None:
    """Returns the share of answers that are the labels; `None` where either is not.

    Args:
        answers: Of `answers_of`.
        examples: The examples, with their labels.
    """
    if answers is None or examples.y is None:
        return None
    return float((answers == _numbers(examples.y)).mean())
