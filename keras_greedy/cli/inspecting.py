"""`keras-greedy inspect`."""

import keras

from keras_greedy.cli.models import load_model
from keras_greedy.cli.results import Result, printed
from keras_greedy.datasets import guess_preprocessing
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.report import aligned


@printed
def inspect(model: str) -> Result:
    """Returns what of a model can be pruned, and what not and why."""
    loaded = load_model(model)
    graph = trace_quietly(loaded)
    facts = _facts(loaded, graph)
    lines = [
        f"{model}: {facts['name']}",
        f"inputs {_shapes(facts['inputs'])}, outputs {_shapes(facts['outputs'])}",
        f"{facts['macs']:,} MACs, {facts['params']:,} parameters",
        f"preprocessing of pictures: {facts['preprocessing'] or 'not told'}",
        "",
    ]
    rows = [("group", "channels", "MACs if halved", "parameters if halved")]
    for group in facts["groups"]:
        row = (
            group["name"],
            f"{group['channels']:,}",
            f"{group['macs_if_halved']:.1%}",
            f"{group['params_if_halved']:.1%}",
        )
        rows.append(row)
    lines.append(aligned(rows) if facts["groups"] else "Nothing can be pruned.")
    if facts["unprunable"]:
        lines += ["", "Channels of these layers stay:"]
        lines += [f"  {name}: {why}" for name, why in facts["unprunable"].items()]
    if facts["probed"]:
        lines += ["", "These layers have no rule, and are taken to do to channels:"]
        lines += [f"  {name}: {kind}" for name, kind in facts["probed"].items()]
    return Result("\n".join(lines), facts)


def _facts(model: keras.Model, graph: ChannelGraph) -> dict:
    costs = Costs(graph)
    groups = []
    for group in graph.groups:
        halved = {group.name: max(1, group.size // 2)}
        fact = {
            "name": group.name,
            "channels": group.size,
            "macs_if_halved": costs.macs(halved) / costs.macs(),
            "params_if_halved": costs.params(halved) / costs.params(),
            "made_by": list(dict.fromkeys(call.name for call in group.producers)),
            "read_by": group.consumer_names,
        }
        groups.append(fact)
    return {
        "name": model.name,
        "inputs": [list(tensor.shape) for tensor in graph.inputs],
        "outputs": [list(tensor.shape) for tensor in graph.outputs],
        "macs": int(costs.macs()),
        "params": int(costs.params()),
        "preprocessing": guess_preprocessing(model),
        "groups": groups,
        "unprunable": dict(graph.unprunable),
        "probed": dict(graph.probed),
    }


def _shapes(shapes: list[list[int | None]]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)
