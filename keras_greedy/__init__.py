"""Structured pruning for Keras 3 by greedy forward selection."""

import importlib

__version__ = "0.1.0"

# Keras starts at the first use of a name and not with the package, so that the
# command line can still choose a backend and quieten it.
_MODULES = {
    "Budget": "selection.allocate",
    "ChannelGraph": "graph.channels",
    "ChannelGroup": "graph.channels",
    "FineTune": "finetune",
    "Report": "report",
    "IN": "graph.rules",
    "LatencyTable": "latency",
    "LocalTimer": "latency",
    "OUT": "graph.rules",
    "Rule": "graph.rules",
    "SelectionPaths": "paths",
    "Unprunable": "graph.rules",
    "compare": "report",
    "count_params": "graph.costs",
    "load_paths": "paths",
    "macs": "graph.costs",
    "measure_latencies": "latency",
    "prune": "pipeline",
    "reestimate_batch_norm": "batch_norm",
    "register_rule": "graph.rules",
    "search": "pipeline",
    "trace": "graph.trace",
}

__all__ = sorted(_MODULES)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return [*globals(), *__all__]
