"""The demo: real digits, a small MobileNetV2, half of its work taken away."""

import json
import math
import time
from pathlib import Path

import keras
import numpy as np

import keras_greedy
import tflite_export
from keras_greedy.datasets import digits
from keras_greedy.report import aligned, picture, plot_curve
from tflite_export.files import replacing

IMAGE_SIZE = 64
EPOCHS = 12
BATCH_SIZE = 64
CALIBRATION_IMAGES = 512
BUDGET = 0.5
BUDGETS = (0.8, 0.65, BUDGET, 0.35)
FINETUNE_EPOCHS = 4
TIMED_RUNS = 500


def run(output="demo_output", epochs: int = EPOCHS, seed: int = 0) -> dict:
    """Trains, prunes, fine-tunes, exports and times; prints one table.

    Writes `full.keras`, `compact.keras`, `full.tflite`, `compact.tflite`,
    `report.json` and `tradeoff.png`.

    Args:
        output: The folder to write to; made if it is not there.
        epochs: How long to train the full model.
        seed: Of everything random.

    Returns:
        What `report.json` holds.

    Raises:
        ImportError: When an optional package is missing; says how to install it.
        OSError: When the folder cannot be made.
        ValueError: When an argument is not as described, or Keras runs on another
            backend than TensorFlow.

    Example:

    ```python
    from keras_greedy import demo

    print(demo.run("demo_output")["after"]["top1"])
    ```
    """
    folder, say = _prepared(output, epochs, seed), _Clock()
    train, test = digits(IMAGE_SIZE)
    say(f"{len(train[0]):,} handwritten digits to train on, {len(test[0])} to test on")
    rng = np.random.default_rng(seed)
    full = _trained(train, epochs, rng, say)
    say("Searching, once for every budget")
    calibration = train[0][:CALIBRATION_IMAGES]
    paths = keras_greedy.search(full, calibration, seed=seed, verbose=0)
    compacts = {budget: paths.compact(budget) for budget in BUDGETS}
    pruned = _top1_as_pruned({1.0: full} | compacts, test, say)
    compact = compacts[BUDGET]
    _finetune(compact, full, train[0], rng, say)
    say("Exporting both, comparing the files with Keras, timing them in turns")
    before, after = _shipped({"full": full, "compact": compact}, folder, test)
    after["top1_as_pruned"] = pruned[BUDGET]
    facts = {
        "seed": seed,
        "epochs": epochs,
        "before": before,
        "after": after,
        "tradeoff": [{"macs": m, "top1_as_pruned": top1} for m, top1 in pruned.items()],
        "predicted": paths.curve(),
        "report": json.loads(keras_greedy.compare(full, compact).to_json()),
    }
    _write(facts, folder)
    files = ", ".join(sorted(path.name for path in folder.iterdir()))
    say(f"Written to {folder}: {files}\n\n{_table(before, after)}")
    return facts


class _Clock:
    """Prints lines, each with the seconds since the start before it."""

    def __init__(self):
        self._start = time.monotonic()

    def __call__(self, line):
        print(f"[{time.monotonic() - self._start:3.0f} s] {line}", flush=True)


def _prepared(output, epochs, seed) -> Path:
    """The folder; raises for all that would only show after minutes."""
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected Keras to run on TensorFlow, which the export needs. Received: "
            f"KERAS_BACKEND={keras.backend.backend()}"
        )
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(
            f"Expected `epochs` to be a positive integer. Received: epochs={epochs!r}"
        )
    keras.utils.set_random_seed(seed)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    picture(folder / "tradeoff.png")
    return folder


def _network(shape) -> keras.Model:
    return keras.applications.MobileNetV2(shape, alpha=0.35, weights=None, classes=10)


def _trained(train, epochs, rng, say) -> keras.Model:
    images, labels = train
    model = _network(images.shape[1:])
    say(f"Training a MobileNetV2 of {keras_greedy.macs(model):,} MACs")
    steps = epochs * math.ceil(len(images) / BATCH_SIZE)
    warmup = steps // 10
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, warmup_target=5e-3, warmup_steps=warmup
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.05)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    for epoch in range(1, epochs + 1):
        logs = model.fit(
            _shifted(images, rng), labels, batch_size=BATCH_SIZE, verbose=0
        ).history
        (loss,), (accuracy,) = logs["loss"], logs["accuracy"]
        say(f"  epoch {epoch}/{epochs}: loss {loss:.3f}, accuracy {accuracy:.1%}")
    # Its BatchNorm takes in 0.1 % of each batch: not at home yet after this few.
    keras_greedy.reestimate_batch_norm(model, images)
    return model


def _shifted(images, rng):
    """Each image moved by up to a tenth of its size, at random."""
    size = images.shape[1]
    by = size // 10
    padded = np.pad(images, ((0, 0), (by, by), (by, by), (0, 0)))
    corners = rng.integers(0, 2 * by + 1, (len(images), 2))
    pairs = zip(padded, corners, strict=True)
    return np.stack([image[y : y + size, x : x + size] for image, (y, x) in pairs])


def _top1(model, test) -> float:
    images, labels = test
    answers = keras.ops.convert_to_numpy(model(images, training=False))
    return float((answers.argmax(axis=-1) == labels).mean())


def _top1_as_pruned(models, test, say) -> dict[float, float]:
    found = {}
    for share, model in models.items():
        found[share] = _top1(model, test)
        say(f"  {share:4.0%} of the MACs: top-1 {found[share]:.1%}, not fine-tuned")
    return found


def _finetune(compact, full, images, rng, say) -> None:
    say(f"Fine-tuning the one of {BUDGET:.0%} towards the full model's answers")
    lessons = np.concatenate([_shifted(images, rng) for _ in range(FINETUNE_EPOCHS)])
    rate = keras.optimizers.schedules.CosineDecay(2e-3, math.ceil(len(lessons) / 32))
    tuning = keras_greedy.FineTune(optimizer=keras.optimizers.Adam(rate), distill=True)
    tuning.apply(compact, full, lessons, verbose=0)


def _shipped(models, folder, test) -> list[dict]:
    """Writes and checks both forms of the models; returns what the table says."""
    facts = []
    for name, model in models.items():
        with replacing(folder / f"{name}.keras") as temporary:
            model.save(temporary)
        path = tflite_export.convert(model, folder / f"{name}.tflite")
        parity = tflite_export.verify(model, path, test[0], max_samples=len(test[0]))
        if not parity.ok():
            raise RuntimeError(f"The file computes another thing than Keras: {parity}")
        facts.append(
            {
                "top1": _top1(model, test),
                "macs": keras_greedy.macs(model),
                "params": keras_greedy.count_params(model),
                "max_abs_error": parity.max_abs_error,
            }
        )
    files = [folder / f"{name}.tflite" for name in models]
    timed = tflite_export.compare(files, TIMED_RUNS).latencies
    for fact, latency in zip(facts, timed, strict=True):
        fact |= {"tflite_bytes": latency.size_bytes, "p50_ms": latency.p50_ms}
    return facts


def _write(facts, folder) -> None:
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    measured = {
        "as pruned": [tuple(point.values()) for point in facts["tradeoff"]],
        "fine-tuned": [(facts["report"]["macs"]["kept"], facts["after"]["top1"])],
    }
    plot_curve(facts["predicted"], folder / "tradeoff.png", measured)


def _table(before, after) -> str:
    rows = [("", "before", "after", "ratio")]
    for name, key, form in (
        ("top-1, as pruned", "top1_as_pruned", ".1%"),
        ("top-1, fine-tuned", "top1", ".1%"),
        ("MACs", "macs", ","),
        ("parameters", "params", ","),
        (".tflite bytes", "tflite_bytes", ","),
        (".tflite p50 latency, ms", "p50_ms", ".4f"),
    ):
        old, new = before[key.removesuffix("_as_pruned")], after[key]
        rows.append((name, f"{old:{form}}", f"{new:{form}}", f"{new / old:.3f}"))
    return aligned(rows)
