"""The operations of an open file that a delegate runs, as XNNPACK."""

from collections.abc import Sequence
from typing import Any


def delegated(details: Sequence[dict[str, Any]]) -> set[int]:
    """Returns the indices of the operations that a delegate runs.

    The runtime tells only what a delegate's node reads and makes: what lies between
    is run by it.

    Args:
        details: Of all operations, the delegate's nodes behind the others.
    """
    nodes = [each for each in details if each["op_name"] == "DELEGATE"]
    makers = {}
    for each in details[: len(details) - len(nodes)]:
        for tensor in each["outputs"]:
            makers[int(tensor)] = each
    found: set[int] = set()
    for node in nodes:
        read = {int(tensor) for tensor in node["inputs"]}
        waiting = [int(tensor) for tensor in node["outputs"]]
        while waiting:
            tensor = waiting.pop()
            maker = makers.get(tensor)
            if tensor in read or maker is None or maker["index"] in found:
                continue
            found.add(int(maker["index"]))
            waiting += [int(each) for each in maker["inputs"]]
    return found
