"""`keras-greedy report`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tflite_export
from keras_greedy.cli.data import (
    Parts,
    classes_of,
    fitting,
    read,
    shapes_of,
    told_preprocessing,
)
from keras_greedy.cli.models import load_model
from keras_greedy.cli.pruning import points_of, tested
from keras_greedy.cli.results import Result, printed, say
from keras_greedy.html_report import write_report
from keras_greedy.report import compare
from tflite_export.checks import check_count, check_file, check_target


@printed
def report(
    model: str,
    compact: str,
    output: str,
    files: Sequence[str] | None,
    as_given: str,
    data: str | None,
    preprocessing: str | None,
    samples: int,
) -> Result:
    """Compares a model with a compact one, and writes the page that shows it."""
    page = check_target(output, ".html")
    samples = check_count("samples", samples, minimum=1)
    for file in files or ():
        check_file(file, "an existing .tflite file")
    full = load_model(model)
    small = load_model(compact)
    made = compare(full, small)
    lines = [str(made), ""]
    facts: dict[str, Any] = dict(made.to_dict())
    points = {}
    if data is not None:
        told = told_preprocessing(full, data, preprocessing)
        examples = read(data, shapes_of(full), told, samples)
        examples = fitting(examples, classes_of(full))
        test_lines, test_facts = tested(full, small, Parts.of_test(examples))
        lines += test_lines
        facts |= test_facts
        points = points_of(made, test_facts)
    latencies = None
    if files is not None:
        say("Timing the files in turns")
        latencies = tflite_export.compare(list(files))
        lines += [str(latencies), ""]
        facts["latencies"] = json.loads(latencies.to_json())
    title = f"{Path(compact).name}, pruned from {Path(model).name}"
    write_report(
        page,
        made,
        measured=points,
        latencies=latencies,
        command=as_given,
        title=title,
    )
    lines.append(f"Wrote {output}")
    return Result("\n".join(lines), {**facts, "output": output})
