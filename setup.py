"""Build script of keras_greedy and tflite_export."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read(name):
    """Return the text of a file next to this script, or '' if it is missing."""
    path = ROOT / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def version():
    """Return `__version__` as written in keras_greedy/__init__.py."""
    match = re.search(
        r"""^__version__\s*=\s*["']([^"']+)["']""",
        read("keras_greedy/__init__.py"),
        re.MULTILINE,
    )
    return match.group(1) if match else "0.1.0"


LITERT = ["ai-edge-litert>=1.3"]
TENSORFLOW = ["tensorflow>=2.20", *LITERT]
REPORT = ["matplotlib>=3.8.4"]
DIGITS = ["scikit-learn>=1.4.2"]

setup(
    name="keras_greedy",
    version=version(),
    description=(
        "Structured pruning of Keras 3 models by greedy forward selection, and "
        "their export to LiteRT (.tflite) with a parity check and a benchmark"
    ),
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(
        include=["keras_greedy", "keras_greedy.*", "tflite_export", "tflite_export.*"]
    ),
    py_modules=["keras_greedy_cli"],
    package_data={"keras_greedy": ["py.typed"], "tflite_export": ["py.typed"]},
    install_requires=["keras>=3.12", "numpy>=1.26", "scipy>=1.11"],
    extras_require={
        # Backends. One of them is needed; export to LiteRT needs TensorFlow.
        "tensorflow": TENSORFLOW,
        "jax": ["jax>=0.4.34"],
        "torch": ["torch>=2.4"],
        # LiteRT's own runtime, to run and time exported models without TensorFlow.
        # Where it has no wheel, tflite-runtime 2.14 with numpy<2 does as well.
        "edge": [*LITERT, "numpy>=1.26"],
        # What `keras-greedy demo` uses.
        "demo": [*TENSORFLOW, *REPORT, *DIGITS],
        "report": REPORT,
        "datasets": [*DIGITS, "tensorflow-datasets>=4.9.7"],
        # To go on with TF-MOT. It needs absl-py 1.x: see constraints-tfmot.txt.
        "tfmot": ["tensorflow-model-optimization==0.8.1", "tf_keras>=2.20"],
        "test": [
            *REPORT,
            *DIGITS,
            "hypothesis>=6.100",
            # These execute the notebook.
            "ipykernel>=6.29",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            # For what is written for them, and is used without them.
            "tensorboard>=2.20",
            "tf_keras>=2.20",
        ],
    },
    entry_points={"console_scripts": ["keras-greedy = keras_greedy_cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    keywords="keras pruning model-compression tflite litert",
)
