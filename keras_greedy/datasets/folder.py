"""Folders of pictures."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from keras_greedy.datasets.examples import Examples
from keras_greedy.datasets.pictures import Size, check_channels, read_picture
from tflite_export.checks import check_count

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}


def from_folder(
    path: str | Path,
    size: Size,
    channels: int = 3,
    count: int | None = None,
    skip: int = 0,
    seed: int = 0,
) -> Examples:
    """Reads pictures out of a folder, in a random order that is always the same.

    Where it has folders inside, each of them is a class, as for
    `keras.utils.image_dataset_from_directory`: in the order of their names, or, where
    all names are whole numbers, with these as labels. Otherwise there are no labels.

    Pictures are scaled until they cover the size, and cut to it in the middle.

    Args:
        path: The folder.
        size: Height and width that the model takes.
        channels: The channels that it takes: 1, 3 or 4.
        count: Most pictures to read; by default all.
        skip: The number of pictures to leave out before.
        seed: Of the order.

    Returns:
        The `Examples`, x as integers from 0 to 255: see `preprocess`. There may be
        none left behind `skip`.

    Raises:
        FileNotFoundError: When there is no such folder.
        ImportError: When Pillow is not installed; says how to install it.
        ValueError: When there are no pictures, or one cannot be read.

    Example:

    ```python
    import keras
    import numpy as np
    from pathlib import Path
    from keras_greedy.datasets import from_folder, preprocess

    for name in ("cats", "dogs"):
        Path("pets", name).mkdir(parents=True)
        picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3))
        keras.utils.save_img(f"pets/{name}/1.png", picture)

    examples = from_folder("pets", (32, 32))
    assert examples.class_names == ("cats", "dogs")
    images = preprocess(examples.x, "mobilenet_v2")
    assert images.shape == (2, 32, 32, 3)
    ```
    """
    check_channels(channels)
    skip = check_count("skip", skip, minimum=0)
    if count is not None:
        count = check_count("count", count, minimum=1)
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(
            "Expected `path` to be a folder of pictures. Received: "
            f"path={str(path)!r}, which does not exist"
        )
    names, labels, files = _listed(folder)
    if not files:
        raise ValueError(
            "Expected `path` to be a folder of pictures, or of a folder of them "
            f"for each class: files ending in {', '.join(sorted(SUFFIXES))}. Received: "
            f"path={str(path)!r}, with none"
        )
    order = np.random.default_rng(seed).permutation(len(files))[skip:][:count]
    x = np.empty((len(order), *size, channels), "uint8")
    for row, index in enumerate(order):
        x[row] = read_picture(files[index], size, channels)
    y = np.array(labels)[order] if names else None
    return Examples(x, y, names)


def _listed(folder: Path) -> tuple[tuple[str, ...], list[int], list[Path]]:
    """Returns the names of the classes, and the label and path of each picture."""
    inside = sorted(each for each in folder.iterdir() if each.is_dir())
    classes = [each for each in inside if not each.name.startswith(".")]
    if not classes:
        return (), [], _pictures(folder.iterdir())
    is_numbered = all(each.name.isdecimal() for each in classes)
    if is_numbered:
        classes.sort(key=lambda each: int(each.name))
    labels: list[int] = []
    files: list[Path] = []
    for position, each in enumerate(classes):
        pictures = _pictures(each.rglob("*"))
        label = int(each.name) if is_numbered else position
        labels += [label] * len(pictures)
        files += pictures
    return tuple(each.name for each in classes), labels, files


def _pictures(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES)
