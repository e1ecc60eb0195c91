"""Trains networks on CIFAR-10 with labels: crops, mirroring, SGD and a cosine."""

import dataclasses

import keras
import numpy as np

BATCH = 128
BORDER = 4
"""Pixels padded at each side before the crop."""

MOMENTUM = 0.9
WARM_UP = 0.05
"""Of the steps, until the learning rate is reached."""

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Images and their classes.

    Attributes:
        images: Normalized, `(n, 32, 32, 3)`.
        labels: `(n,)`.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: np.ndarray | slice) -> "Labelled":
        """Returns some of them."""
        return Labelled(self.images[indices], self.labels[indices])


def train(
    model: keras.Model,
    data: Labelled,
    epochs: float,
    rate: float,
    seed: int,
) -> None:
    """Trains a network of logits in place.

    Args:
        model: The network; it is compiled anew.
        data: To train on.
        epochs: Passes over the data; the last may end before all are seen.
        rate: The greatest learning rate, which then falls to 0 as a cosine.
        seed: Of the order and the views of the images.
    """
    steps = max(1, round(epochs * len(data) / BATCH))
    model.compile(_optimizer(rate, steps), LOSS, jit_compile=False)
    rng = np.random.default_rng(seed)
    while steps > 0:
        order = rng.permutation(len(data))[: steps * BATCH]
        views = random_views(data.images[order], rng)
        labels = data.labels[order]
        model.fit(views, labels, batch_size=BATCH, shuffle=False, verbose=0)
        steps -= -(-len(order) // BATCH)


def random_views(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns each image shifted by up to four pixels, and half of them mirrored."""
    border = ((0, 0), (BORDER, BORDER), (BORDER, BORDER), (0, 0))
    size = images.shape[1:3]
    # (n, 9, 9, 3, height, width): the crop at each offset, without a copy.
    crops = np.lib.stride_tricks.sliding_window_view(
        np.pad(images, border), size, axis=(1, 2)
    )
    rows, columns = rng.integers(0, 2 * BORDER + 1, (2, len(images)))
    views = crops[np.arange(len(images)), rows, columns].transpose(0, 2, 3, 1)
    is_mirrored = rng.random(len(images)) < 0.5
    return np.where(is_mirrored[:, None, None, None], views[:, :, ::-1], views)


def top1(model: keras.Model, data: Labelled) -> float:
    """Returns the share of the images that a network classifies correctly."""
    outputs = model.predict(data.images, batch_size=BATCH, verbose=0)
    return float(np.mean(outputs.argmax(axis=-1) == data.labels))


def _optimizer(rate: float, steps: int) -> keras.Optimizer:
    warm_up = round(WARM_UP * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0 if warm_up else rate,
        decay_steps=steps - warm_up,
        warmup_target=rate if warm_up else None,
        warmup_steps=warm_up,
    )
    return keras.optimizers.SGD(schedule, momentum=MOMENTUM, nesterov=True)
