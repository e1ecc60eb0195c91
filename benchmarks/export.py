"""The five ways to store MobileNetV2: accuracy, size, latency, memory.

python benchmarks/export.py
"""

import argparse
import tempfile
from pathlib import Path

from imagenet import load_model, read_images

import tflite_export

MODES = (None, "float16", "dynamic", "int8", "int8_full")
HEADER = """\
| `quantize` | top-1 | same top-1 as Keras | max error | .tflite | p50 latency \
| start-up | peak memory |
|---|---|---|---|---|---|---|---|"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=650, help="for accuracy")
    parser.add_argument("--runs", type=int, default=300, help="of each .tflite")
    arguments = parser.parse_args()
    model = load_model()
    typical, _ = read_images("imagenet_sample/all.tfrecord", 128)
    images, labels = read_images("imagenet_val650/val.tfrecord", arguments.images)
    expected = model.predict(images, verbose=0)
    print(f"Keras: {(expected.argmax(-1) == labels).mean():.1%}\n\n{HEADER}")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{mode}.tflite" for mode in MODES]
        for mode, path in zip(MODES, paths, strict=True):
            data = typical if mode in ("int8", "int8_full") else None
            tflite_export.convert(model, path, mode, representative_data=data)
        timed = tflite_export.compare(paths, arguments.runs)
        for mode, each, ratio in zip(MODES, timed.latencies, timed.ratios, strict=True):
            parity = tflite_export.verify(expected, each.path, images, len(images))
            top1 = tflite_export.accuracy(each.path, (images, labels))
            print(
                f"| `{mode}` | {top1:.1%} | {parity.top1_agreement:.1%} "
                f"| {parity.max_abs_error:.0e} | {each.size_bytes / 1e6:.1f} MB "
                f"| {each.p50_ms:.2f} ms ({ratio:.2f} x) | {each.init_ms:.0f} ms "
                f"| {each.peak_memory_mb:.0f} MB |"
            )


if __name__ == "__main__":
    main()
