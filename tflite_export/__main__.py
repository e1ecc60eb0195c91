"""The command line: `python -m tflite_export benchmark|verify|run|android`."""

import argparse
import sys
from pathlib import Path

import numpy as np

from tflite_export import android
from tflite_export.benchmark import compare
from tflite_export.checks import check_target
from tflite_export.files import replacing
from tflite_export.latency import Comparison
from tflite_export.layers import compare_layers, first_divergence
from tflite_export.quiet import quiet_tensorflow
from tflite_export.runtime import run
from tflite_export.samples import load_samples
from tflite_export.verify import verify


def main(argv=None):
    """Runs `python -m tflite_export`.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The exit code: 0; 1 when `verify` finds the file to be off; 2 for what the user
        can put right; 130 when interrupted.

    Example:

    ```python
    from tflite_export.__main__ import main

    main(["benchmark", "model.tflite", "--runs", "100"])
    ```
    """
    options = vars(_parser().parse_args(argv))
    command = options.pop("command")
    try:
        with quiet_tensorflow():
            return command(**options)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print("tflite_export:", *str(error).split(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _benchmark(files, form, **options):
    _print(compare(files, **options), form)
    return 0


def _android(file, form, **options):
    latency = android.benchmark(file, **options)
    _print(Comparison((latency,)), form)
    if form == "text":
        for each in latency.operations:
            print(f"{each.mean_ms:9.3f} ms  {each.type}  {each.name}")
    return 0


def _print(comparison, form):
    forms = {
        "text": comparison.__str__,
        "json": comparison.to_json,
        "markdown": comparison.to_markdown,
    }
    print(forms[form]())


def _verify(file, samples, model, tolerance, top1, json):
    inputs, expected = load_samples(samples or Path(file).with_suffix(".npz"))
    if model is not None:
        expected = _load_model(model)
    count = len(next(iter(inputs.values())))
    parity = verify(expected, file, inputs, max_samples=count)
    print(parity.to_json() if json else parity)
    if parity.ok(tolerance, top1):
        return 0
    print(f"Not within --tolerance {tolerance:g} and --top1 {top1:g}", file=sys.stderr)
    if model is not None:
        first = first_divergence(compare_layers(expected, file, inputs))
        print(f"First layer off by 1 %: {first or 'none'}", file=sys.stderr)
    return 1


def _load_model(path):
    import keras

    return keras.saving.load_model(path, compile=False)


def _run(file, inputs, output, threads):
    if output is not None:
        output = check_target(output, ".npz")
    data = np.load(inputs) if inputs.endswith(".npy") else load_samples(inputs)[0]
    outputs = run(file, data, threads=threads)
    for name, values in outputs.items():
        print(f"{name}: shape {values.shape}, {values.min():.6g} to {values.max():.6g}")
    if output is not None:
        with replacing(output) as temporary:
            np.savez_compressed(temporary, **outputs)
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m tflite_export",
        description="Checks, runs and times .tflite files. Needs NumPy and a runtime.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    timed = commands.add_parser("benchmark", help="time files, in turns")
    timed.add_argument("files", nargs="+", metavar="FILE.tflite")
    _add_timing(timed)
    timed.set_defaults(command=_benchmark)

    checked = commands.add_parser(
        "verify", help="compare with what the model gave (exit code 1 if it is off)"
    )
    checked.add_argument("file", metavar="FILE.tflite")
    checked.add_argument("--samples", metavar="FILE.npz", help="of save_samples()")
    checked.add_argument(
        "--model", metavar="FILE.keras", help="compare with it, layer by layer if off"
    )
    checked.add_argument("--tolerance", type=float, default=1e-4)
    checked.add_argument("--top1", type=float, default=0.0, help="least agreement")
    checked.add_argument("--json", action="store_true")
    checked.set_defaults(command=_verify)

    computed = commands.add_parser("run", help="compute the outputs of samples")
    computed.add_argument("file", metavar="FILE.tflite")
    computed.add_argument("inputs", help=".npy, or .npz of save_samples()")
    computed.add_argument("--output", metavar="FILE.npz")
    computed.add_argument("--threads", type=int, default=1)
    computed.set_defaults(command=_run)

    phone = commands.add_parser("android", help="time a file on a phone, by adb")
    phone.add_argument("file", metavar="FILE.tflite")
    phone.add_argument("--binary", required=True, help="Google's benchmark_model")
    phone.add_argument("--adb", default="adb")
    phone.add_argument("--serial")
    phone.add_argument("--use-gpu", action="store_true")
    phone.add_argument("--use-nnapi", action="store_true")
    phone.add_argument("--no-xnnpack", dest="use_xnnpack", action="store_false")
    phone.add_argument("--profile", action="store_true", help="time each operation")
    _add_timing(phone)
    phone.set_defaults(command=_android)
    return parser


def _add_timing(parser):
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=5)
    forms = parser.add_mutually_exclusive_group()
    forms.set_defaults(form="text")
    for form in ("json", "markdown"):
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form)


if __name__ == "__main__":
    sys.exit(main())
