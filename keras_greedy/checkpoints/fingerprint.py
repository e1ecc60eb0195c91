"""All that the result of a search depends on, as a few short strings."""

import dataclasses
import hashlib
import inspect
import json
import sys
import warnings
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import KerasTensor

from keras_greedy.batch_arrays import unpacked
from keras_greedy.batches import Batches
from keras_greedy.data_forms import is_array_like, to_numpy
from keras_greedy.devices import device_count
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.selection.methods import Method
from keras_greedy.selection.output.methods import OutputSearch

Fingerprint: TypeAlias = dict[str, str]
"""Words for a thing that the search depends on -> a short string that tells it."""

DIGITS = 12
"""Of a checksum: enough that two things never share one by chance."""


def fingerprint_of(
    graph: ChannelGraph,
    batches: Batches,
    method: Method,
    seed: int,
    budget: Any,
) -> Fingerprint:
    """Returns what the search of a model depends on.

    Args:
        graph: The traced model, with the groups that may be pruned.
        batches: The data of the search, whose first batch is read.
        method: How channels are selected.
        seed: Of everything random.
        budget: What the search itself depends on, where groups are pruned one after
            the other; `None` for a search that is good for any budget.
    """
    import keras_greedy  # Not above: it is being imported while this module is.

    groups = [[group.name, group.size] for group in graph.groups]
    kinds = [output.kind for output in outputs_of(graph)]
    return {
        "version of keras_greedy": keras_greedy.__version__,
        "version of Keras": keras.__version__,
        "version of NumPy": np.__version__,
        "version of Python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "backend": _backend(),
        "devices": str(device_count()),
        "model": _of_model(graph),
        "outputs or loss of the model": digest_of([kinds, _loss_of(graph.model)]),
        "groups that may be pruned": f"{len(groups)} groups, {digest_of(groups)}",
        "data": _of_data(batches, isinstance(method, OutputSearch)),
        "method": json.dumps(plain(method), sort_keys=True),
        "budget": "any" if budget is None else json.dumps(plain(budget)),
        "seed": str(seed),
    }


def digest_of(value: Any) -> str:
    """Returns a checksum of a value that `plain` knows."""
    text = json.dumps(plain(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def plain(value: Any) -> Any:
    """Returns a value as JSON has it, the same in every process.

    Args:
        value: Of a config: numbers, strings, lists, dicts, arrays, objects with a
            config, functions. Of any other object the class has to do.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [plain(own) for own in value]
    if isinstance(value, type):
        return value.__qualname__
    if is_array_like(value) or isinstance(value, np.generic):
        return _of_arrays([to_numpy(value)])
    if hasattr(value, "__code__"):
        return _of_function(value)
    name = type(value).__qualname__
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return [name, {own: plain(getattr(value, own)) for own in names}]
    if hasattr(value, "get_config"):
        return [name, _config_of(value)]
    return name


def _backend() -> str:
    name = keras.backend.backend()
    return f"{name} {getattr(sys.modules.get(name), '__version__', 'unknown')}"


def _of_function(function: Any) -> str:
    """Returns a checksum of a function's code; where it was written may change."""
    code = function.__code__
    constants = [own for own in code.co_consts if not hasattr(own, "co_code")]
    names = [code.co_names, code.co_varnames]
    taken = _values_taken(function)
    parts = [code.co_code.hex(), constants, names, function.__defaults__, taken]
    return f"{function.__qualname__} {digest_of(parts)}"


def _values_taken(function: Any) -> dict[str, Any]:
    """Returns the numbers and strings that a function has from around it, by name."""
    try:
        around = inspect.getclosurevars(function)
    except (TypeError, ValueError):
        # It is not Python's own, or has a name that is not defined yet.
        return {}
    taken = {}
    for name, value in {**around.globals, **around.nonlocals}.items():
        # Nothing else: functions may name each other in a circle.
        if is_array_like(value) or isinstance(value, bool | int | float | str):
            taken[name] = value
    return taken


def _config_of(value: Any) -> Any:
    """Returns the config of an object, as `plain` has it.

    Without its seed, which may have been drawn: it is for training. With the functions
    themselves, which are told by the lines that they were written in, too.
    """
    if isinstance(value, keras.layers.Lambda):
        return plain(value.function)
    try:
        with warnings.catch_warnings():
            # Of a lambda in it, which is never read again.
            warnings.simplefilter("ignore")
            config = value.get_config()
        told = {}
        for name, own in config.items():
            function = getattr(value, name, None)
            told[name] = plain(function if hasattr(function, "__code__") else own)
        told.pop("seed", None)
        return told
    except Exception:
        # Those of users' fail in ways of their own; the weights are still compared.
        return None


def _of_model(graph: ChannelGraph) -> str:
    """Returns the size of a model and a checksum of its calls and weights.

    The names of its inputs and its own, which Keras counts up, are no part of it.
    """
    places = {tensor: f"input {i}" for i, tensor in enumerate(graph.inputs)}
    calls = []
    for call in graph.calls:
        for i, tensor in enumerate(call.outputs):
            places[tensor] = f"output {i} of call {call.index}"
        calls.append(_of_call(call, places))
    ends = [places[tensor] for tensor in graph.outputs]
    weights = [to_numpy(weight.value) for weight in graph.model.weights]
    checksum = digest_of([calls, ends, _of_arrays(weights)])
    numbers = sum(weight.size for weight in weights)
    return f"{len(calls)} operations, {numbers:,} weights, {checksum}"


def _of_call(call: Call, places: dict[KerasTensor, str]) -> Any:
    def told(leaf: Any) -> Any:
        return places[leaf] if isinstance(leaf, KerasTensor) else plain(leaf)

    given = keras.tree.map_structure(told, (call.args, call.kwargs))
    return [call.name, plain(call.operation), given]


def _loss_of(model: keras.Model) -> Any:
    return plain(model.loss) if model.compiled else None


def _of_data(batches: Batches, needs_labels: bool) -> str:
    """Returns the shape of the first batch, of whole arrays all, and its checksum."""
    first = batches.first_as_given()
    x, y, weights = unpacked(first, batches.name)
    used = (x, y, weights) if needs_labels else x
    leaves = [to_numpy(leaf) for leaf in keras.tree.flatten(used) if leaf is not None]
    told = batches.batches_told
    count = "unknown" if told is None else told
    shapes = " and ".join(f"{leaf.dtype} {leaf.shape}" for leaf in leaves)
    return f"{shapes}, {_of_arrays(leaves)}, in the first batch; number of them {count}"


def _of_arrays(arrays: list[np.ndarray]) -> str:
    """Returns a checksum of the shapes, dtypes and bytes of arrays."""
    checksum = hashlib.sha256()
    for array in arrays:
        checksum.update(f"{array.dtype} {array.shape}".encode())
        if array.dtype.kind == "O":
            # Text: the bytes of the array are but places in memory.
            checksum.update(repr(array.tolist()).encode())
        else:
            checksum.update(np.ascontiguousarray(array).reshape(-1).view("uint8").data)
    return checksum.hexdigest()[:DIGITS]
