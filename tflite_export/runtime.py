"""Runs `.tflite` files: all that a device needs besides NumPy and a runtime."""

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from tflite_export.checks import check_count, check_file
from tflite_export.data import Samples, cast, count_samples, take_samples
from tflite_export.data_forms import Data, Inputs

Interpreter: TypeAlias = Any
"""The `Interpreter` of whichever runtime is installed."""

Details: TypeAlias = dict[str, Any]
"""An interpreter's description of one tensor or operation."""

# The current runtime, and the older one that Raspberry Pi images ship.
RUNTIMES = ("ai_edge_litert", "tflite_runtime")

NOISE_SEED = 0


@functools.cache
def import_runtime() -> ModuleType:
    """Returns the module of the installed runtime that has `Interpreter`.

    Raises:
        ImportError: When none is installed that works; says what to install.
    """
    installed = [name for name in RUNTIMES if importlib.util.find_spec(name)]
    if not installed:
        raise ImportError(
            "Expected a runtime for .tflite files. Received none: `pip install "
            "ai-edge-litert`, or `pip install tflite-runtime 'numpy<2'`"
        )
    name = installed[0]
    # The old runtime imports with NumPy 2 as well, and then fails on the first file.
    numpy_major = int(np.__version__.split(".")[0])
    if name == "tflite_runtime" and numpy_major >= 2:
        raise ImportError(
            "Expected NumPy below 2, which tflite-runtime was built for. Received: "
            f"NumPy {np.__version__}: `pip install 'numpy<2'`"
        )
    return importlib.import_module(f"{name}.interpreter")


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of a `.tflite` file.

    A quantized port holds integers q for real numbers `scale * (q - zero_point)`.

    Attributes:
        name: Its name in the signature.
        index: The number of its tensor.
        shape: Its shape, the batch first.
        dtype: The dtype of the numbers in the file.
        scale: The real size of one integer step; 0 if the port is not quantized.
        zero_point: The integer that means 0.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    dtype: type
    scale: float
    zero_point: int

    @classmethod
    def of(cls, name: str, details: Details) -> "Port":
        """Builds a port from an interpreter's description of its tensor.

        Args:
            name: The name of the port.
            details: An item of `get_input_details()` or one of its siblings.

        Returns:
            The `Port`.
        """
        scale, zero_point = details["quantization"]
        return cls(
            name=name,
            index=int(details["index"]),
            shape=tuple(int(size) for size in details["shape"]),
            dtype=details["dtype"],
            scale=float(scale),
            zero_point=int(zero_point),
        )

    def quantized(self, values: np.ndarray) -> np.ndarray:
        """Returns `values`, in the model's own units, as the file takes them.

        Raises:
            ValueError: When they are out of the range of an input that is not
                quantized.
        """
        if not self.scale:
            return cast(values, self.dtype)
        # Clipped, since a number beyond the calibrated range would wrap around.
        limits = np.iinfo(self.dtype)
        steps = np.round(values / self.scale) + self.zero_point
        return np.clip(steps, limits.min, limits.max).astype(self.dtype)

    def dequantized(self, values: np.ndarray) -> np.ndarray:
        """Returns `values`, as the file gives them, in the model's own units."""
        if not self.scale:
            return values
        # To float32 first: the difference of two int8 numbers may not fit int8.
        steps = values.astype("float32") - self.zero_point
        return steps * np.float32(self.scale)


class TfliteFile:
    """A `.tflite` file, open and ready to run.

    Args:
        path: The file.
        threads: Number of threads that its kernels may use.
        **options: Further options of the runtime's `Interpreter`.

    Attributes:
        path: The file.
        interpreter: The runtime's interpreter, with its tensors allocated.
        inputs: One `Port` per input.
        outputs: One `Port` per output.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is not a `.tflite` model, or needs operations
            that the plain runtime does not have, or `threads` is no positive integer.
    """

    def __init__(self, path: str | Path, threads: int = 1, **options: Any):
        self.path = str(check_file(path, "an existing .tflite file"))
        threads = check_count("threads", threads, minimum=1)
        runtime = import_runtime()
        try:
            self.interpreter = runtime.Interpreter(
                model_path=self.path,
                num_threads=threads,
                **options,
            )
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                "Expected a .tflite model that the built-in operations can run. "
                f"Received: path={self.path!r}, which {runtime.__name__} refuses: "
                f"{error}"
            ) from error
        self.inputs, self.outputs = _ports(self.interpreter)

    @property
    def batch_size(self) -> int:
        """Returns the number of samples that the file takes at once."""
        return self.inputs[0].shape[0]

    @property
    def samples(self) -> Inputs:
        """Returns the inputs that samples have to fit."""
        return Inputs({port.name: port.shape[1:] for port in self.inputs})

    def run(self, samples: Mapping[str, np.ndarray]) -> Samples:
        """Computes the outputs for any number of samples, batch by batch.

        Args:
            samples: Input name -> array `(N, ...)`, in the model's own units.

        Returns:
            Output name -> array `(N, ...)`, in the model's own units.
        """
        count = count_samples(samples)
        rows: dict[str, list[np.ndarray]] = {port.name: [] for port in self.outputs}
        for start in range(0, count, self.batch_size):
            batch = slice(start, start + self.batch_size)
            self.feed({name: values[batch] for name, values in samples.items()})
            self.interpreter.invoke()
            for port in self.outputs:
                values = self.interpreter.get_tensor(port.index)
                rows[port.name].append(port.dequantized(values))
        # The last batch is full, the samples need not be.
        return {name: np.concatenate(parts)[:count] for name, parts in rows.items()}

    def feed(self, batch: Mapping[str, np.ndarray]) -> None:
        """Sets the inputs to a batch; fills a short one up with its last sample.

        Args:
            batch: Input name -> array `(n, ...)`, n from 1 to the file's batch size.
        """
        for port in self.inputs:
            values = port.quantized(batch[port.name])
            missing = port.shape[0] - len(values)
            # Any sample would do; a real one cannot bring in NaN, as zeros might.
            filling = np.repeat(values[-1:], missing, axis=0)
            filled = np.concatenate([values, filling])
            self.interpreter.set_tensor(port.index, filled)

    def feed_noise(self) -> None:
        """Sets the inputs to random numbers from 0 to 1; integer inputs to zero."""
        rng = np.random.default_rng(NOISE_SEED)
        for port in self.inputs:
            values: np.ndarray = np.zeros(port.shape, port.dtype)
            # Integers may be indices into a table: 0 is in any.
            if np.issubdtype(port.dtype, np.floating):
                values[...] = rng.random(port.shape)
            self.interpreter.set_tensor(port.index, values)


def _ports(interpreter: Interpreter) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Returns the inputs and the outputs, by their names in the first signature."""
    signatures = interpreter.get_signature_list()
    if signatures:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        inputs = runner.get_input_details()
        outputs = runner.get_output_details()
    else:
        # Files of other converters may have none: there the tensors' names count.
        inputs = {each["name"]: each for each in interpreter.get_input_details()}
        outputs = {each["name"]: each for each in interpreter.get_output_details()}
    return _as_ports(inputs), _as_ports(outputs)


def _as_ports(details_by_name: Mapping[str, Details]) -> tuple[Port, ...]:
    return tuple(Port.of(name, details) for name, details in details_by_name.items())


def run(
    path: str | Path,
    data: Data,
    max_samples: int | None = None,
    threads: int = 1,
) -> Samples:
    """Computes the outputs of a `.tflite` file, quantized or not.

    Args:
        path: The file.
        data: The samples, pre-processed as for the model: one array, a tuple
            `(x, y)`, or an iterable of batches `x` or `(x, y)`; for several inputs x
            is a dict by their names, or a list if they differ in shape.
        max_samples: Most samples to run, the first ones; `None` runs all.
        threads: Number of threads that the kernels may use.

    Returns:
        Output name -> an array of one row per sample. Integers of a quantized file
        are given in the model's own units, as float32.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it is not a `.tflite` file, `data` does not fit it, or a
            number is too small.

    Example:

    ```python
    import keras
    import numpy as np
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    path = tflite_export.convert(model, "model.tflite")
    outputs = tflite_export.run(path, np.ones((5, 8)))
    assert outputs["output_0"].shape == (5, 3)
    ```
    """
    if max_samples is not None:
        max_samples = check_count("max_samples", max_samples, minimum=1)
    file = TfliteFile(path, threads)
    samples = take_samples(data, max_samples, file.samples)
    return file.run(samples)
