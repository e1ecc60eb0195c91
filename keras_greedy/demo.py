"""The demo: real digits, a small MobileNetV2, half of its work taken away."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np

import keras_greedy
import tflite_export
from keras_greedy.datasets.handwritten import Labelled, digits
from keras_greedy.plots import picture, plot_curve
from keras_greedy.report import aligned
from tflite_export.checks import check_number, is_count
from tflite_export.files import replacing

# The contents of the report, or of a part of it: texts, numbers, lists of them.
Facts: TypeAlias = dict[str, Any]
# Prints a line.
Say: TypeAlias = Callable[[str], None]

IMAGE_SIZE = 64
CLASSES = 10
EPOCHS = 12
BATCH_SIZE = 64
PEAK_RATE = 5e-3
WARMUP_SHARE = 10
WEIGHT_DECAY = 0.05
CALIBRATION_IMAGES = 512
# The share of MACs of the model that is exported, and of all those that
# are measured as pruned.
BUDGET = 0.5
BUDGETS = (0.8, 0.65, BUDGET, 0.35)
TIMED_RUNS = 500
# Images are moved by up to a tenth of their size.
SHIFT_SHARE = 10

# Label, key of the facts, number format.
TABLE = (
    ("top-1", "top1", ".1%"),
    ("MACs", "macs", ","),
    ("parameters", "params", ","),
    (".tflite bytes", "tflite_bytes", ","),
    (".tflite p50 latency, ms", "p50_ms", ".4f"),
)


def run(
    output: str | Path = "demo_output",
    epochs: int = EPOCHS,
    seed: int = 0,
) -> Facts:
    """Trains, prunes, exports and times; prints one table.

    Writes `full.keras`, `compact.keras`, `full.tflite`, `compact.tflite`,
    `report.json` and `tradeoff.png`. It takes some minutes.

    Args:
        output: The folder to write to; made if it is not there.
        epochs: How long to train the full model.
        seed: Of everything random.

    Returns:
        The contents of `report.json`.

    Raises:
        ImportError: When an optional package is missing; says how to install it.
        OSError: When the folder cannot be made.
        ValueError: When an argument is not as described, or Keras runs on another
            backend than TensorFlow.

    Example:

    ```sh
    keras-greedy demo --output demo_output
    ```
    """
    folder = _prepared(output, epochs, seed)
    say = _Clock()
    train, test = digits(IMAGE_SIZE)
    images, _ = train
    say(f"{len(images):,} handwritten digits to train on, {len(test[0])} to test on")
    rng = np.random.default_rng(seed)
    full = _trained(train, epochs, rng, say)

    say("Searching, once for every budget")
    calibration = images[:CALIBRATION_IMAGES]
    paths = keras_greedy.search(full, calibration, seed=seed, verbose=0)
    models = {1.0: full}
    for budget in BUDGETS:
        models[budget] = paths.compact(budget)
    pruned = _top1_of_each(models, test, say)

    say("Exporting both, comparing the files with Keras, timing them in turns")
    compact = models[BUDGET]
    before, after = _exported({"full": full, "compact": compact}, folder, test)
    facts = {
        "seed": seed,
        "epochs": epochs,
        "before": before,
        "after": after,
        "tradeoff": [{"macs": m, "top1": top1} for m, top1 in pruned.items()],
        "predicted": paths.curve(),
        "report": json.loads(keras_greedy.compare(full, compact).to_json()),
    }
    _write(facts, folder)
    files = ", ".join(sorted(path.name for path in folder.iterdir()))
    say(f"Written to {folder}: {files}\n\n{_table(before, after)}")
    return facts


class _Clock:
    """Prints lines, each with the seconds since the start before it."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        seconds = time.monotonic() - self._start
        print(f"[{seconds:3.0f} s] {line}", flush=True)


def _prepared(output: str | Path, epochs: int, seed: int) -> Path:
    """Makes the folder; raises for all that would only show after minutes."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected Keras to run on TensorFlow, which the export needs. Received: "
            f"KERAS_BACKEND={keras.backend.backend()}"
        )
    check_number("epochs", epochs, "a positive integer", is_count(epochs))
    keras.utils.set_random_seed(seed)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    picture(folder / "tradeoff.png")
    return folder


def _network(shape: tuple[int, ...]) -> keras.Model:
    return keras.applications.MobileNetV2(
        shape,
        alpha=0.35,
        weights=None,
        classes=CLASSES,
    )


def _trained(
    train: Labelled,
    epochs: int,
    rng: np.random.Generator,
    say: Say,
) -> keras.Model:
    images, labels = train
    model = _network(images.shape[1:])
    say(f"Training a MobileNetV2 of {keras_greedy.macs(model):,} MACs")
    steps = epochs * math.ceil(len(images) / BATCH_SIZE)
    warmup = steps // WARMUP_SHARE
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps - warmup,
        warmup_target=PEAK_RATE,
        warmup_steps=warmup,
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    # One `fit` per epoch, so that each has other shifts of the images.
    for epoch in range(1, epochs + 1):
        shifted = _shifted(images, rng)
        history = model.fit(shifted, labels, batch_size=BATCH_SIZE, verbose=0).history
        loss = history["loss"][0]
        accuracy = history["accuracy"][0]
        say(f"  epoch {epoch}/{epochs}: loss {loss:.3f}, accuracy {accuracy:.1%}")
    # The moving statistics of its BatchNorm take in 0.1 % of each batch: after so few
    # they are still mostly their initial values.
    keras_greedy.reestimate_batch_norm(model, images)
    return model


def _shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves each image by up to a tenth of its size, at random."""
    size = images.shape[1]
    by = size // SHIFT_SHARE
    padded = np.pad(images, ((0, 0), (by, by), (by, by), (0, 0)))
    corners = rng.integers(0, 2 * by + 1, (len(images), 2))
    shifted = np.empty_like(images)
    for i, (top, left) in enumerate(corners):
        shifted[i] = padded[i, top : top + size, left : left + size]
    return shifted


def _top1(model: keras.Model, test: Labelled) -> float:
    images, labels = test
    predictions = keras.ops.convert_to_numpy(model(images, training=False))
    return float((predictions.argmax(axis=-1) == labels).mean())


def _top1_of_each(
    models: dict[float, keras.Model],
    test: Labelled,
    say: Say,
) -> dict[float, float]:
    """Returns the accuracy of each model, by its share of MACs."""
    found = {}
    for share, model in models.items():
        found[share] = _top1(model, test)
        say(f"  {share:4.0%} of the MACs: top-1 {found[share]:.1%}")
    return found


def _exported(
    models: dict[str, keras.Model],
    folder: Path,
    test: Labelled,
) -> list[Facts]:
    """Writes each model in both forms, checks and times it.

    Args:
        models: Name of the files -> model.
        folder: The folder to write to.
        test: The images to compare Keras and the file on.

    Returns:
        For each model the facts of the table.
    """
    images, _ = test
    facts: list[Facts] = []
    for name, model in models.items():
        with replacing(folder / f"{name}.keras") as temporary:
            model.save(temporary)
        path = tflite_export.convert(model, folder / f"{name}.tflite")
        parity = tflite_export.verify(model, path, images, max_samples=len(images))
        if not parity.ok():
            raise RuntimeError(f"The file computes another thing than Keras: {parity}")
        fact: Facts = {
            "top1": _top1(model, test),
            "macs": keras_greedy.macs(model),
            "params": keras_greedy.count_params(model),
            "max_abs_error": parity.max_abs_error,
        }
        facts.append(fact)

    # Together, so that noise hits all alike.
    files = [folder / f"{name}.tflite" for name in models]
    timed = tflite_export.compare(files, TIMED_RUNS).latencies
    for fact, latency in zip(facts, timed, strict=True):
        fact["tflite_bytes"] = latency.size_bytes
        fact["p50_ms"] = latency.p50_ms
    return facts


def _write(facts: Facts, folder: Path) -> None:
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    pruned = [(point["macs"], point["top1"]) for point in facts["tradeoff"]]
    plot_curve(facts["predicted"], folder / "tradeoff.png", {"measured": pruned})


def _table(before: Facts, after: Facts) -> str:
    rows = [("", "before", "after", "ratio")]
    for label, key, number_format in TABLE:
        old = before[key]
        new = after[key]
        row = (
            label,
            format(old, number_format),
            format(new, number_format),
            f"{new / old:.3f}",
        )
        rows.append(row)
    return aligned(rows)
