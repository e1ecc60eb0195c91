"""Runs `.tflite` files: all that a device needs besides NumPy and a runtime."""

import dataclasses
import functools
import importlib
import importlib.util
from pathlib import Path

import numpy as np

from tflite_export.data import take_samples

# The current runtime, and the older one that Raspberry Pi images ship.
RUNTIMES = ("ai_edge_litert", "tflite_runtime")


@functools.cache
def import_runtime():
    """Returns the module of the runtime that has `Interpreter`.

    Raises:
        ImportError: if none is installed that works; says what to install.
    """
    name = next(filter(importlib.util.find_spec, RUNTIMES), None)
    if name is None:
        raise ImportError(
            "Expected a runtime for .tflite files. Received none: `pip install "
            "ai-edge-litert`, or `pip install tflite-runtime 'numpy<2'`"
        )
    # It imports with a newer one, and fails on the first file.
    if name == "tflite_runtime" and int(np.__version__.split(".")[0]) >= 2:
        raise ImportError(
            "Expected NumPy below 2, which tflite-runtime was built for. Received: "
            f"NumPy {np.__version__}: `pip install 'numpy<2'`"
        )
    return importlib.import_module(f"{name}.interpreter")


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of a `.tflite` file.

    Attributes:
        name: its name in the signature.
        index: its tensor.
        shape: its shape, the batch first.
        dtype: of what the file holds.
        scale: what a step of an integer is worth; 0 if it is not quantized.
        zero_point: the integer that means 0.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    dtype: type
    scale: float
    zero_point: int

    @classmethod
    def of(cls, name, details):
        """Reads it from what an interpreter says of the tensor."""
        scale, zero_point = details["quantization"]
        return cls(
            name=name,
            index=int(details["index"]),
            shape=tuple(map(int, details["shape"])),
            dtype=details["dtype"],
            scale=float(scale),
            zero_point=int(zero_point),
        )

    def quantized(self, values):
        """Returns `values`, in the model's own units, as the file takes them."""
        if not self.scale:
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        steps = np.round(values / self.scale) + self.zero_point
        return np.clip(steps, limits.min, limits.max).astype(self.dtype)

    def dequantized(self, values):
        """Returns what the file gave in the model's own units."""
        if not self.scale:
            return values
        return (values.astype("float32") - self.zero_point) * np.float32(self.scale)


class TfliteFile:
    """A `.tflite` file, open and ready to run.

    Attributes:
        path: the file.
        interpreter: the runtime's, with its tensors allocated.
        inputs: one `Port` per input.
        outputs: one `Port` per output.

    Args:
        path: the file.
        threads: how many threads its kernels may use.
        **options: more for the runtime's `Interpreter`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a `.tflite` model, or needs operations
            that the plain runtime does not have.
    """

    def __init__(self, path, threads=1, **options):
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"Expected an existing .tflite file. Received: path={str(path)!r}"
            )
        self.path = str(path)
        runtime = import_runtime()
        try:
            self.interpreter = runtime.Interpreter(
                model_path=self.path, num_threads=threads, **options
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
    def batch_size(self):
        """How many samples the file takes at once."""
        return self.inputs[0].shape[0]

    @property
    def sample_shapes(self):
        """The shape of one sample of each input, by its name."""
        return {port.name: port.shape[1:] for port in self.inputs}

    def run(self, samples):
        """Computes the outputs of any number of samples, in the model's own units.

        Args:
            samples: by the name of the input, arrays of `(n, ...)`.

        Returns:
            By the name of the output, arrays of `(n, ...)`.
        """
        count = len(next(iter(samples.values())))
        rows = {port.name: [] for port in self.outputs}
        for start in range(0, count, self.batch_size):
            batch = slice(start, start + self.batch_size)
            self.feed({name: values[batch] for name, values in samples.items()})
            self.interpreter.invoke()
            for port in self.outputs:
                found = self.interpreter.get_tensor(port.index)
                rows[port.name].append(port.dequantized(found))
        return {name: np.concatenate(parts)[:count] for name, parts in rows.items()}

    def feed(self, batch):
        """Sets the inputs to a batch; a short one is filled up with its last sample."""
        for port in self.inputs:
            values = port.quantized(batch[port.name])
            missing = port.shape[0] - len(values)
            filled = np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])
            self.interpreter.set_tensor(port.index, filled)

    def feed_noise(self):
        """Sets the inputs to random numbers from 0 to 1; integer inputs to zero."""
        rng = np.random.default_rng(0)
        for port in self.inputs:
            values = np.zeros(port.shape, port.dtype)
            if np.issubdtype(port.dtype, np.floating):
                values[...] = rng.random(port.shape)
            self.interpreter.set_tensor(port.index, values)


def _ports(interpreter):
    if not interpreter.get_signature_list():
        inputs = {each["name"]: each for each in interpreter.get_input_details()}
        outputs = {each["name"]: each for each in interpreter.get_output_details()}
    else:
        key = next(iter(interpreter.get_signature_list()))
        signature = interpreter.get_signature_runner(key)
        inputs = signature.get_input_details()
        outputs = signature.get_output_details()
    return tuple(
        tuple(Port.of(name, details) for name, details in ports.items())
        for ports in (inputs, outputs)
    )


def run(path, data, max_samples=None, threads=1):
    """Computes what a `.tflite` file gives, quantized or not.

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

    Args:
        path: the file.
        data: the samples, pre-processed as for the model: one array, a tuple
            `(x, y)`, or an iterable of batches `x` or `(x, y)`; for several inputs x
            is a dict by their names.
        max_samples: how many samples to run at most, the first ones; `None`: all.
        threads: how many threads the kernels may use.

    Returns:
        By the name of the output, an array of one row per sample. Integers of a
        quantized file are given in the model's own units, as float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a `.tflite` file, or `data` does not fit it.
    """
    file = TfliteFile(path, threads)
    return file.run(take_samples(data, max_samples, file.sample_shapes))
