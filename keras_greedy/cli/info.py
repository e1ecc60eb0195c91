"""`keras-greedy info`."""

import importlib.metadata
import importlib.util
import platform
import shutil

import keras

from keras_greedy.cli.results import Result, printed
from keras_greedy.report import aligned

PACKAGES = ("keras-greedy", "keras", "numpy", "scipy", "tensorflow", "jax", "torch")
RUNTIMES = ("ai-edge-litert", "tflite-runtime")
OPTIONAL = {
    "matplotlib": "plots",
    "pillow": "folders of pictures",
    "scikit-learn": "digits",
    "tensorflow-datasets": "tfds:NAME",
    "tf_keras": "legacy Keras",
    "tensorflow-model-optimization": "TF-MOT",
}
ABSENT = "-"


@printed
def info() -> Result:
    """Returns the versions, the backend, the devices and the runtimes found."""
    facts = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "backend": keras.backend.backend(),
        "devices": _devices(),
        "adb": shutil.which("adb"),
        "packages": {name: _version(name) for name in (*PACKAGES, *RUNTIMES)},
        "optional": {name: _version(name) for name in OPTIONAL},
    }
    rows = [
        ("Python", facts["python"]),
        ("machine", facts["machine"]),
        ("backend", facts["backend"]),
        ("devices", ", ".join(facts["devices"])),
        ("adb", facts["adb"] or ABSENT),
    ]
    for name, version in facts["packages"].items():
        rows.append((name, version or ABSENT))
    for name, version in facts["optional"].items():
        rows.append((f"{name} ({OPTIONAL[name]})", version or ABSENT))
    return Result(aligned(rows), facts)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    """Returns the names of all devices that the backend computes on."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return [device.name for device in tf.config.list_logical_devices()]
    if backend == "torch":
        import torch

        count = torch.cuda.device_count()
        return ["cpu", *[f"cuda:{index}" for index in range(count)]]
    return keras.distribution.list_devices()
