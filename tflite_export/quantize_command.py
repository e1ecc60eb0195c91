"""The command `quantize` of the command line, and its options."""

import argparse
import json as json_format
from pathlib import Path
from typing import Any

from tflite_export.commands import SUCCESS, read_inputs
from tflite_export.data_forms import Data
from tflite_export.quantization import REPRESENTATIVE_SAMPLES
from tflite_export.quantizer import quantize
from tflite_export.recipes import (
    EVERYTHING,
    INTEGERS_ONLY,
    KINDS,
    ROUNDED,
    WHOLE_FILE,
    Recipe,
)

FLOAT32 = "float32"
"""The kind of layers that are left as they are: `None` in a recipe."""

LAYER_KINDS = (FLOAT32, *KINDS)


def quantize_on(
    data: Data,
    file: str,
    output: str,
    kind: str,
    layers: list[tuple[str, str]],
    samples: int,
    json: bool,
) -> int:
    """Quantizes a file, and says how large it was and is.

    Args:
        data: What to calibrate on; `None` for the samples beside the file.
        file: The float `.tflite` file.
        output: The file to write.
        kind: One of `LAYER_KINDS`, or a kind of whole files.
        layers: Patterns of names, and a kind of `LAYER_KINDS` for each.
        samples: Most samples to calibrate on.
        json: Whether to print JSON.

    Returns:
        The exit code.
    """
    recipe = _recipe(kind, layers)
    path = quantize(file, output, recipe, data, samples)
    before = Path(file).stat().st_size
    after = path.stat().st_size
    if json:
        facts = {"output": output, "bytes": after, "bytes_before": before}
        print(json_format.dumps(facts))
    else:
        print(f"Wrote {output}: {after:,} bytes, {after / before:.0%} of {before:,}")
    return SUCCESS


def _recipe(kind: str, layers: list[tuple[str, str]]) -> Recipe:
    if not layers:
        return kind
    if kind in WHOLE_FILE:
        raise ValueError(
            "Expected --layer with a --kind that each layer can have. Received: "
            f"--kind {kind}, which is for a whole file; name the layers instead, as "
            "--layer PATTERN=int4"
        )
    kinds: dict[str, str | None] = {EVERYTHING: None if kind == FLOAT32 else kind}
    for pattern, layer_kind in layers:
        kinds[pattern] = None if layer_kind == FLOAT32 else layer_kind
    return kinds


def _quantize(data: str | None, **options: Any) -> int:
    return quantize_on(None if data is None else read_inputs(data), **options)


def add_quantize(parser: argparse.ArgumentParser) -> None:
    """Makes a parser that of `quantize`, which writes a file with fewer bits."""
    add_quantizing(parser)
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="inputs to calibrate on, .npy, or .npz of save_samples(); by default the "
        "samples beside the file",
    )
    parser.set_defaults(command=_quantize)


def add_quantizing(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `quantize` but those of the data.

    Args:
        parser: The parser of the command.
    """
    parser.add_argument("file", metavar="FILE.tflite", help="of float32")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.tflite")
    parser.add_argument(
        "--kind",
        choices=(FLOAT32, *KINDS, INTEGERS_ONLY, ROUNDED),
        default="int8",
        help="how numbers are stored and computed with (default: int8)",
    )
    parser.add_argument(
        "--layer",
        dest="layers",
        action="append",
        default=[],
        type=_layer,
        metavar="PATTERN=KIND",
        help="another kind for layers by their names; may be repeated, the last one "
        "that matches holds",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=REPRESENTATIVE_SAMPLES,
        help=f"most to calibrate on (default: {REPRESENTATIVE_SAMPLES})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _layer(text: str) -> tuple[str, str]:
    """Returns the pattern and the kind of an argument of `--layer`."""
    pattern, _, kind = text.rpartition("=")
    if not pattern or kind not in LAYER_KINDS:
        raise argparse.ArgumentTypeError(
            f"expected PATTERN=KIND with a kind of {', '.join(LAYER_KINDS)}; "
            f"received {text!r}"
        )
    return pattern, kind
