"""Structured pruning for Keras 3 by greedy forward selection."""

import importlib
import importlib.util
import sys

__version__ = "0.1.0"

# Keras starts at the first use of a name and not with the package, so that the
# command line can still choose a backend and quieten it.
_MODULES = {
    "Budget": "selection.allocate",
    "ChannelGraph": "graph.channels",
    "ChannelGroup": "graph.channels",
    "ConstantWidth": "schedules",
    "FineTune": "finetune",
    "GreedyChannels": "wrappers",
    "GreedySelectionStep": "callbacks",
    "IN": "graph.rules",
    "LatencyTable": "latency_table",
    "LayerByLayer": "schedules",
    "LeaveStemAndHead": "policies",
    "LocalTimer": "latency",
    "OUT": "graph.rules",
    "PolynomialWidth": "schedules",
    "PruneForLatencyOnXNNPack": "policies",
    "PruningPolicy": "policies",
    "Report": "report",
    "Rule": "graph.rules",
    "SelectionPaths": "paths",
    "SelectionSummaries": "callbacks",
    "Unprunable": "graph.rules",
    "compare": "report",
    "count_params": "graph.costs",
    "load_paths": "paths",
    "macs": "graph.costs",
    "measure_latencies": "latency",
    "prune": "pipeline",
    "prune_greedy": "wrapping",
    "prune_scope": "wrappers",
    "reestimate_batch_norm": "batch_norm",
    "register_rule": "graph.rules",
    "search": "pipeline",
    "strip_pruning": "wrapping",
    "trace": "graph.trace",
}

_ROOMS = ("interop", "lottery")

__all__ = sorted((*_MODULES, *_ROOMS))


def __getattr__(name):
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return [*globals(), *__all__]


class _WithKeras:
    """An import hook: once Keras is there, the layers of saved models are known to it.

    A name in `_MODULES` would not do: whoever loads a model may use none of them.
    """

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            run = spec.loader.exec_module

            def run_and_register(module):
                run(module)
                _register()

            spec.loader.exec_module = run_and_register
        return spec


def _register():
    for module in ("wrappers", "lottery.layers", "lottery.popup"):
        importlib.import_module(f"{__name__}.{module}")


if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _WithKeras())
