"""Models as the command line is given them: files."""

import zipfile
from pathlib import Path

import keras

from tflite_export.checks import check_file
from tflite_export.files import replacing

ERROR_CHARACTERS = 300
"""Of Keras' message for a file that cannot be read: more is a trace."""


def load_model(path: str, compile: bool = False) -> keras.Model:
    """Reads a Keras model in safe mode: no code in the file is run.

    Args:
        path: The file.
        compile: Whether to compile it as it was.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it is no Keras model that can be read.
    """
    check_file(path, "an existing .keras file", name="model")
    try:
        return keras.saving.load_model(path, compile=compile, safe_mode=True)
    # Keras raises a TypeError for a class that it does not know, and what the readers
    # of archives raise for a file that is damaged.
    except (KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        message = " ".join(str(error).split())[:ERROR_CHARACTERS]
        raise ValueError(
            f"Expected `model` to be a Keras model. Received: {path!r}: {message}"
        ) from None


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a model as a whole or not at all.

    Args:
        model: The model.
        path: The `.keras` file.
    """
    with replacing(path) as temporary:
        model.save(temporary)
