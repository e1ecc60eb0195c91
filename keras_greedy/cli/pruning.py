"""`keras-greedy prune`."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from keras_greedy.budget import Budget
from keras_greedy.cli.data import (
    Parts,
    answers_of,
    read_parts,
    told_preprocessing,
    top1,
)
from keras_greedy.cli.models import load_model, save_model
from keras_greedy.cli.results import Result, printed, say
from keras_greedy.graph.channels import ChannelGroup
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.html_report import write_report
from keras_greedy.latency import LatencyTable, measure_latencies
from keras_greedy.pipeline import prune as prune_model
from keras_greedy.policies import PruningPolicy
from keras_greedy.report import Change, Report, compare
from keras_greedy.training import FineTune
from tflite_export.checks import check_count, check_target

UNITS = {
    "macs": "MACs",
    "params": "parameters",
    "predicted_ms": "latency in ms, as predicted",
}


@printed
def prune(
    model: str,
    output: str,
    report: str | None,
    as_given: str,
    macs: float | None,
    params: float | None,
    latency: float | None,
    latency_ms: float | None,
    round_to: int,
    objective: str,
    keep: Sequence[str],
    checkpoint: str | None,
    seed: int,
    finetune: int | bool | None,
    distill: bool,
    data: str,
    preprocessing: str | None,
    samples: int,
    test: str | None,
    test_samples: int,
) -> Result:
    """Makes a smaller model, tests both, and says what to do next."""
    target = check_target(output, ".keras")
    page = None if report is None else check_target(report, ".html", "report")
    is_default = macs is params is latency is latency_ms is None
    budget = Budget(
        macs=0.5 if is_default else macs,
        params=params,
        latency=latency,
        latency_ms=latency_ms,
        round_to=round_to,
    )
    training = training_of(finetune, distill)
    keras.utils.set_random_seed(check_count("seed", seed, minimum=0))
    full = load_model(model, compile=training is not None)
    policy = keeping(keep, full)
    told = told_preprocessing(full, data, preprocessing)
    parts = read_parts(full, data, told, samples, test, test_samples, seed)
    _check_labels(training, parts)
    table = None
    if budget.limits_latency:
        table = measure_latencies(full)
        budget = dataclasses.replace(budget, table=table)
    compact = prune_model(
        full,
        parts.own.data,
        budget,
        objective=objective,
        policy=policy,
        finetune=training,
        checkpoint=checkpoint,
        seed=seed,
    )
    save_model(compact, target)
    made = _with_latency(compare(full, compact), table)
    say(f"Testing {parts.tested_on}")
    test_lines, test_facts = tested(full, compact, parts)
    asked = _asked(budget, made)
    lines = [str(made), ""]
    for name, limit in asked.items():
        lines.append(_asked_and_got(getattr(made, name), limit, UNITS[name]))
    lines += [*test_lines, f"Wrote {output}"]
    if page is not None:
        write_report(page, made, measured=points_of(made, test_facts), command=as_given)
        lines.append(f"Wrote {report}")
    lines.append(f"Next: {_export_of(output, data, preprocessing)}")
    facts = {"output": output, "asked": asked, **made.to_dict(), **test_facts}
    return Result("\n".join(lines), facts)


def _export_of(output: str, data: str, preprocessing: str | None) -> str:
    """Returns the command that exports the compact model."""
    told = [] if preprocessing is None else ["--preprocessing", preprocessing]
    file = str(Path(output).with_suffix(".tflite"))
    export = ["keras-greedy", "export", output, "--data", data, *told, "-o", file]
    return shlex.join(export)


def points_of(
    report: Report,
    facts: Mapping[str, float],
) -> dict[str, list[tuple[float, float]]]:
    """Returns the top-1 before and after over the MACs, where they were measured.

    Args:
        report: Of both models.
        facts: What `tested` found.
    """
    if "top1_before" not in facts:
        return {}
    before, after = facts["top1_before"], facts["top1_after"]
    return {"on the test": [(1.0, before), (report.macs.kept, after)]}


class KeepLayers(PruningPolicy):
    """Leaves whole the channels that some layers make.

    Args:
        names: The names of the layers.
    """

    def __init__(self, names: Sequence[str]):
        self.names = set(names)

    def __repr__(self) -> str:
        return f"--keep {' --keep '.join(sorted(self.names))}"

    def allow_pruning(self, group: ChannelGroup) -> bool:
        """Returns whether none of the layers makes channels of the group."""
        return not self.names & {call.name for call in group.producers}


def keeping(names: Sequence[str], model: keras.Model) -> PruningPolicy | None:
    """Returns the policy that keeps the channels of layers, `None` without any.

    Args:
        names: The names of the layers.
        model: The model that has them.

    Raises:
        ValueError: When the model has no layer of such a name.
    """
    if not names:
        return None
    groups = trace_quietly(model).groups
    makers = {call.name for group in groups for call in group.producers}
    unknown = sorted(set(names) - makers)
    if unknown:
        raise ValueError(
            "Expected --keep to name layers whose channels can be pruned, as "
            f"`keras-greedy inspect` shows them. Received: {', '.join(unknown)}"
        )
    return KeepLayers(names)


def training_of(finetune: int | bool | None, distill: bool) -> FineTune | bool | None:
    """Returns the training that the options ask for.

    Args:
        finetune: The epochs, or `True`, or `None` for no training.
        distill: Whether it is towards the full model alone.

    Raises:
        ValueError: For `distill` without `finetune`, and for no epochs.
    """
    if finetune is None:
        if distill:
            raise ValueError(
                "Expected --distill together with --finetune or --finetune EPOCHS"
            )
        return None
    if finetune is True:
        return FineTune(distill=True) if distill else True
    return FineTune(epochs=finetune, distill=distill)


def _check_labels(training: FineTune | bool | None, parts: Parts) -> None:
    is_on_labels = isinstance(training, FineTune) and not training.distill
    if is_on_labels and parts.own.y is None:
        raise ValueError(
            "Expected --data with labels for --finetune EPOCHS. Received: none; add "
            "--distill, which needs none, or leave out the number of epochs"
        )


def _with_latency(report: Report, table: LatencyTable | None) -> Report:
    if table is None:
        return report
    widths = {name: int(change.after) for name, change in report.widths.items()}
    change = Change(float(table.ms()), float(table.ms(widths)))
    return dataclasses.replace(report, predicted_ms=change)


def _asked(budget: Budget, report: Report) -> dict[str, float]:
    """Returns the limits of a budget, by the fields of the report that they are of."""
    limits = {
        "macs": budget.macs,
        "params": budget.params,
        "predicted_ms": _asked_ms(budget, report),
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def _asked_ms(budget: Budget, report: Report) -> float | None:
    """Returns the latency asked for: a share up to 1, else milliseconds."""
    if report.predicted_ms is None:
        return None
    limits = []
    if budget.latency is not None:
        limits.append(budget.latency * report.predicted_ms.before)
    if budget.latency_ms is not None:
        limits.append(budget.latency_ms)
    return min(limits)


def _asked_and_got(change: Change, limit: float, unit: str) -> str:
    is_latency = unit == UNITS["predicted_ms"]
    number_format = ".3g" if is_latency else ","
    before = format(change.before, number_format)
    after = format(change.after, number_format)
    share = limit / change.before if is_latency or limit > 1 else limit
    return (
        f"Asked for {min(share, 1):.1%} of the {unit}, got {change.kept:.1%}: {after} "
        f"of {before}"
    )


def tested(
    full: keras.Model,
    compact: keras.Model,
    parts: Parts,
) -> tuple[list[str], dict[str, float | int | bool]]:
    """Returns lines and facts about the answers of both models; none of other models.

    Args:
        full: The full model.
        compact: The compact one.
        parts: The examples.
    """
    before = answers_of(full, parts.test)
    after = answers_of(compact, parts.test)
    if before is None or after is None:
        return [], {}
    facts: dict[str, float | int | bool] = {
        "test_samples": len(parts.test),
        "test_is_held_apart": parts.is_held,
        "same_answer": float((before == after).mean()),
    }
    lines = [
        f"Same answer as the full model: {facts['same_answer']:.1%} {parts.tested_on}"
    ]
    top1_before = top1(before, parts.test)
    top1_after = top1(after, parts.test)
    if top1_before is not None and top1_after is not None:
        facts |= {"top1_before": top1_before, "top1_after": top1_after}
        lines.append(f"Top-1: {top1_before:.1%} before, {top1_after:.1%} after")
    return lines, facts
