"""Findings of a search in one `.npz` file: nested values, checksummed, not pickled."""

import dataclasses
import hashlib
import io
import json
import os
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from keras_greedy.selection.divergence import Divergence
from keras_greedy.selection.moments import Moments, Scatter
from keras_greedy.selection.path import MixturePath, SelectionPath
from tflite_export.files import read_arrays, replacing

Tree: TypeAlias = Any
"""An array, number, string or `None`, or a list, a dict or one of `CLASSES` of these.

A tuple is read again as a list.
"""

CLASSES = {
    cls.__name__: cls
    for cls in (SelectionPath, MixturePath, Divergence, Scatter, Moments)
}

ARRAY = "array"
DICT = "dict"
"""In JSON an object has one key, its kind: one of these, or the name of a class."""

STRUCTURE = "structure"
"""The entry with the JSON of the tree, in which an array is the name of its entry."""

CHECKSUM = "checksum"
"""The entry with the SHA-256 of all others."""

WRITER = "a search with `checkpoint`"


def write_tree(path: Path, tree: Tree) -> None:
    """Writes a file whole or not at all.

    Raises:
        OSError: When it cannot be written; what was there before is as it was.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        _write(file, tree)
        # On the disk before it takes the place of the last one, power cut or not.
        file.flush()
        os.fsync(file.fileno())


def read_tree(path: Path) -> Tree:
    """Reads a file that `write_tree` wrote.

    Raises:
        ValueError: When it is another one, or damaged; says so.
    """
    return _tree_of(read_arrays(path, WRITER))


def tree_to_bytes(tree: Tree) -> bytes:
    """Returns a tree as the bytes of a file."""
    file = io.BytesIO()
    _write(file, tree)
    return file.getvalue()


def tree_of_bytes(content: bytes) -> Tree:
    """Returns the tree of `tree_to_bytes`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return _tree_of(dict(arrays))


def _write(file: IO[bytes], tree: Tree) -> None:
    arrays: dict[str, Any] = {}
    structure = json.dumps(_to_json(tree, arrays))
    arrays[STRUCTURE] = np.array(structure)
    arrays[CHECKSUM] = np.array(checksum_of(arrays))
    np.savez(file, **arrays)


def _tree_of(arrays: dict[str, np.ndarray]) -> Tree:
    checksum = str(arrays.pop(CHECKSUM, "missing"))
    if STRUCTURE not in arrays or checksum != checksum_of(arrays):
        raise ValueError("its checksum is not that of its arrays")
    structure = json.loads(str(arrays.pop(STRUCTURE)))
    return _from_json(structure, arrays)


def checksum_of(arrays: dict[str, np.ndarray]) -> str:
    """Returns the SHA-256 of the names, dtypes, shapes and bytes of arrays."""
    checksum = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        checksum.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        checksum.update(np.ascontiguousarray(array).reshape(-1).view("uint8").data)
    return checksum.hexdigest()


def _to_json(tree: Tree, arrays: dict[str, np.ndarray]) -> Any:
    """Returns a tree as JSON has it, whose arrays are put into a dict."""
    if isinstance(tree, np.generic):
        tree = tree.item()
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, list | tuple):
        return [_to_json(part, arrays) for part in tree]
    if isinstance(tree, dict):
        parts = {name: _to_json(part, arrays) for name, part in tree.items()}
        return {DICT: parts}
    if dataclasses.is_dataclass(tree):
        names = [field.name for field in dataclasses.fields(tree)]
        parts = {name: _to_json(getattr(tree, name), arrays) for name in names}
        return {type(tree).__name__: parts}
    array = np.asarray(tree)
    if array.dtype.kind == "V":
        # Types that NumPy cannot name in a file, as bfloat16: float32 holds them.
        array = array.astype("float32")
    name = str(len(arrays))
    arrays[name] = array
    return {ARRAY: name}


def _from_json(structure: Any, arrays: dict[str, np.ndarray]) -> Tree:
    if isinstance(structure, list):
        return [_from_json(part, arrays) for part in structure]
    if not isinstance(structure, dict):
        return structure
    ((kind, own),) = structure.items()
    if kind == ARRAY:
        return arrays[own]
    parts = {name: _from_json(part, arrays) for name, part in own.items()}
    return parts if kind == DICT else CLASSES[kind](**parts)
