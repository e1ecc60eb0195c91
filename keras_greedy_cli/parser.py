"""The options of each command. Nothing here starts Keras: help is there at once."""

import argparse
import importlib.metadata
from collections.abc import Callable

from keras_greedy_cli import options
from tflite_export import commands as tflite_commands

# Adds the options of a command to its parser.
Adder = Callable[[argparse.ArgumentParser], None]

EXAMPLES = """\
examples:
  keras-greedy inspect model.keras
  keras-greedy prune model.keras --data photos --macs 0.5 -o compact.keras
  keras-greedy export compact.keras --data photos -o compact.tflite
  keras-greedy benchmark model.tflite compact.tflite

exit codes: 0 done, 1 checked and found to be off, 2 an error of yours, 130 interrupted
"""

# Name, help, options, and an example.
COMMANDS: tuple[tuple[str, str, Adder, str], ...] = (
    ("info", "versions, backend, devices, runtimes", options.add_info, ""),
    (
        "inspect",
        "what of a model can be pruned, and what not and why",
        options.add_inspect,
        "inspect model.keras",
    ),
    (
        "prune",
        "make a smaller model",
        options.add_prune,
        "prune model.keras --data photos --macs 0.5 -o compact.keras\n"
        "  keras-greedy prune model.keras --data tfds:beans --params 0.4 "
        "--finetune -o compact.keras",
    ),
    (
        "sweep",
        "try several budgets after one search",
        options.add_sweep,
        "sweep model.keras --data photos --budgets 0.8 0.6 0.4",
    ),
    (
        "export",
        "write a .tflite file, and compare it with the model",
        options.add_export,
        "export compact.keras --int8 --data photos -o compact.tflite",
    ),
    (
        "quantize",
        "write a float .tflite file, of any converter, with numbers of fewer bits",
        options.add_quantize,
        "quantize compact.tflite --data photos --preprocessing mobilenet_v2 "
        "--layer SOFTMAX=float32 -o int8.tflite",
    ),
    (
        "verify",
        "compare a .tflite file with its model (exit code 1 if it is off)",
        options.add_verify,
        "verify compact.tflite --model compact.keras --data photos",
    ),
    (
        "benchmark",
        "time .tflite files, in turns",
        tflite_commands.add_benchmark,
        "benchmark model.tflite compact.tflite --runs 200",
    ),
    (
        "operations",
        "list the operations of a .tflite file, or compare those of two",
        tflite_commands.add_inspect,
        "operations model.tflite compact.tflite",
    ),
    (
        "accuracy",
        "measure the top-1 of a .keras or .tflite file",
        options.add_accuracy,
        "accuracy compact.tflite --data photos --preprocessing mobilenet_v2",
    ),
    (
        "report",
        "write a page that compares a model with a compact one",
        options.add_report,
        "report model.keras compact.keras --data photos "
        "--files model.tflite compact.tflite -o report.html",
    ),
    (
        "run",
        "compute the outputs of a .tflite file",
        tflite_commands.add_run,
        "run compact.tflite inputs.npy --output outputs.npz",
    ),
    (
        "android",
        "time a .tflite file on a phone, by adb",
        tflite_commands.add_android,
        "android compact.tflite --binary benchmark_model",
    ),
    (
        "ticket",
        "prune a random network until it computes what a model does",
        options.add_ticket,
        "ticket model.keras -o ticket.keras",
    ),
    (
        "demo",
        "prune a small network, export it, check and time it",
        options.add_demo,
        "demo --output demo_output",
    ),
)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line.

    Its result has the options of a command, and as `command` the function that takes
    them, or its name.
    """
    whole = argparse.ArgumentParser(
        prog="keras-greedy",
        description="Structured pruning for Keras 3, and export to .tflite files.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = whole.add_subparsers(required=True, metavar="command")
    for name, summary, add_options, example in COMMANDS:
        own = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  keras-greedy {example}" if example else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_options(own)
    return whole


def _version() -> str:
    # As installed: that of the package is told by importing it, with all of Keras.
    try:
        return importlib.metadata.version("keras_greedy")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
