"""The picture of the README: accuracy and latency against multiply-accumulates.

    python benchmarks/tradeoff.py

Draws `docs/tradeoff.png` from the JSON files beside this file, which
`imagenet_mobilenet_v2.py`, `recovery.py` and `peers.py` write with `--write`.
"""

import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tflite_export.files import replacing

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("imagenet_mobilenet_v2.json")
RECOVERY = Path(__file__).with_name("recovery.json")
PICTURE = ROOT / "docs" / "tradeoff.png"
OBJECTIVE = "global"

PEERS = Path(__file__).with_name("peers.json")
PEER = "Torch-Pruning 1.6.1, at best"

OURS_COLOR = "#1f6fb4"
PEER_COLOR = "#b0582a"
FULL_COLOR = "#666666"


def draw(results: dict) -> Path:
    """Draws the picture.

    Args:
        results: Objective -> its `rows`, as `imagenet_mobilenet_v2.py` writes them.

    Returns:
        The path of the picture.
    """
    rows = results[OBJECTIVE]["rows"]
    macs = [row["macs"] / rows[0]["macs"] for row in rows]
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    accuracy, latency = figure.subplots(1, 2)
    _draw_accuracy(accuracy, macs, [row["top1"] for row in rows])
    if RECOVERY.exists():
        _draw_trained(accuracy, rows[0]["macs"])
    accuracy.legend(frameon=False, loc="lower right", fontsize="small")
    _draw_latency(latency, macs, [row["p50_ms"] for row in rows])
    for axes in (accuracy, latency):
        axes.set_xlabel("multiply-accumulates kept")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(PICTURE) as temporary:
        figure.savefig(temporary, dpi=150)
    return PICTURE


def _draw_accuracy(axes, macs, top1):
    axes.axhline(top1[0], color=FULL_COLOR, lw=1, ls="--", label="full model")
    axes.plot(macs, top1, "o-", color=OURS_COLOR, label="keras_greedy, no training")
    peer = best_of_peer()
    axes.plot(list(peer), list(peer.values()), "s-", color=PEER_COLOR, label=PEER)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title("MobileNetV2, top-1", loc="left")


def best_of_peer() -> dict[float, float]:
    """Returns budget -> the highest top-1 that `peers.py` measured of the peer."""
    best: dict[float, float] = {}
    for row in json.loads(PEERS.read_text(encoding="utf-8"))["rows"]:
        if row["method"].startswith("torch_pruning"):
            budget = row["budget"]
            best[budget] = max(row["top1"], best.get(budget, 0.0))
    return best


def _draw_trained(axes, macs_of_full):
    """Draws what `recovery.py` measured after a training without labels."""
    rows = json.loads(RECOVERY.read_text(encoding="utf-8"))["rows"]
    axes.plot(
        [row["macs"] / macs_of_full for row in rows],
        [row["top1"] for row in rows],
        "o--",
        color=OURS_COLOR,
        label="trained without labels",
    )


def _draw_latency(axes, macs, p50_ms):
    axes.axhline(p50_ms[0], color=FULL_COLOR, lw=1, ls="--", label="full model")
    axes.plot(macs, p50_ms, "o-", color=OURS_COLOR, label="keras_greedy")
    for share, milliseconds in zip(macs, p50_ms, strict=True):
        axes.annotate(
            f"{milliseconds:.2f}",
            (share, milliseconds),
            textcoords="offset points",
            xytext=(0, -14),
            ha="center",
        )
    axes.set_title("p50 latency of the .tflite, ms, one thread", loc="left")
    axes.legend(frameon=False, loc="lower right")


if __name__ == "__main__":
    print(draw(json.loads(RESULTS.read_text(encoding="utf-8"))))
