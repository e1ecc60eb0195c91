"""The five ways to store MobileNetV2: accuracy, size, latency, memory.

python benchmarks/export.py --folder /tmp/exported
"""

import argparse
import tempfile
from pathlib import Path

from imagenet import load_model, read_images

import tflite_export

MODES = (None, "float16", "dynamic", "int8", "int8_full")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.mkdtemp()))
    parser.add_argument(
        "--images", type=int, default=650, help="to measure accuracy on"
    )
    parser.add_argument("--runs", type=int, default=200)
    arguments = parser.parse_args()
    model = load_model()
    typical, _ = read_images("imagenet_sample/all.tfrecord", 128)
    images, labels = read_images("imagenet_val650/val.tfrecord", arguments.images)
    expected = model.predict(images, verbose=0)
    print(f"Keras: {(expected.argmax(-1) == labels).mean():.1%}\n", flush=True)
    print("| `quantize` | top-1 | same top-1 as Keras | max error | mean error |")
    print("|---|---|---|---|---|")
    paths = [arguments.folder / f"{mode}.tflite" for mode in MODES]
    for mode, path in zip(MODES, paths, strict=True):
        data = typical if mode in ("int8", "int8_full") else None
        tflite_export.convert(model, path, mode, representative_data=data)
        parity = tflite_export.verify(expected, path, images, max_samples=len(images))
        top1 = tflite_export.accuracy(path, (images, labels))
        print(
            f"| `{mode}` | {top1:.1%} | {parity.top1_agreement:.1%} "
            f"| {parity.max_abs_error:.0e} | {parity.mean_abs_error:.0e} |",
            flush=True,
        )
    print()
    print(tflite_export.compare(paths, arguments.runs).to_markdown())


if __name__ == "__main__":
    main()
