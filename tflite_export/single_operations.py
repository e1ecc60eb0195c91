"""The operations of a `.tflite` file, each as a file of its own."""

import copy
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

# The modules that read and write the format: of the runtime, or of TensorFlow.
SCHEMAS = (
    "ai_edge_litert.schema_py_generated",
    "tensorflow.lite.python.schema_py_generated",
)

IDENTIFIER = b"TFL3"
"""The mark of the format."""

ABSENT = -1
"""In place of an optional input that is not there."""


class Operations:
    """The operations of the first subgraph of a file.

    Args:
        path: A file that the runtime has opened.

    Attributes:
        kinds: The kind of each, `CONV_2D` for example.

    Raises:
        ImportError: When nothing installed can read the format; says what to install.
    """

    def __init__(self, path: str | Path):
        self._schema = import_schema()
        root = self._schema.Model.GetRootAs(Path(path).read_bytes(), 0)
        self._model = self._schema.ModelT.InitFromObj(root)
        self._graph = self._model.subgraphs[0]
        # The schema has `None` for a list of nothing.
        operators = self._graph.operators or []
        self.kinds: list[str] = [self._kind(each) for each in operators]

    def inputs(self, index: int) -> list[Any]:
        """Returns the tensors that an operation reads, as the schema has them."""
        read = self._graph.operators[index].inputs
        return [self._graph.tensors[i] for i in read if i != ABSENT]

    def outputs(self, index: int) -> list[Any]:
        """Returns the tensors that an operation makes, as the schema has them."""
        return [self._graph.tensors[i] for i in self._graph.operators[index].outputs]

    def bytes_of(self, tensor: Any) -> int:
        """Returns the size of a constant; 0 of a tensor that is computed."""
        data = self._model.buffers[tensor.buffer].data
        return 0 if data is None else len(data)

    def alone(self, index: int) -> bytes:
        """Returns a file with nothing but one operation and its constants.

        Args:
            index: Of the operation.
        """
        schema = self._schema
        operator = copy.copy(self._graph.operators[index])
        used = [i for i in [*operator.inputs, *operator.outputs] if i != ABSENT]
        places = {old: new for new, old in enumerate(dict.fromkeys(used))}

        # The first buffer of a file is empty: that of all tensors that are computed.
        buffers = [schema.BufferT()]
        tensors = []
        computed = []
        for old, new in places.items():
            tensor = copy.copy(self._graph.tensors[old])
            buffer = self._model.buffers[tensor.buffer]
            tensor.buffer = 0
            if buffer.data is not None:
                tensor.buffer = len(buffers)
                buffers.append(buffer)
            elif old not in operator.outputs:
                computed.append(new)
            tensors.append(tensor)

        code = self._model.operatorCodes[operator.opcodeIndex]
        operator.opcodeIndex = 0
        operator.inputs = [places.get(i, ABSENT) for i in operator.inputs]
        operator.outputs = [places[i] for i in operator.outputs]
        graph = schema.SubGraphT()
        graph.tensors = tensors
        graph.inputs = computed
        graph.outputs = operator.outputs
        graph.operators = [operator]
        model = schema.ModelT()
        model.version = self._model.version
        model.operatorCodes = [code]
        model.subgraphs = [graph]
        model.buffers = buffers
        return _packed(model)

    def _kind(self, operator: Any) -> str:
        code = self._model.operatorCodes[operator.opcodeIndex]
        if code.customCode is not None:
            return code.customCode.decode()
        # Files of old converters have the first field only, which ends at 127.
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        return _names_of(self._schema.BuiltinOperator)[number]


def name_of(tensor: Any) -> str:
    """Returns the name of a tensor of the schema, which some converters leave out."""
    return (tensor.name or b"").decode()


def import_schema() -> ModuleType:
    """Returns the module that reads and writes the format.

    Raises:
        ImportError: When none is installed; says what to install.
    """
    for name in SCHEMAS:
        package, *_ = name.partition(".")
        if importlib.util.find_spec(package) and importlib.util.find_spec(name):
            return importlib.import_module(name)
    raise ImportError(
        "Expected a package that reads .tflite files operation by operation. Received "
        "none: `pip install ai-edge-litert`"
    )


def _names_of(enumeration: Any) -> dict[int, str]:
    """Returns value -> name of an enumeration of the schema."""
    names = {}
    for name, value in vars(enumeration).items():
        if isinstance(value, int):
            names[value] = name
    return names


def _packed(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    return bytes(builder.Output())
