"""Recipes of litert-quantizer: which operations are stored and computed how."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from tflite_export.checks import check_choice, shown

Recipe: TypeAlias = str | Mapping[str, str | None] | Sequence[Mapping[str, Any]]
"""A kind, kinds by patterns of names, or rules of litert-quantizer's own."""

Rules: TypeAlias = list[dict[str, Any]]
"""What litert-quantizer reads; of two that match an operation the later one holds."""

KINDS = ("float16", "dynamic", "int8", "int16x8", "int4")
"""The kinds that single operations can have."""

INTEGERS_ONLY = "int8_full"
CHOSEN = "int4"
"""For a whole file: the layers that have it are chosen by what they bear."""

ROUNDED = "rounded"
"""For a whole file: int4 where kernels are in 4 bits already."""

WHOLE_FILE = (INTEGERS_ONLY, CHOSEN, ROUNDED)
"""The kinds that say more of a whole file than of each of its operations."""

NAMES_SHOWN = 8
"""Of the operations of a file, in an error."""

ALL = "*"
EVERYTHING = ".*"
BORDERS = ("INPUT", "OUTPUT")
"""What stands for the inputs and outputs of the file among its operations."""

FOUR_BITS = ("CONV_2D", "FULLY_CONNECTED")
"""The operations that have kernels for weights of int4."""

MIN_MAX = "min_max_uniform_quantize"
FLOAT_CASTING = "float_casting"
NO_QUANTIZE = "no_quantize"


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of a file.

    Attributes:
        kind: What it computes, as litert-quantizer names it.
        scope: The names of its outputs, by which litert-quantizer knows it.
        names: Its kind, these names and those of its weights, which patterns are
            searched in: the outputs of a file have names that do not tell the layer.
    """

    kind: str
    scope: str
    names: str


def check_recipe(recipe: Recipe) -> None:
    """Raises a ValueError unless a recipe is a kind, or has patterns and kinds.

    Args:
        recipe: The recipe that the caller gave.
    """
    if isinstance(recipe, Mapping) and recipe:
        for pattern, kind in recipe.items():
            _check_pattern(pattern)
            check_choice(f"recipe[{pattern!r}]", kind, (None, *KINDS))
    elif isinstance(recipe, (list, tuple)) and recipe:
        for rule in recipe:
            if not isinstance(rule, Mapping) or not {"regex", "operation"} <= set(rule):
                raise ValueError(
                    "Expected the rules of `recipe` to be dicts as litert-quantizer "
                    f"reads them, with 'regex' and 'operation'. Received: {shown(rule)}"
                )
            _check_pattern(rule["regex"])
    else:
        others = ", or a dict of such by patterns of names"
        of_files = (INTEGERS_ONLY, ROUNDED)
        check_choice("recipe", recipe, (*KINDS, *of_files), others)


def _check_pattern(pattern: object) -> None:
    try:
        re.compile(pattern)  # type: ignore[call-overload]
    except (re.error, TypeError) as error:
        raise ValueError(
            "Expected the patterns of `recipe` to be regular expressions. Received: "
            f"{shown(pattern)}: {error}"
        ) from None


def operations_of(content: bytes) -> list[Operation]:
    """Returns the operations of a file that litert-quantizer knows.

    Args:
        content: The content of the file.
    """
    from litert_quantizer.utils import tfl_flatbuffer_utils as utils

    model = utils.read_model(content)
    found = []
    for graph in model.subgraphs:
        for each in graph.operators:
            code = model.operatorCodes[each.opcodeIndex].builtinCode
            if code not in utils.TFL_OP_CODE_TO_NAME:
                continue
            kind = utils.TFL_OP_CODE_TO_NAME[code]
            scope = utils.get_op_scope(each, graph.tensors)
            names = [kind.value, scope.rstrip(";")]
            for index in each.inputs:
                tensor = graph.tensors[index]
                # -1 is an input that is left out.
                if index >= 0 and model.buffers[tensor.buffer].data is not None:
                    names.append(utils.get_tensor_name(tensor))
            found.append(Operation(kind, scope, ";".join(names)))
    return found


def manager_of(rules: Rules) -> Any:
    """Returns what litert-quantizer makes of rules."""
    from litert_quantizer.recipe_manager import RecipeManager

    manager = RecipeManager()
    manager.load_quantization_recipe(rules)
    return manager


def rules_of(recipe: Recipe, operations: Sequence[Operation]) -> Rules:
    """Returns the rules of a recipe that `check_recipe` has passed.

    Args:
        recipe: The recipe.
        operations: Those of the file.

    Raises:
        ValueError: When a pattern matches no operation, or none that there is such a
            kind of.
    """
    if recipe == ROUNDED:
        recipe = "int8"
    if isinstance(recipe, str):
        rules = _rules(EVERYTHING, recipe)
        _check_effect(rules, EVERYTHING, operations)
        return rules
    if not isinstance(recipe, Mapping):
        for own in recipe:
            _check_effect([dict(own)], own["regex"], operations)
        return [dict(own) for own in recipe]
    kinds: dict[str, str | None] = {}
    for pattern, kind in recipe.items():
        matching = [each for each in operations if re.search(pattern, each.names)]
        if not matching:
            raise _no_match(pattern, operations)
        own_kinds = {operation.scope: kind for operation in matching}
        _check_effect(rules_by_scope(own_kinds), pattern, operations)
        # The later pattern holds.
        kinds |= own_kinds
    return rules_by_scope(kinds)


def rules_by_scope(kinds: Mapping[str, str | None]) -> Rules:
    """Returns rules for single operations.

    Args:
        kinds: The scope of an operation -> its kind, or `None` for float32.
    """
    rules = []
    for scope, kind in kinds.items():
        rules += _rules(f"^{re.escape(scope)}$", kind)
    return rules


def _check_effect(
    rules: Rules,
    pattern: str,
    operations: Sequence[Operation],
) -> None:
    """Raises a ValueError when rules that ask for fewer bits change no operation."""
    if all(rule.get("algorithm_key") == NO_QUANTIZE for rule in rules):
        return
    manager = manager_of(rules)
    for operation in operations:
        algorithm, _ = manager.get_quantization_configs(operation.kind, operation.scope)
        if algorithm != NO_QUANTIZE:
            return
    raise _no_match(pattern, operations, " that can be stored and computed so")


def _no_match(
    pattern: str,
    operations: Sequence[Operation],
    which: str = "",
) -> ValueError:
    names = ", ".join(repr(each.names) for each in operations[:NAMES_SHOWN])
    return ValueError(
        f"Expected the patterns of `recipe` to match operations{which}. Received: "
        f"{pattern!r}, which matches none. The names of the first ones: {names}"
    )


def _rules(pattern: str, kind: str | None) -> Rules:
    """Returns the rules for the operations whose outputs match a pattern."""
    if kind is None:
        return [_rule(pattern, ALL, NO_QUANTIZE)]
    if kind == "float16":
        half: dict[str, Any] = {"weight_tensor_config": _tensor(16, dtype="FLOAT")}
        half |= {"compute_precision": "FLOAT", "explicit_dequantize": True}
        return [_rule(pattern, ALL, FLOAT_CASTING, half)]
    if kind == "dynamic":
        return [_rule(pattern, ALL, MIN_MAX, _integers(8))]
    activation_bits = 16 if kind == "int16x8" else 8
    rules = [_rule(pattern, ALL, MIN_MAX, _integers(8, activation_bits))]
    if kind == "int4":
        four = _integers(4, activation_bits)
        rules += [_rule(pattern, operation, MIN_MAX, four) for operation in FOUR_BITS]
    if kind != INTEGERS_ONLY:
        rules += [_rule(pattern, border, NO_QUANTIZE) for border in BORDERS]
    return rules


def _rule(
    pattern: str,
    operation: str,
    algorithm: str,
    config: dict[str, Any] | None = None,
) -> dict[str, Any]:
    rule: dict[str, Any] = {"regex": pattern, "operation": operation}
    rule["algorithm_key"] = algorithm
    if config is not None:
        rule["op_config"] = config
    return rule


def _integers(weight_bits: int, activation_bits: int | None = None) -> dict[str, Any]:
    config: dict[str, Any] = {"weight_tensor_config": _tensor(weight_bits)}
    if activation_bits is not None:
        # The kernels of int16 have no zero point.
        is_symmetric = activation_bits == 16
        activations = _tensor(activation_bits, is_symmetric, "TENSORWISE")
        config["activation_tensor_config"] = activations
    return config | {"compute_precision": "INTEGER", "explicit_dequantize": False}


def _tensor(
    bits: int,
    is_symmetric: bool = True,
    granularity: str = "CHANNELWISE",
    dtype: str = "INT",
) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "symmetric": is_symmetric,
        "granularity": granularity,
        "dtype": dtype,
    }
