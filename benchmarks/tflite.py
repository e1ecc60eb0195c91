"""MobileNetV2 in the five ways to store it, whole and pruned, and a latency budget.

    python benchmarks/tflite.py

One search, without training; calibrates on `imagenet_sample`, measures top-1 on
`imagenet_val650` and latency in one thread, all files in turns. Prints the table of the
README, and whether what is expected of it was met.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from imagenet import load_model, read_images

import keras_greedy
import tflite_export

MODES = (None, "float16", "dynamic", "int8", "int8_full")
FULL, HALF, TIMED = "100 % MACs", "50 % MACs", "latency 0.6"
LATENCY = keras_greedy.Budget(latency=0.6)
HEADER = """\
| model | `quantize` | top-1 | same top-1 as Keras | max error | .tflite | p50 latency \
| to its full model | start-up | peak memory |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"""


def main():
    arguments = parse_arguments()
    model = load_model()
    typical, _ = read_images("imagenet_sample/all.tfrecord", arguments.calibration)
    test = read_images("imagenet_val650/val.tfrecord", arguments.images)
    paths = keras_greedy.search(model, typical, verbose=2)
    models = {
        FULL: model,
        "73 % MACs": paths.compact(0.73),
        HALF: paths.compact(0.5),
        TIMED: paths.compact(LATENCY),
    }
    kinds = [(n, mode) for n in models for mode in MODES if mode is None or n != TIMED]
    with tempfile.TemporaryDirectory() as folder:
        files = {kind: exported(models, kind, typical, folder) for kind in kinds}
        rows = measured(models, files, test, arguments.runs)
    print("\n".join(["", HEADER, *map(line, rows.values())]))
    promised = paths.report(LATENCY)
    print(
        f"\nLatency budget of {LATENCY.latency}: {promised.predicted_ms.kept:.3f} of "
        f"the full model's predicted, {promised.measured_ms.kept:.3f} measured when "
        f"pruned, {rows[TIMED, None]['ratio']:.3f} in this table; "
        f"{promised.macs.kept:.1%} of the MACs\n"
    )
    for what, value, met in checks(rows):
        print(f"- {what}: {value}, {'met' if met else 'MISSED'}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=650, help="for accuracy")
    parser.add_argument("--calibration", type=int, default=512, help="images to prune")
    parser.add_argument("--runs", type=int, default=200, help="of each .tflite")
    return parser.parse_args()


def exported(models, kind, typical, folder) -> Path:
    """The file of a model and a mode; `convert` reads the first 128 images."""
    name, mode = kind
    path = Path(folder) / f"{name} {mode}.tflite"
    print(f"Exporting {path.stem}", flush=True)
    data = typical if mode in ("int8", "int8_full") else None
    return tflite_export.convert(models[name], path, mode, representative_data=data)


def measured(models, files, test, runs) -> dict[tuple, dict]:
    """(model, mode) -> what the table says of it."""
    images, labels = test
    timed = tflite_export.compare(files.values(), runs).latencies
    timed = dict(zip(files, timed, strict=True))
    keras_outputs = {
        name: model.predict(images, batch_size=32, verbose=0)
        for name, model in models.items()
    }
    rows = {}
    for (name, mode), latency in timed.items():
        print(f"Running {name} {mode}", flush=True)
        (outputs,) = tflite_export.run(latency.path, images).values()
        expected = keras_outputs[name]
        rows[name, mode] = {
            "name": name,
            "mode": mode,
            "latency": latency,
            "ratio": latency.p50_ms / timed[FULL, mode].p50_ms,
            "top1": np.mean(outputs.argmax(-1) == labels),
            "agreement": np.mean(outputs.argmax(-1) == expected.argmax(-1)),
            "error": np.abs(outputs - expected).max(),
        }
    return rows


def line(row) -> str:
    latency = row["latency"]
    return (
        f"| {row['name']} | `{row['mode']}` | {row['top1']:.1%} "
        f"| {row['agreement']:.1%} | {row['error']:.0e} "
        f"| {latency.size_bytes / 1e6:.1f} MB | {latency.p50_ms:.2f} ms "
        f"| {row['ratio']:.2f} x | {latency.init_ms:.0f} ms "
        f"| {latency.peak_memory_mb:.0f} MB |"
    )


def checks(rows):
    """`(what was expected, what was found, whether it was met)`."""
    for mode, least in ((None, 1.7), ("int8", 1.5)):
        speedup = 1 / rows[HALF, mode]["ratio"]
        what = f"{HALF} is at least {least} x as fast, `{mode}`"
        yield what, f"{speedup:.2f} x", speedup >= least
    for name in dict.fromkeys(name for name, mode in rows if mode == "int8"):
        lost = 100 * (rows[name, None]["top1"] - rows[name, "int8"]["top1"])
        what = f"int8 costs at most 2 points of top-1, {name}"
        yield what, f"{lost:.1f}", lost <= 2
    off = rows[TIMED, None]["ratio"] / LATENCY.latency - 1
    yield f"a {TIMED} is met within 8 %", f"{off:+.1%}", abs(off) <= 0.08


if __name__ == "__main__":
    main()
