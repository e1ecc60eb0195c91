"""The options that are not those of `tflite_export` too."""

import argparse
from argparse import ArgumentParser

from tflite_export import commands as tflite_commands
from tflite_export import quantize_command

PARTS = "keras_greedy.cli"
SAMPLES = 512
TEST_SAMPLES = 1000
MODEL = "MODEL.keras"
DATA = "DIR|X.npz|X.npy|tfds:NAME[:SPLIT]|digits"
OBJECTIVES = ("local", "global", "best", "loss", "divergence")


def add_info(parser: ArgumentParser) -> None:
    """Adds the options of `info`."""
    _add_json(parser)
    parser.set_defaults(command=f"{PARTS}.info:info")


def add_inspect(parser: ArgumentParser) -> None:
    """Adds the options of `inspect`."""
    parser.add_argument("model", metavar=MODEL)
    _add_json(parser)
    parser.set_defaults(command=f"{PARTS}.inspecting:inspect")


def add_prune(parser: ArgumentParser) -> None:
    """Adds the options of `prune`."""
    parser.add_argument("model", metavar=MODEL)
    _add_output(parser, "COMPACT.keras")
    budget = parser.add_argument_group("budget", "by default half of the MACs")
    share = "the share to keep, or an absolute number"
    budget.add_argument("--macs", type=float, help=f"multiply-accumulates: {share}")
    budget.add_argument("--params", type=float, help=f"parameters: {share}")
    budget.add_argument("--latency", type=float, help="measured here: share to keep")
    budget.add_argument("--latency-ms", type=float, help="measured here: milliseconds")
    _add_round_to(budget)
    _add_search(parser)
    training = parser.add_argument_group("training of the compact model")
    training.add_argument(
        "--finetune",
        nargs="?",
        const=True,
        type=int,
        metavar="EPOCHS",
        help="without a number: towards the full model, and on labels if there are any",
    )
    training.add_argument(
        "--distill",
        action="store_true",
        help="for so many epochs towards the full model, which needs no labels",
    )
    parser.add_argument("--report", metavar="FILE.html", help="write it as a page, too")
    _add_data(parser)
    _add_samples(parser)
    _add_json(parser)
    # What was typed, for the page.
    parser.set_defaults(command=f"{PARTS}.pruning:prune", as_given="")


def add_sweep(parser: ArgumentParser) -> None:
    """Adds the options of `sweep`."""
    parser.add_argument("model", metavar=MODEL)
    parser.add_argument("--budgets", type=float, nargs="+", required=True)
    parser.add_argument(
        "--by",
        choices=("macs", "params"),
        default="macs",
        help="the cost that the budgets are of (default: macs)",
    )
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", help="write each compact model there"
    )
    _add_round_to(parser)
    _add_search(parser)
    _add_data(parser)
    _add_samples(parser)
    _add_json(parser)
    parser.set_defaults(command=f"{PARTS}.sweeping:sweep")


def add_export(parser: ArgumentParser) -> None:
    """Adds the options of `export`."""
    parser.add_argument("model", metavar=MODEL)
    _add_output(parser, "FILE.tflite")
    forms = parser.add_mutually_exclusive_group()
    helps = {
        "float16": "weights in float16",
        "dynamic": "weights in int8",
        "int8": "weights and computing in int8; needs --data",
        "int8-full": "inputs and outputs in int8 too; needs --data",
    }
    for form, text in helps.items():
        forms.add_argument(
            f"--{form}",
            dest="quantize",
            action="store_const",
            const=form.replace("-", "_"),
            help=text,
        )
    _add_thresholds(parser)
    _add_data(parser, required=False)
    _add_json(parser)
    parser.set_defaults(command=f"{PARTS}.files:export")


def add_quantize(parser: ArgumentParser) -> None:
    """Adds the options of `quantize`."""
    quantize_command.add_quantizing(parser)
    _add_data(parser, required=False)
    parser.set_defaults(command=f"{PARTS}.files:quantize")


def add_verify(parser: ArgumentParser) -> None:
    """Adds the options of `verify`."""
    tflite_commands.add_verify(parser)
    _add_data(parser, required=False)
    parser.set_defaults(command=f"{PARTS}.files:verify")


def add_accuracy(parser: ArgumentParser) -> None:
    """Adds the options of `accuracy`."""
    parser.add_argument("file", metavar="FILE", help="ending in .keras or .tflite")
    parser.add_argument("--samples", type=int, help="most examples (default: all)")
    _add_data(parser)
    _add_json(parser)
    parser.set_defaults(command=f"{PARTS}.files:accuracy")


def add_report(parser: ArgumentParser) -> None:
    """Adds the options of `report`."""
    parser.add_argument("model", metavar=MODEL)
    parser.add_argument("compact", metavar="COMPACT.keras")
    _add_output(parser, "FILE.html")
    parser.add_argument(
        "--files",
        nargs=2,
        metavar=("MODEL.tflite", "COMPACT.tflite"),
        help="the exported files, which are timed in turns",
    )
    _add_data(parser, required=False)
    parser.add_argument(
        "--samples",
        type=int,
        default=TEST_SAMPLES,
        help=f"examples for the top-1 (default: {TEST_SAMPLES})",
    )
    _add_json(parser)
    # What was typed, for the page.
    parser.set_defaults(command=f"{PARTS}.reporting:report", as_given="")


def add_ticket(parser: ArgumentParser) -> None:
    """Adds the options of `ticket`."""
    parser.add_argument("model", metavar=MODEL)
    _add_output(parser, "TICKET.keras")
    parser.add_argument(
        "--redundancy",
        type=int,
        default=21,
        help="random products for each weight (default: 21)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    _add_json(parser)
    parser.set_defaults(command=f"{PARTS}.tickets:ticket")


def add_demo(parser: ArgumentParser) -> None:
    """Adds the options of `demo`."""
    # Those that are not given are left out: their defaults are those of `run`.
    unset = argparse.SUPPRESS
    parser.add_argument(
        "--output", metavar="FOLDER", default=unset, help="default: demo_output"
    )
    parser.add_argument(
        "--epochs", type=int, default=unset, help="training of the full model"
    )
    parser.add_argument("--seed", type=int, default=unset, help="of everything random")
    parser.set_defaults(command=f"{PARTS}.demo:demo")


def _add_output(parser: ArgumentParser, name: str) -> None:
    parser.add_argument("-o", "--output", required=True, metavar=name)


def _add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_round_to(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--round-to", type=int, default=8, help="widths are multiples (default: 8)"
    )


def _add_search(parser: ArgumentParser) -> None:
    search = parser.add_argument_group("search")
    search.add_argument("--objective", choices=OBJECTIVES, default="global")
    search.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="LAYER",
        help="leave the channels of this layer whole; may be repeated",
    )
    search.add_argument(
        "--checkpoint", metavar="DIR", help="keep the search there, to go on from"
    )
    search.add_argument("--seed", type=int, default=0, help="of everything random")


def _add_data(parser: ArgumentParser, required: bool = True) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=required, metavar=DATA)
    data.add_argument(
        "--preprocessing",
        metavar="NAME",
        help="of pictures: the family of keras.applications, as mobilenet_v2; none (0 "
        "to 255), unit (0 to 1); by default as the model tells",
    )


def _add_samples(parser: ArgumentParser) -> None:
    samples = parser.add_argument_group("amounts of data")
    samples.add_argument(
        "--samples",
        type=int,
        default=SAMPLES,
        help=f"examples to prune with (default: {SAMPLES})",
    )
    samples.add_argument(
        "--test",
        metavar="DATA",
        help="other data for the top-1 (default: what --data has left)",
    )
    samples.add_argument(
        "--test-samples",
        type=int,
        default=TEST_SAMPLES,
        help=f"examples for the top-1 (default: {TEST_SAMPLES})",
    )


def _add_thresholds(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest error of an output (default: 1e-4 of the largest output; of "
        "quantized files none)",
    )
    parser.add_argument(
        "--top1",
        type=float,
        help="least share of the same top-1 (default: 0.8 for quantized files on "
        "--data, else none)",
    )
