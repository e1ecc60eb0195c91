"""MobileNetV2 with ImageNet weights, pruned by keras_greedy and by Torch-Pruning.

    make bench-peers
    python benchmarks/peers.py --methods torch_pruning-l1-local-hidden --budgets 0.73
    python benchmarks/peers.py --recover --budgets 0.6 --work benchmark_output/peers

Both have the same weights, images and budgets; BatchNorm statistics are measured anew
and multiply-accumulates counted in one way. Torch-Pruning prunes a PyTorch port of the
network, in a process of its own (`peers_torch.py`, environment of `peers.txt`). This
one rebuilds in Keras what is left of it, checks that it computes the same, and measures
it. A folder named by `--work` keeps networks and rows, and what it holds is not made
again: it is for one set of images.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import tempfile
from pathlib import Path

import keras
import numpy as np
from imagenet import load_model, read_images
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from peers_shared import (
    BLOCKS,
    BUDGETS,
    CHECKED_IMAGES,
    FULL,
    IMAGES_FILE,
    LABELS_FILE,
    METHODS,
    PEER,
    Block,
    Weights,
    load_weights,
    relative_error,
    save_weights,
    weights_file,
)
from tradeoff import FULL_COLOR, OURS_COLOR, PEER_COLOR

import keras_greedy
import tflite_export
from tflite_export.files import replacing

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("peers.json")
PICTURE = Path(__file__).with_name("peers.png")
TORCH_PART = Path(__file__).with_name("peers_torch.py")
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"

OURS = "keras_greedy"
PREDICT_BATCH = 32
JUDGES = 128
"""Training images that no pruning sees, on which `--recover` judges each epoch."""

TOLERANCE = 1e-4
"""Between the softmax of both frameworks, relative to its largest value."""

OTHERS_COLOR = "#bbbbbb"


@dataclasses.dataclass
class Row:
    """A pruned network as measured.

    Attributes:
        method: Its name, as in `METHODS`, or `OURS`.
        budget: Share of the multiply-accumulates asked for.
        macs: Share of them that it has.
        top1_as_pruned: Top-1 with the BatchNorm statistics that the pruning left.
        top1: Top-1 with statistics measured anew.
        top1_recovered: Top-1 after training without labels, where asked for.
        latency: Median latency relative to the full model, where asked for.
    """

    method: str
    budget: float
    macs: float
    top1_as_pruned: float
    top1: float
    top1_recovered: float | None = None
    latency: float | None = None


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all methods have in common.

    Attributes:
        model: The full model.
        calibration: Images of the training set.
        judges: Others of the training set.
        held: Images and labels of the validation set.
        work: The folder of the networks and the rows.
    """

    model: keras.Model
    calibration: np.ndarray
    judges: np.ndarray
    held: tuple[np.ndarray, np.ndarray]
    work: Path

    def top1(self, model: keras.Model) -> float:
        """Returns the share of the held images that a model classifies correctly."""
        images, labels = self.held
        outputs = model.predict(images, batch_size=PREDICT_BATCH, verbose=0)
        return float(np.mean(outputs.argmax(-1) == labels))


def main():
    arguments = parse_arguments()
    if arguments.work is not None:
        arguments.work.mkdir(parents=True, exist_ok=True)
        run(arguments, arguments.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(arguments, Path(folder))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=512, help="to prune with, of 872")
    parser.add_argument("--held", type=int, default=650, help="images to measure on")
    parser.add_argument(
        "--methods", nargs="+", default=[OURS, *METHODS], choices=[OURS, *METHODS]
    )
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--work", type=Path, help="a folder that keeps the networks")
    parser.add_argument("--python", default=PEERS_PYTHON, help="that of peers.txt")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--recover", action="store_true", help="train all, no labels")
    parser.add_argument("--epochs", type=int, help="of --recover, else the default")
    parser.add_argument("--latency", action="store_true", help="time all as .tflite")
    parser.add_argument("--runs", type=int, default=100, help="of each .tflite")
    parser.add_argument("--write", action="store_true", help="the rows and the picture")
    return parser.parse_args()


def run(arguments, work):
    setting = prepare(arguments, work)
    of_peer = [name for name in arguments.methods if name != OURS]
    if of_peer:
        prune_by_peer(arguments, work, of_peer)
    full_top1 = setting.top1(setting.model)
    print(f"Full model: top-1 {full_top1:.1%}", flush=True)
    if OURS in arguments.methods:
        prune_by_ours(setting, arguments.budgets)
    rows = []
    for budget in arguments.budgets:
        for method in arguments.methods:
            row = measured(setting, method, budget)
            if arguments.recover and row.top1_recovered is None:
                row.top1_recovered = recovered_top1(setting, row, arguments.epochs)
                keep(setting, row)
            print(f"{method}, {row.macs:.1%} MACs: {row.top1:.1%}", flush=True)
            rows.append(row)
    if arguments.latency:
        add_latencies(setting, rows, arguments.runs)
    print_tables(rows, arguments)
    if arguments.write:
        write(full_top1, rows)


def prepare(arguments, work) -> Setting:
    """Loads model and images, and leaves them to the PyTorch part.

    The labels of the calibration images are for the Taylor criterion alone.
    """
    model = load_model()
    count = arguments.images
    images, labels = read_images("imagenet_sample/all.tfrecord", count + JUDGES)
    calibration, judges = images[:count], images[count:]
    held = read_images("imagenet_val650/val.tfrecord", arguments.held)
    np.save(work / IMAGES_FILE, calibration)
    np.save(work / LABELS_FILE, labels[:count])
    save(model, weights_file(work, FULL), calibration)
    return Setting(model, calibration, judges, held, work)


def save(model: keras.Model, file: Path, calibration) -> None:
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    outputs = model.predict(calibration[:CHECKED_IMAGES], verbose=0)
    save_weights(file, weights, outputs)


def prune_by_peer(arguments, work, methods) -> None:
    """Runs the PyTorch part, which writes what the folder does not have yet."""
    budgets = [str(budget) for budget in arguments.budgets]
    options = ["--methods", *methods, "--budgets", *budgets]
    threads = ["--threads", str(arguments.threads)]
    command = [arguments.python, TORCH_PART, work, *options, *threads]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})


def prune_by_ours(setting, budgets) -> None:
    """Writes our networks as the PyTorch part writes those of the peer."""
    files = {budget: weights_file(setting.work, OURS, budget) for budget in budgets}
    missing = [budget for budget, file in files.items() if not file.exists()]
    if not missing:
        return
    paths = keras_greedy.search(setting.model, setting.calibration, verbose=0)
    for budget in missing:
        save(paths.compact(budget), files[budget], setting.calibration)


def measured(setting, method, budget) -> Row:
    """Returns the row of a network, measured or read from the folder."""
    file = row_file(setting, method, budget)
    if file.exists():
        return Row(**json.loads(file.read_text(encoding="utf-8")))
    model = rebuilt(setting, method, budget)
    as_pruned = setting.top1(model)
    keras_greedy.reestimate_batch_norm(model, setting.calibration)
    share = keras_greedy.macs(model) / keras_greedy.macs(setting.model)
    row = Row(method, budget, share, as_pruned, setting.top1(model))
    keep(setting, row)
    return row


def keep(setting, row: Row) -> None:
    """Writes a row into the folder."""
    with replacing(row_file(setting, row.method, row.budget)) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(row)), encoding="utf-8")


def row_file(setting, method, budget) -> Path:
    return setting.work / f"{method}-{budget:g}.json"


def recovered_top1(setting, row, epochs) -> float:
    """Returns the top-1 of a network after training, the same for all networks."""
    model = rebuilt(setting, row.method, row.budget)
    keras_greedy.reestimate_batch_norm(model, setting.calibration)
    keras.utils.set_random_seed(0)
    tuning = keras_greedy.FineTune(epochs=epochs, distill=True)
    tuning.apply(
        model,
        setting.model,
        setting.calibration,
        validation_data=setting.judges,
        verbose=0,
    )
    return setting.top1(model)


def rebuilt(setting, method, budget) -> keras.Model:
    """Returns the Keras model of a pruned network, checked against its outputs."""
    weights, expected = load_weights(weights_file(setting.work, method, budget))
    model = network(weights)
    outputs = model.predict(setting.calibration[:CHECKED_IMAGES], verbose=0)
    error = relative_error(outputs, expected)
    if error > TOLERANCE:
        raise ValueError(
            f"Expected the Keras model of {method} at {budget:.0%} to compute as the "
            f"network that it was built from, to {TOLERANCE:.0e}. Received: {error:.1e}"
        )
    return model


def network(weights: Weights) -> keras.Model:
    """Returns a MobileNetV2 of any widths, with the layer names of keras.applications.

    Args:
        weights: Of all layers; the widths are theirs.
    """
    inputs = keras.Input((224, 224, 3))
    x = activated("Conv1_relu", convolved(weights, "Conv1", "bn_Conv1", inputs, 2))
    for block in BLOCKS:
        x = through(block, weights, x)
    x = activated("out_relu", convolved(weights, "Conv_1", "Conv_1_bn", x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    classes = len(weights["predictions"][1])
    outputs = keras.layers.Dense(classes, "softmax", name="predictions")(x)
    model = keras.Model(inputs, outputs)
    for name, arrays in weights.items():
        model.get_layer(name).set_weights(arrays)
    return model


def through(block: Block, weights, x):
    """Returns the output of a block."""
    entered = x
    prefix = block.prefix
    if block.index:
        x = convolved(weights, f"{prefix}expand", f"{prefix}expand_BN", x)
        x = activated(f"{prefix}expand_relu", x)
    padding = "same"
    if block.stride == 2:
        x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{prefix}pad")(x)
        padding = "valid"
    x = keras.layers.DepthwiseConv2D(
        3, block.stride, padding, use_bias=False, name=f"{prefix}depthwise"
    )(x)
    x = normalized(f"{prefix}depthwise_BN", x)
    x = activated(f"{prefix}depthwise_relu", x)
    x = convolved(weights, f"{prefix}project", f"{prefix}project_BN", x)
    if block.adds:
        x = keras.layers.Add(name=f"{prefix}add")([entered, x])
    return x


def convolved(weights, name, normalization, x, strides=1):
    side, _, _, filters = weights[name][0].shape
    convolution = keras.layers.Conv2D(
        filters, side, strides, padding="same", use_bias=False, name=name
    )
    return normalized(normalization, convolution(x))


def normalized(name, x):
    return keras.layers.BatchNormalization(epsilon=1e-3, momentum=0.999, name=name)(x)


def activated(name, x):
    return keras.layers.ReLU(6.0, name=name)(x)


def add_latencies(setting, rows, runs) -> None:
    """Times all networks as `.tflite` files, in turns with the full one."""
    with tempfile.TemporaryDirectory() as folder:
        files = [tflite_export.convert(setting.model, Path(folder) / "full.tflite")]
        for row in rows:
            model = rebuilt(setting, row.method, row.budget)
            file = Path(folder) / f"{row.method}-{row.budget:g}.tflite"
            files.append(tflite_export.convert(model, file))
        ratios = tflite_export.compare(files, runs=runs).ratios
    for row, ratio in zip(rows, ratios[1:], strict=True):
        row.latency = float(ratio)


def print_tables(rows, arguments) -> None:
    print_table("top-1, BatchNorm statistics measured anew", rows, top1_cell)
    print_table("top-1 as pruned", rows, lambda row: f"{row.top1_as_pruned:.1%}")
    if arguments.recover:
        print_table("top-1 recovered", rows, lambda row: f"{row.top1_recovered:.1%}")
    if arguments.latency:
        print_table("p50 latency", rows, lambda row: f"{row.latency:.2f} x")


def top1_cell(row) -> str:
    """Returns the top-1, with the share of the MACs where it is far from the budget."""
    cell = f"{row.top1:.1%}"
    if row.macs < 0.99 * row.budget:
        cell += f" (at {row.macs:.1%})"
    return cell


def print_table(title, rows, cell) -> None:
    budgets = list(dict.fromkeys(row.budget for row in rows))
    percents = [f"{budget * 100:g} %" for budget in budgets]
    print(f"\n| {title}, at MACs | {' | '.join(percents)} |")
    print("|---" * (1 + len(budgets)) + "|")
    for method, line in by_method(rows).items():
        cells = [cell(line[budget]) for budget in budgets]
        print(f"| {label_of(method)} | {' | '.join(cells)} |")


def label_of(method: str) -> str:
    return OURS if method == OURS else f"{PEER}, {METHODS[method].label}"


def by_method(rows) -> dict[str, dict[float, Row]]:
    """Returns method -> budget -> row."""
    methods = {}
    for row in rows:
        methods.setdefault(row.method, {})[row.budget] = row
    return methods


def write(full_top1, rows) -> None:
    """Writes the rows as JSON, and draws the picture."""
    content = {
        "full_top1": full_top1,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    with replacing(RESULTS) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draw(full_top1, rows)
    print(f"\nWritten: {RESULTS.name}, {PICTURE.name}")


def draw(full_top1, rows) -> None:
    """Draws top-1 over multiply-accumulates, with the best of the peer named."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.axhline(full_top1, color=FULL_COLOR, lw=1, ls="--", label="full model")
    lines = by_method(rows)
    best = best_peer(lines)
    for method, line in lines.items():
        if method == OURS:
            plot(axes, line, color=OURS_COLOR, lw=3, label=OURS, zorder=3)
        elif method == best:
            label = f"{label_of(best)} (best of {len(METHODS)})"
            plot(axes, line, color=PEER_COLOR, lw=1.8, label=label, zorder=2)
        else:
            plot(axes, line, color=OTHERS_COLOR, lw=0.8, markersize=2)
    axes.set_xlabel("multiply-accumulates kept")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("MobileNetV2, top-1 without any training", loc="left")
    figure.legend(frameon=False, loc="outside lower center", fontsize="small", ncols=3)
    with replacing(PICTURE) as temporary:
        figure.savefig(temporary, dpi=150)


def best_peer(lines) -> str | None:
    """Returns the method of the peer with the highest mean top-1 over the budgets."""
    of_peer = [method for method in lines if method != OURS]
    return max(of_peer, key=lambda method: mean_top1(lines[method]), default=None)


def mean_top1(line: dict[float, Row]) -> float:
    return float(np.mean([row.top1 for row in line.values()]))


def plot(axes, line: dict[float, Row], **style) -> None:
    rows = sorted(line.values(), key=lambda row: row.macs)
    axes.plot([row.macs for row in rows], [row.top1 for row in rows], "o-", **style)


if __name__ == "__main__":
    main()
