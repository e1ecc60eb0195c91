"""Structured pruning for Keras 3 by greedy forward selection."""

__version__ = "0.2.0"

from keras_greedy import backend, interop, lottery, testing  # noqa: F401
from keras_greedy.budget import Budget
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.graph.costs import count_params, macs
from keras_greedy.graph.rules import (
    IN,
    OUT,
    JoinRule,
    Rule,
    Unprunable,
    register_rule,
)
from keras_greedy.graph.trace import trace
from keras_greedy.html_report import write_report
from keras_greedy.latency import LatencyTable, LocalTimer, measure_latencies
from keras_greedy.paths import SelectionPaths, load_paths
from keras_greedy.pipeline import prune, search
from keras_greedy.policies import (
    LeaveStemAndHead,
    PruneForLatencyOnXNNPack,
    PruningPolicy,
)
from keras_greedy.report import Report, compare
from keras_greedy.selection.methods import DivergenceSearch, Imitation, LossSearch
from keras_greedy.training import FineTune, reestimate_batch_norm, round_kernels
from keras_greedy.while_training import (
    ConstantWidth,
    GreedyChannels,
    GreedySelectionStep,
    LayerByLayer,
    PolynomialWidth,
    SelectionSchedule,
    SelectionSummaries,
    prune_greedy,
    prune_scope,
    strip_pruning,
)

__all__ = [
    "IN",
    "OUT",
    "Budget",
    "ChannelGraph",
    "ChannelGroup",
    "ConstantWidth",
    "DivergenceSearch",
    "FineTune",
    "GreedyChannels",
    "GreedySelectionStep",
    "Imitation",
    "JoinRule",
    "LatencyTable",
    "LayerByLayer",
    "LeaveStemAndHead",
    "LocalTimer",
    "LossSearch",
    "PolynomialWidth",
    "PruneForLatencyOnXNNPack",
    "PruningPolicy",
    "Report",
    "Rule",
    "SelectionPaths",
    "SelectionSchedule",
    "SelectionSummaries",
    "Unprunable",
    "compare",
    "count_params",
    "interop",
    "load_paths",
    "lottery",
    "macs",
    "measure_latencies",
    "prune",
    "prune_greedy",
    "prune_scope",
    "reestimate_batch_norm",
    "register_rule",
    "round_kernels",
    "search",
    "strip_pruning",
    "testing",
    "trace",
    "write_report",
]
