"""Builds keras_greedy and tflite_export; pyproject.toml says how.

The README's links to files of the repository lead nowhere on PyPI, and its picture is
not there. Built with the environment variable `REPOSITORY_URL`, as
https://github.com/OWNER/keras_greedy, they lead to the repository.
"""

import os
import re
from pathlib import Path

from setuptools import setup

# `[text](path)` and `![text](path)`, where the path is no address and no heading.
LINK = re.compile(r"(!?)(\[[^\]]*\])\((?!https?:|#)([^)]+)\)")


def readme() -> str:
    """Returns the README, its links as those of the repository if that is known."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    url = os.environ.get("REPOSITORY_URL", "").rstrip("/")
    if not url:
        return text

    def absolute(link: re.Match) -> str:
        mark, words, path = link.groups()
        view = "raw" if mark else "blob"
        return f"{mark}{words}({url}/{view}/main/{path})"

    return LINK.sub(absolute, text)


setup(long_description=readme(), long_description_content_type="text/markdown")
