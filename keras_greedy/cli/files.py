"""`keras-greedy export`, `quantize`, `verify` and `accuracy`."""

import contextlib
import functools
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tflite_export
from keras_greedy.cli.data import (
    answers_of,
    classes_of,
    fitting,
    read,
    read_in_pieces,
    shapes_of,
    told_preprocessing,
    top1,
)
from keras_greedy.cli.models import load_model
from keras_greedy.cli.results import OFF, SUCCESS, Result, printed, say
from keras_greedy.datasets import Examples
from tflite_export.checks import check_count, check_target
from tflite_export.commands import verify_on, verify_samples
from tflite_export.data import take_samples
from tflite_export.quantization import CALIBRATED
from tflite_export.quantize_command import quantize_on
from tflite_export.runtime import TfliteFile
from tflite_export.verify import MAX_SAMPLES, TOLERANCE, Parity, inputs_of

CALIBRATION_SAMPLES = 128
NOISE_SAMPLES = 16
NOISE_SEED = 0
LEAST_TOP1 = 0.8
"""Of a quantized file, on real data: one that was calibrated badly has less."""


@printed
def export(
    model: str,
    output: str,
    quantize: str | None,
    tolerance: float | None,
    top1: float | None,
    data: str | None,
    preprocessing: str | None,
) -> Result:
    """Writes a `.tflite` file, and compares it with the model."""
    target = check_target(output, ".tflite")
    is_calibrated = quantize in CALIBRATED
    if data is None and is_calibrated:
        raise ValueError(
            "Expected --data for --int8 and --int8-full: typical examples, to measure "
            "the range of each activation on. Received: none"
        )
    loaded = load_model(model)
    if data is None:
        inputs = _noise(loaded)
        say("Compared on random numbers; give --data to compare on real ones")
    else:
        told = told_preprocessing(loaded, data, preprocessing)
        inputs = read(data, shapes_of(loaded), told, CALIBRATION_SAMPLES)
    say(f"Converting {model}")
    path = tflite_export.convert(
        loaded,
        target,
        quantize,  # type: ignore[arg-type]
        representative_data=inputs.x if is_calibrated else None,
    )
    parity = tflite_export.verify(loaded, path, inputs.x)
    least_top1 = top1
    if top1 is None:
        is_measured = quantize is not None and data is not None
        least_top1 = LEAST_TOP1 if is_measured else 0.0
    most = tolerance
    if tolerance is None:
        is_exact = quantize is None
        most = TOLERANCE * max(1.0, parity.max_abs_output) if is_exact else np.inf
    is_ok = parity.ok(most, least_top1)  # type: ignore[arg-type]
    lines = [str(parity), f"{path.stat().st_size:,} bytes in {output}"]
    if is_ok:
        timed = shlex.join(["keras-greedy", "benchmark", output])
        lines.append(f"Next: {timed}")
    else:
        lines.append(f"Off: not within --tolerance {most:g} and --top1 {least_top1:g}")
    facts = {"output": output, "bytes": path.stat().st_size, "ok": is_ok}
    return Result(
        "\n".join(lines), {**facts, **_fields(parity)}, SUCCESS if is_ok else OFF
    )


def _fields(parity: Parity) -> dict:
    return {
        "samples": parity.samples,
        "max_abs_error": parity.max_abs_error,
        "mean_abs_error": parity.mean_abs_error,
        "max_abs_output": parity.max_abs_output,
        "top1_agreement": parity.top1_agreement,
    }


def _noise(model: keras.Model) -> Examples:
    """Returns random inputs from 0 to 1; integer inputs are zero, an index of any."""
    rng = np.random.default_rng(NOISE_SEED)
    x = {}
    for tensor in model.inputs:
        shape = (NOISE_SAMPLES, *[size or 1 for size in tensor.shape[1:]])
        is_float = "float" in str(tensor.dtype)
        noise = rng.random(shape) if is_float else np.zeros(shape)
        x[tensor.name] = noise.astype(tensor.dtype)
    return Examples(x if len(x) > 1 else next(iter(x.values())))


def quantize(
    file: str,
    samples: int,
    data: str | None,
    preprocessing: str | None,
    **options: Any,
) -> int:
    """Quantizes a `.tflite` file, on data or on the samples beside it.

    Returns:
        The exit code.
    """
    inputs = None
    if data is not None:
        samples = check_count("samples", samples, minimum=1)
        shapes = TfliteFile(file).samples.shapes
        inputs = read(data, shapes, preprocessing, samples).x
    return quantize_on(inputs, file, samples=samples, **options)


def verify(
    file: str,
    samples: str | None,
    model: str | None,
    tolerance: float,
    top1: float,
    json: bool,
    data: str | None,
    preprocessing: str | None,
) -> int:
    """Compares a `.tflite` file with its model, on data or on a file of samples.

    Returns:
        The exit code: 0, or 1 when the file is off.
    """
    if data is None:
        return verify_samples(file, samples, model, tolerance, top1, json)
    if model is None or samples is not None:
        raise ValueError("Expected --data with --model, and without --samples")
    opened = TfliteFile(file)
    with contextlib.redirect_stdout(sys.stderr):
        loaded = load_model(model)
        told = told_preprocessing(loaded, data, preprocessing)
        examples = read(data, shapes_of(loaded), told, MAX_SAMPLES)
        inputs = take_samples(examples.x, MAX_SAMPLES, inputs_of(loaded, opened))
    return verify_on(loaded, file, inputs, tolerance, top1, json)


@printed
def accuracy(
    file: str,
    samples: int | None,
    data: str,
    preprocessing: str | None,
) -> Result:
    """Returns the top-1 of a `.keras` or `.tflite` file on labelled data."""
    if samples is not None:
        samples = check_count("samples", samples, minimum=1)
    shapes: Mapping[str, tuple[int | None, ...]]
    share_of: Callable[[Examples], float]
    if Path(file).suffix == ".tflite":
        opened = TfliteFile(file)
        shapes = opened.samples.shapes
        classes = opened.outputs[0].shape[-1]
        share_of = functools.partial(_share_of_file, file)
    else:
        model = load_model(file)
        shapes = shapes_of(model)
        classes = _checked_classes(model, file)
        preprocessing = told_preprocessing(model, data, preprocessing)
        share_of = functools.partial(_share_of_model, model)
    say(f"Reading {data}")
    right = 0.0
    count = 0
    for piece in read_in_pieces(data, shapes, preprocessing, samples):
        labelled = fitting(piece, classes)
        _check_labels(labelled)
        right += share_of(labelled) * len(piece)
        count += len(piece)
    share = right / count
    text = f"{file}: top-1 {share:.2%} on {count:,} examples"
    return Result(text, {"file": file, "top1": share, "samples": count})


def _share_of_file(file: str, examples: Examples) -> float:
    return tflite_export.accuracy(file, examples.data)


def _share_of_model(model: keras.Model, examples: Examples) -> float:
    share = top1(answers_of(model, examples), examples)
    assert share is not None  # It is a classifier, and there are labels.
    return share


def _checked_classes(model: keras.Model, file: str) -> int:
    classes = classes_of(model)
    if classes is None:
        raise ValueError(
            "Expected a classifier: a model with one output of shape (batch, classes). "
            f"Received: {file!r}, with {[tuple(each.shape) for each in model.outputs]}"
        )
    return classes


def _check_labels(examples: Examples) -> None:
    if examples.y is None:
        raise ValueError(
            "Expected --data with labels of the model's classes: a folder for each "
            "class, or an .npz file with y. Received: none"
        )
