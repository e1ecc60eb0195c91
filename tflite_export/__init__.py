"""Ship a Keras 3 model as a `.tflite` file, check it, and time it.

Importing this package needs NumPy and `ai-edge-litert` only: Keras and
TensorFlow are imported by `convert`, when it is called.
"""

from tflite_export.benchmark import benchmark, compare
from tflite_export.convert import convert
from tflite_export.latency import Comparison, Latency
from tflite_export.verify import Parity, verify

__all__ = [
    "Comparison",
    "Latency",
    "Parity",
    "benchmark",
    "compare",
    "convert",
    "verify",
]
