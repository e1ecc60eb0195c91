"""The choice of a converter: a new one, or one that goes, is a line here and a file."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from tflite_export.checks import check_choice
from tflite_export.converters import keras_export, litert_torch, tensorflow
from tflite_export.converters.process import PYTHON
from tflite_export.data import Samples
from tflite_export.quantization import Quantization

if TYPE_CHECKING:
    import keras

ConverterName: TypeAlias = Literal["tensorflow", "keras", "litert-torch"]

Convert: TypeAlias = Callable[
    ["keras.Model", Quantization | None, int, Sequence[Samples]], bytes
]


class Converter(NamedTuple):
    """A converter.

    Attributes:
        is_there: Tells whether it takes models of a backend, and is installed.
        convert: Returns the content of the file of a model.
    """

    is_there: Callable[[str], bool]
    convert: Convert


CONVERTERS = {
    "tensorflow": Converter(tensorflow.is_there, tensorflow.convert),
    "keras": Converter(keras_export.is_there, keras_export.convert),
    "litert-torch": Converter(litert_torch.is_there, litert_torch.convert),
}
"""By name, the preferred ones first."""


def choose(name: ConverterName | None, backend: str) -> Convert:
    """Returns the function that converts.

    Args:
        name: The converter that the caller asks for; `None` takes the first one that
            is there.
        backend: The name of Keras' backend.

    Raises:
        ImportError: When it, or any, is not there for this backend.
        ValueError: When there is no converter of this name.
    """
    check_choice("converter", name, (None, *CONVERTERS))
    found = [key for key, each in CONVERTERS.items() if each.is_there(backend)]
    if name in found:
        return CONVERTERS[name].convert
    if name is not None:
        raise ImportError(
            f"Expected `converter` to be one that is installed and takes models of the "
            f"backend {backend}, {found}. Received: converter={name!r}"
        )
    if not found:
        other = ", or install `litert-torch`" if backend == "torch" else ""
        raise ImportError(
            "Expected TensorFlow to convert a model of the backend "
            f"{backend}. Received: an environment without it. Install it, or name an "
            f"interpreter that has it and Keras in {PYTHON}{other}."
        )
    return CONVERTERS[found[0]].convert
