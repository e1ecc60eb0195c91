"""The command line: `python -m tflite_export benchmark|inspect|verify|run|android`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export import android
from tflite_export.benchmark import compare
from tflite_export.checks import check_file, check_target
from tflite_export.data import count_samples
from tflite_export.data_forms import Data
from tflite_export.files import misread, replacing
from tflite_export.inspection import inspect
from tflite_export.latency import RUNS, WARMUP, Comparison
from tflite_export.layers import LAYER_TOLERANCE, compare_layers, first_divergence
from tflite_export.quiet import quiet_tensorflow
from tflite_export.runtime import run
from tflite_export.samples import load_samples
from tflite_export.verify import TOLERANCE, ModelOrOutputs, verify

if TYPE_CHECKING:
    import keras

SUCCESS = 0
OFF = 1
"""`verify` found the file to be off."""

USER_ERROR = 2
INTERRUPTED = 130
"""As shells report a process that Ctrl-C has ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m tflite_export`.

    Args:
        argv: The arguments, by default those of the process.

    Returns:
        The exit code: 0; 1 when `verify` finds the file to be off; 2 for an error
        that the user can put right; 130 when interrupted.

    Example:

    ```python
    import keras
    import tflite_export
    from tflite_export.__main__ import main

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    tflite_export.convert(model, "model.tflite")
    assert main(["benchmark", "model.tflite", "--runs", "100"]) == 0
    ```
    """
    options = vars(_parser().parse_args(argv))
    command = options.pop("command")
    try:
        with quiet_tensorflow():
            return command(**options)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        # One line, however the message is broken.
        print("tflite_export:", *str(error).split(), file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


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


def _verify(
    file: str,
    samples: str | None,
    model: str | None,
    tolerance: float,
    top1: float,
    json: bool,
) -> int:
    samples_path = samples or Path(file).with_suffix(".npz")
    inputs, outputs = load_samples(samples_path)
    expected: ModelOrOutputs = outputs if model is None else _load_model(model)
    parity = verify(expected, file, inputs, max_samples=count_samples(inputs))
    print(parity.to_json() if json else parity)
    if parity.ok(tolerance, top1):
        return SUCCESS
    print(f"Not within --tolerance {tolerance:g} and --top1 {top1:g}", file=sys.stderr)
    if model is not None:
        first = first_divergence(compare_layers(expected, file, inputs))
        percent = f"{100 * LAYER_TOLERANCE:g} %"
        print(f"First layer off by {percent}: {first or 'none'}", file=sys.stderr)
    return OFF


def _load_model(path: str) -> "keras.Model":
    import keras

    return keras.saving.load_model(path, compile=False)


def _run(file: str, inputs: str, output: str | None, threads: int) -> int:
    # Checked before the work, which may take long.
    target = None if output is None else check_target(output, ".npz")
    data = _read_inputs(inputs)
    outputs = run(file, data, threads=threads)
    for name, values in outputs.items():
        print(f"{name}: shape {values.shape}, {values.min():.6g} to {values.max():.6g}")
    if target is not None:
        with replacing(target) as temporary:
            arrays: dict[str, Any] = dict(outputs)
            np.savez_compressed(temporary, **arrays)
    return SUCCESS


def _read_inputs(path: str) -> Data:
    if not path.endswith(".npy"):
        return load_samples(path)[0]
    writer = "`numpy.save`"
    check_file(path, f"a file that {writer} wrote", name="inputs")
    try:
        return np.load(path, allow_pickle=False)
    # NumPy's own text for a file that is none advises to unpickle.
    except (ValueError, EOFError):
        raise misread(path, writer, "it is no array of numbers") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tflite_export",
        description="Checks, runs and times .tflite files. Needs NumPy and a runtime.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    timed = commands.add_parser("benchmark", help="time files, in turns")
    timed.add_argument("files", nargs="+", metavar="FILE.tflite")
    _add_timing(timed)
    timed.set_defaults(command=_benchmark)

    seen = commands.add_parser(
        "inspect",
        help="list the operations, their cost and time, or compare those of two files",
    )
    seen.add_argument("file", metavar="FILE.tflite")
    seen.add_argument("compact", nargs="?", metavar="COMPACT.tflite")
    seen.add_argument("--runs", type=int, default=RUNS, help="0 for no times")
    seen.add_argument("--threads", type=int, default=1)
    seen.add_argument("--json", action="store_true", help="a line per file")
    seen.set_defaults(command=_inspect)

    checked = commands.add_parser(
        "verify",
        help="compare with what the model gave (exit code 1 if it is off)",
    )
    _add_verify(checked)
    checked.set_defaults(command=_verify)

    computed = commands.add_parser("run", help="compute the outputs of samples")
    computed.add_argument("file", metavar="FILE.tflite")
    computed.add_argument("inputs", help=".npy, or .npz of save_samples()")
    computed.add_argument("--output", metavar="FILE.npz")
    computed.add_argument("--threads", type=int, default=1)
    computed.set_defaults(command=_run)

    phone = commands.add_parser("android", help="time a file on a phone, by adb")
    _add_android(phone)
    _add_timing(phone)
    phone.set_defaults(command=_android)
    return parser


def _add_verify(parser: argparse.ArgumentParser) -> None:
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


def _add_android(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.tflite")
    parser.add_argument("--binary", required=True, help="Google's benchmark_model")
    parser.add_argument("--adb", default="adb")
    parser.add_argument("--serial")
    parser.add_argument("--use-gpu", action="store_true")
    parser.add_argument("--use-nnapi", action="store_true")
    parser.add_argument("--no-xnnpack", dest="use_xnnpack", action="store_false")
    parser.add_argument("--profile", action="store_true", help="time each operation")


def _add_timing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=WARMUP)
    forms = parser.add_mutually_exclusive_group()
    forms.set_defaults(form="text")
    for form in ("json", "markdown"):
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form)


if __name__ == "__main__":
    sys.exit(main())
