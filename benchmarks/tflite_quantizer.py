"""MobileNetV2 quantized by TensorFlow's converter and by litert-quantizer.

    python benchmarks/tflite_quantizer.py

Whole and pruned, by one search on 512 images of `imagenet_sample`, without training.
The first 128 of them calibrate, `imagenet_val650` tells top-1, and all files are timed
in turns in one thread. `--models FOLDER` keeps the pruned models for the next time.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
from imagenet import load_model, read_images

import keras_greedy
import tflite_export

FULL = "100 % MACs"
BUDGETS = {"73 % MACs": 0.73, "50 % MACs": 0.5}
CALIBRATION = 128

CONVERTER, QUANTIZER = "`convert`", "`quantize`"
LAST_LAYERS = "predictions|Conv_1_"
"""The classifier and the convolution before it hold half of the weights."""

LAST_IN_FOUR = {".*": "int8", LAST_LAYERS: "int4"}
RECIPES = {
    "`int8`": "int8",
    "`int4`": "int4",
    "`int8`, last two layers `int4`": LAST_IN_FOUR,
}
OF_FULL = {"`int4` in all layers": {".*": "int4"}, "`int16x8`": "int16x8"}
"""Of the full model only: they lose all, or take long."""

HEADER = """\
| model | by | numbers | top-1 | same top-1 as float | .tflite | p50 latency \
| start-up | peak memory |
|---|---|---|---:|---:|---:|---:|---:|---:|"""


def main():
    arguments = parse_arguments()
    typical, _ = read_images("imagenet_sample/all.tfrecord", 512)
    test = read_images("imagenet_val650/val.tfrecord", arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        models = pruned(Path(arguments.models or folder), typical)
        files = {}
        for name, model in models.items():
            files |= exported(name, model, typical[:CALIBRATION], Path(folder))
        print("\n".join(["", HEADER, *lines(files, test, arguments.runs)]))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=650, help="for accuracy")
    parser.add_argument("--runs", type=int, default=50, help="of each .tflite")
    parser.add_argument("--models", help="folder that keeps the pruned models")
    return parser.parse_args()


def pruned(folder, typical) -> dict[str, keras.Model]:
    """The full model and the compact ones, made if they are not in the folder."""
    models = {FULL: load_model()}
    files = {name: folder / f"{name[:2]}.keras" for name in BUDGETS}
    if not all(file.exists() for file in files.values()):
        paths = keras_greedy.search(models[FULL], typical, verbose=2)
        for name, budget in BUDGETS.items():
            paths.compact(budget).save(files[name])
    for name, file in files.items():
        models[name] = keras.saving.load_model(file, compile=False)
    return models


def exported(name, model, typical, folder) -> dict[tuple, Path]:
    """`(model, what made it, numbers)` -> file."""
    print(f"Exporting {name}", flush=True)
    path = tflite_export.convert(model, folder / f"{name}.tflite")
    own = folder / f"{name} converter.tflite"
    tflite_export.convert(model, own, "int8", representative_data=typical)
    files = {(name, CONVERTER, "float32"): path, (name, CONVERTER, "`int8`"): own}
    recipes = RECIPES | (OF_FULL if name == FULL else {})
    for number, (numbers, recipe) in enumerate(recipes.items()):
        target = folder / f"{name} {number}.tflite"
        files[name, QUANTIZER, numbers] = tflite_export.quantize(
            path, target, recipe, typical
        )
    return files


def lines(files, test, runs):
    """The rows of the table."""
    images, labels = test
    latencies = tflite_export.compare(files.values(), runs).latencies
    classes = {}
    for (kind, path), latency in zip(files.items(), latencies, strict=True):
        name, by, numbers = kind
        (outputs,) = tflite_export.run(path, images).values()
        found = outputs.argmax(-1)
        # The float file is the first one of each model.
        expected = classes.setdefault(name, found)
        yield (
            f"| {name} | {by} | {numbers} | {np.mean(found == labels):.1%} "
            f"| {np.mean(found == expected):.1%} | {latency.size_bytes / 1e6:.2f} MB "
            f"| {latency.p50_ms:.2f} ms | {latency.init_ms:.0f} ms "
            f"| {latency.peak_memory_mb:.0f} MB |"
        )


if __name__ == "__main__":
    main()
