"""Small networks in float32 and in int8: where integers are slower, and by what.

    python benchmarks/tflite_slower.py

Random weights. The files of each network are timed in turns in one thread, and then
each operation alone: the last column has the share that operations have which XNNPACK
does not run.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np

import tflite_export

layers = keras.layers
SIDE = 16

HEADER = """\
| network | float32 | int8 | ratio | in int8 not run by XNNPACK | their share |
|---|---:|---:|---:|---|---:|"""


def convolutions(activation):
    image = x = keras.Input((SIDE, SIDE, 3))
    for _ in range(3):
        x = layers.Conv2D(8, 3, padding="same", activation=activation)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10)(x))


def transformer():
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Reshape((16, 32))(layers.Conv2D(32, 4, strides=4)(image))
    for _ in range(2):
        normal = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 8)(normal, normal)
        x = x + layers.Dense(32)(layers.Dense(64, activation="relu")(x))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(image, layers.Dense(10)(x))


def mobile(constructor, **options):
    return constructor(input_shape=(96, 96, 3), weights=None, classes=10, **options)


NETWORKS = {
    "3 convolutions, `relu`": lambda: convolutions("relu"),
    "3 convolutions, `hard_silu`": lambda: convolutions("hard_silu"),
    "2 blocks of a transformer": transformer,
    "MobileNetV2, alpha 0.35, 96 x 96": lambda: mobile(
        keras.applications.MobileNetV2, alpha=0.35
    ),
    "MobileNetV3Small, 96 x 96": lambda: mobile(
        keras.applications.MobileNetV3Small, include_preprocessing=False
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500, help="of each file")
    runs = parser.parse_args().runs
    rng = np.random.default_rng(0)
    print(HEADER)
    for name, build in NETWORKS.items():
        keras.utils.set_random_seed(0)
        model = build()
        data = rng.normal(size=(32, *model.input_shape[1:]))
        with tempfile.TemporaryDirectory() as folder:
            path = tflite_export.convert(model, Path(folder) / "m.tflite")
            own = Path(folder) / "int8.tflite"
            tflite_export.convert(model, own, "int8", representative_data=data)
            print(line(name, [path, own], runs), flush=True)


def line(name, files, runs) -> str:
    comparison = tflite_export.compare(files, runs, warmup=runs // 10)
    before, after = (each.p50_ms for each in comparison.latencies)
    found = tflite_export.inspect(files[1], runs)
    whole = sum(each.p50_ms for each in found.operations)
    share = sum(each.p50_ms for each in found.fallen_off) / whole
    kinds = [each.kind for each in found.fallen_off]
    listed = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
    return (
        f"| {name} | {before:.4f} ms | {after:.4f} ms | {after / before:.2f} x "
        f"| {', '.join(listed) or 'none'} | {share:.0%} |"
    )


if __name__ == "__main__":
    main()
