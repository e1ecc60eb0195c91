"""The guide to errors quotes texts that the code has, and explains every warning."""

import ast
import re
from pathlib import Path

import pytest

import keras_greedy

ROOT = Path(keras_greedy.__file__).parents[1]
GUIDE = ROOT / "docs" / "guides" / "troubleshooting.md"
PACKAGES = ("keras_greedy", "keras_greedy_cli", "tflite_export")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TREES = [ast.parse(path.read_text("utf-8")) for path in FILES]

HEADER = "| it says | what to do |"
GAP = "..."
"""In a quotation: something that differs each time."""


def quotations():
    """The texts in the first columns of the guide's tables."""
    found = []
    in_table = False
    for line in GUIDE.read_text("utf-8").splitlines():
        if line == HEADER:
            in_table = True
        elif not line.startswith("|"):
            in_table = False
        elif in_table and not line.startswith("|---"):
            found.append(line.removeprefix("| ").split(" | ")[0])
    return found


def pieces(node):
    """The constant parts of a text, with a `GAP` for each value put into it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [piece for value in node.values for piece in pieces(value)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return pieces(node.left) + pieces(node.right)
    return [GAP]


def text_of(node):
    return " ".join("".join(pieces(node)).split())


def texts():
    """All texts of the code that are more than a value put into nothing."""
    of_texts = (ast.Constant, ast.JoinedStr, ast.BinOp)
    nodes = (node for tree in TREES for node in ast.walk(tree))
    found = {text_of(node) for node in nodes if isinstance(node, of_texts)}
    return sorted(text for text in found if text.strip(" ."))


def begins(text, quoted):
    """Whether a text begins as it is quoted; a value may be a word or a `GAP`."""
    first, *rest = text.split(GAP, 1)
    if first.startswith(quoted):
        return True
    if not quoted.startswith(first) or not rest:
        return False
    left = quoted[len(first) :]
    word = re.match(r"\S*", left)[0]
    return any(begins(rest[0], left[end:]) for end in range(len(word) + 1))


TEXTS = texts()


@pytest.mark.parametrize("quoted", quotations())
def test_what_the_guide_quotes_is_said_by_the_code(quoted):
    assert any(begins(text, quoted) for text in TEXTS)


def test_each_text_is_in_the_guide_once():
    found = quotations()
    assert len(found) > 100
    assert sorted(found) == sorted(set(found))


def is_call_of(node, name):
    return isinstance(node, ast.Call) and getattr(node.func, "id", None) == name


def warnings():
    """The texts of all warnings for users."""
    for tree in TREES:
        for node in ast.walk(tree):
            if is_call_of(node, "warn_user"):
                (warning,) = node.args
                if is_call_of(warning, "UserWarning"):
                    (warning,) = warning.args
                yield text_of(warning)


@pytest.mark.parametrize("text", sorted({*warnings()} - {GAP}))
def test_every_warning_is_in_the_guide(text):
    assert any(begins(text, quoted) for quoted in quotations())


def test_other_words_than_those_of_the_code_are_noticed():
    text = "Expected `...` to be ..., not 0. Received: ..."
    assert begins(text, "Expected `data` to be finite, not 0.")
    assert begins(text, "Expected `...` to be ..., not 0.")
    assert not begins(text, "Expected `data` to be finite or so, not 0.")
    assert not begins(text, "Expected `data` to be finite, not 1.")
    assert not begins(text, "Expected `data` to have")
