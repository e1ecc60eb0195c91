"""Export of Keras 3 models to `.tflite` files, with checks and timings of the files.

Importing this package needs NumPy only. Running files needs a runtime,
`ai-edge-litert` or the older `tflite-runtime`; Keras and TensorFlow are imported by
`convert`, when it is called.
"""

from tflite_export import android
from tflite_export.accuracy import accuracy
from tflite_export.benchmark import benchmark, compare
from tflite_export.convert import convert, to_bytes
from tflite_export.inspect_file import inspect
from tflite_export.inspection import InspectedOperation, Inspection
from tflite_export.latency import Comparison, Latency, Operation
from tflite_export.layers import LayerError, compare_layers, first_divergence
from tflite_export.metadata import add_metadata
from tflite_export.quantizer import quantize
from tflite_export.runtime import run
from tflite_export.samples import load_samples, save_samples
from tflite_export.verify import Parity, verify

__all__ = [
    "Comparison",
    "InspectedOperation",
    "Inspection",
    "Latency",
    "LayerError",
    "Operation",
    "Parity",
    "accuracy",
    "add_metadata",
    "android",
    "benchmark",
    "compare",
    "compare_layers",
    "convert",
    "first_divergence",
    "inspect",
    "load_samples",
    "quantize",
    "run",
    "save_samples",
    "to_bytes",
    "verify",
]
