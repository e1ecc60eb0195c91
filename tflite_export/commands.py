"""The commands of the command line: what each does, and its options.

`keras-greedy` has them too. Each prints its result and returns the exit code.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export import android
from tflite_export.benchmark import compare
from tflite_export.checks import check_file, check_target
from tflite_export.data import Samples, count_samples
from tflite_export.data_forms import Data
from tflite_export.files import misread, replacing
from tflite_export.inspect_file import inspect
from tflite_export.latency import RUNS, WARMUP, Comparison
from tflite_export.layers import LAYER_TOLERANCE, compare_layers, first_divergence
from tflite_export.model_checks import import_keras
from tflite_export.runtime import run
from tflite_export.samples import load_samples
from tflite_export.verify import TOLERANCE, ModelOrOutputs, verify

if TYPE_CHECKING:
    import keras

SUCCESS = 0
OFF = 1
"""`verify` found the file to be off."""


def _benchmark(files: list[str], form: str, **options: Any) -> int:
    comparison = compare(files, **options)
    _print(comparison, form)
    return SUCCESS


def _inspect(
    file: str,
    compact: str | None,
    runs: int,
    threads: int,
    json: bool,
) -> int:
    found = [inspect(each, runs or None, threads) for each in (file, compact) if each]
    if json:
        print("\n".join(each.to_json() for each in found))
    elif compact:
        print(found[0].beside(found[1]))
    else:
        print(found[0])
    return SUCCESS


def _android(file: str, form: str, **options: Any) -> int:
    latency = android.benchmark(file, **options)
    _print(Comparison((latency,)), form)
    # JSON has the operations already, a Markdown table has no place for them.
    if form == "text":
        for operation in latency.operations:
            print(f"{operation.mean_ms:9.3f} ms  {operation.type}  {operation.name}")
    return SUCCESS


def _print(comparison: Comparison, form: str) -> None:
    if form == "json":
        print(comparison.to_json())
    elif form == "markdown":
        print(comparison.to_markdown())
    else:
        print(comparison)


def verify_samples(
    file: str,
    samples: str | None,
    model: str | None,
    tolerance: float,
    top1: float,
    json: bool,
) -> int:
    """Compares a file with a model, or with what it gave, on a file of samples.

    Args:
        file: The `.tflite` file.
        samples: The file of `save_samples`; by default the one beside `file`.
        model: The `.keras` file, by default none: the samples tell what it gave.
        tolerance: As for `Parity.ok`.
        top1: As for `Parity.ok`.
        json: Whether to print JSON.

    Returns:
        The exit code: 0, or 1 when the file is off.
    """
    samples_path = samples or Path(file).with_suffix(".npz")
    inputs, outputs = load_samples(samples_path)
    if model is None:
        return verify_on(outputs, file, inputs, tolerance, top1, json)
    return verify_on(_load_model(model), file, inputs, tolerance, top1, json)


def verify_on(
    model: ModelOrOutputs,
    file: str,
    inputs: Samples,
    tolerance: float,
    top1: float,
    json: bool,
) -> int:
    """Compares a file with a model on all of some samples, and prints the result.

    Args:
        model: The Keras model, or the outputs that it gave.
        file: The `.tflite` file.
        inputs: Input name -> array `(N, ...)`.
        tolerance: As for `Parity.ok`.
        top1: As for `Parity.ok`.
        json: Whether to print JSON.

    Returns:
        The exit code: 0, or 1 when the file is off.
    """
    parity = verify(model, file, inputs, max_samples=count_samples(inputs))
    print(parity.to_json() if json else parity)
    if parity.ok(tolerance, top1):
        return SUCCESS
    print(f"Not within --tolerance {tolerance:g} and --top1 {top1:g}", file=sys.stderr)
    if hasattr(model, "predict"):
        first = first_divergence(compare_layers(model, file, inputs))
        percent = f"{100 * LAYER_TOLERANCE:g} %"
        print(f"First layer off by {percent}: {first or 'none'}", file=sys.stderr)
    return OFF


def _load_model(path: str) -> "keras.Model":
    return import_keras().saving.load_model(path, compile=False)


def _run(file: str, inputs: str, output: str | None, threads: int) -> int:
    # Checked before the work, which may take long.
    target = None if output is None else check_target(output, ".npz")
    data = read_inputs(inputs)
    outputs = run(file, data, threads=threads)
    for name, values in outputs.items():
        print(f"{name}: shape {values.shape}, {values.min():.6g} to {values.max():.6g}")
    if target is not None:
        with replacing(target) as temporary:
            arrays: dict[str, Any] = dict(outputs)
            np.savez_compressed(temporary, **arrays)
    return SUCCESS


def read_inputs(path: str) -> Data:
    """Returns the inputs in a file.

    Args:
        path: An array of `numpy.save`, or a file of `save_samples`.
    """
    if not path.endswith(".npy"):
        return load_samples(path)[0]
    writer = "`numpy.save`"
    check_file(path, f"a file that {writer} wrote", name="inputs")
    try:
        return np.load(path, allow_pickle=False)
    # NumPy's own text for a file that is none advises to unpickle.
    except (ValueError, EOFError):
        raise misread(path, writer, "it is no array of numbers") from None


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    """Makes a parser that of `benchmark`, which times files in turns."""
    parser.add_argument("files", nargs="+", metavar="FILE.tflite")
    _add_timing(parser)
    parser.set_defaults(command=_benchmark)


def add_inspect(parser: argparse.ArgumentParser) -> None:
    """Makes a parser that of `inspect`, which lists the operations of a file."""
    parser.add_argument("file", metavar="FILE.tflite")
    parser.add_argument(
        "compact",
        nargs="?",
        metavar="COMPACT.tflite",
        help="say what became of each operation in this one",
    )
    parser.add_argument("--runs", type=int, default=RUNS, help="0 for no times")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="a line per file")
    parser.set_defaults(command=_inspect)


def add_run(parser: argparse.ArgumentParser) -> None:
    """Makes a parser that of `run`, which computes the outputs of samples."""
    parser.add_argument("file", metavar="FILE.tflite")
    parser.add_argument("inputs", help=".npy, or .npz of save_samples()")
    parser.add_argument("--output", metavar="FILE.npz")
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(command=_run)


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Makes a parser that of `verify`, which compares a file with its model."""
    parser.add_argument("file", metavar="FILE.tflite")
    parser.add_argument("--samples", metavar="FILE.npz", help="of save_samples()")
    parser.add_argument(
        "--model",
        metavar="FILE.keras",
        help="compare with it, layer by layer if off",
    )
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    parser.add_argument("--top1", type=float, default=0.0, help="least agreement")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=verify_samples)


def add_android(parser: argparse.ArgumentParser) -> None:
    """Makes a parser that of `android`, which times a file on a phone."""
    parser.add_argument("file", metavar="FILE.tflite")
    parser.add_argument("--binary", required=True, help="Google's benchmark_model")
    parser.add_argument("--adb", default="adb")
    parser.add_argument("--serial")
    parser.add_argument("--use-gpu", action="store_true")
    parser.add_argument("--use-nnapi", action="store_true")
    parser.add_argument("--no-xnnpack", dest="use_xnnpack", action="store_false")
    parser.add_argument("--profile", action="store_true", help="time each operation")
    _add_timing(parser)
    parser.set_defaults(command=_android)


def _add_timing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=WARMUP)
    forms = parser.add_mutually_exclusive_group()
    forms.set_defaults(form="text")
    for form in ("json", "markdown"):
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form)
