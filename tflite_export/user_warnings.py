"""Warnings that point at the user's own line, however deep the call is."""

import sys
import warnings

PACKAGES = ("tflite_export", "keras_greedy", "keras")
"""The packages whose frames are not the user's; Keras' `fit` calls our callbacks."""


def warn_user(warning: Warning | str) -> None:
    """Warns with the file and line of the user's code that led to the warning.

    A fixed `stacklevel` cannot do that: `to_bytes` is called by users, by `convert` and
    by `keras_greedy`, from different depths.

    Args:
        warning: The text of a `UserWarning`, or a warning of any class.
    """
    # Python's `skip_file_prefixes` would do this, from 3.12 on only. Level 1 is this
    # function, level 2 is its caller.
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals):
        frame = frame.f_back
        level += 1
    warnings.warn(warning, stacklevel=level)


def _is_ours(module_globals: dict) -> bool:
    module_name = module_globals.get("__name__", "")
    return module_name.split(".")[0] in PACKAGES
