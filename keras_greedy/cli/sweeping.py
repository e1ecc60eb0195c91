"""`keras-greedy sweep`."""

from collections.abc import Sequence
from pathlib import Path

import keras

from keras_greedy.budget import Budget
from keras_greedy.cli.data import answers_of, read_parts, told_preprocessing, top1
from keras_greedy.cli.models import load_model, save_model
from keras_greedy.cli.pruning import keeping
from keras_greedy.cli.results import Result, printed, say
from keras_greedy.graph.costs import count_params, macs
from keras_greedy.pipeline import search
from keras_greedy.report import aligned
from tflite_export.checks import check_count


@printed
def sweep(
    model: str,
    budgets: Sequence[float],
    by: str,
    output: str | None,
    round_to: int,
    objective: str,
    keep: Sequence[str],
    checkpoint: str | None,
    seed: int,
    data: str,
    preprocessing: str | None,
    samples: int,
    test: str | None,
    test_samples: int,
) -> Result:
    """Searches once, and tests the compact model of each budget."""
    limits = [_budget(by, share, round_to) for share in budgets]
    folder = None if output is None else Path(output)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(check_count("seed", seed, minimum=0))
    full = load_model(model)
    policy = keeping(keep, full)
    told = told_preprocessing(full, data, preprocessing)
    parts = read_parts(full, data, told, samples, test, test_samples, seed)
    paths = search(
        full,
        parts.own.data,
        objective=objective,
        policy=policy,
        checkpoint=checkpoint,
        seed=seed,
    )
    answers = answers_of(full, parts.test)
    points = [_point("full", full, full, top1(answers, parts.test), None)]
    for share, limit in zip(budgets, limits, strict=True):
        say(f"The compact model of {share:g}, tested {parts.tested_on}")
        compact = paths.compact(limit)
        own = answers_of(compact, parts.test)
        same = None if answers is None or own is None else (answers == own).mean()
        point = _point(f"{share:g}", full, compact, top1(own, parts.test), same)
        if folder is not None:
            point["output"] = str(folder / f"compact-{share:g}.keras")
            save_model(compact, folder / f"compact-{share:g}.keras")
        points.append(point)
    lines = [_table(points), "", f"Tested {parts.tested_on}"]
    if folder is not None:
        lines.append(f"Wrote {len(budgets)} models to {folder}")
    facts = {"by": by, "test_samples": len(parts.test), "points": points}
    return Result("\n".join(lines), facts)


def _budget(by: str, share: float, round_to: int) -> Budget:
    if by == "macs":
        return Budget(macs=share, round_to=round_to)
    return Budget(params=share, round_to=round_to)


def _point(
    budget: str,
    full: keras.Model,
    model: keras.Model,
    top1_share: float | None,
    same: float | None,
) -> dict:
    """Returns the row of a model."""
    return {
        "budget": budget,
        "macs": macs(model),
        "macs_kept": macs(model) / macs(full),
        "params": count_params(model),
        "params_kept": count_params(model) / count_params(full),
        "top1": top1_share,
        "same_answer": None if same is None else float(same),
    }


def _table(points: Sequence[dict]) -> str:
    rows = [("budget", "MACs", "", "parameters", "", "top-1", "same answer")]
    for point in points:
        row = (
            point["budget"],
            f"{point['macs']:,}",
            f"{point['macs_kept']:.1%}",
            f"{point['params']:,}",
            f"{point['params_kept']:.1%}",
            _percent(point["top1"]),
            _percent(point["same_answer"]),
        )
        rows.append(row)
    return aligned(rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
