"""Puts the pages that stand outside docs/ on the site, and their links right.

On the site, docs/ and the folder above it are one: README.md is its first page, and
benchmarks/RESULTS.md stands beside the guides.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "benchmarks/*.md",
    "benchmarks/*.png",
    "colab/*.ipynb",
]
# A target, of a Markdown link or image, that is a path: no scheme, no anchor alone.
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of `OUTSIDE`."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = _on_site(path.relative_to(ROOT).as_posix())
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files):
    """Returns the page with its links as they are on the site."""
    source = Path(page.file.abs_src_path).relative_to(ROOT).parent
    here = os.path.dirname(page.file.src_uri)

    def moved(link: re.Match) -> str:
        target = os.path.normpath(source / link[2]).replace(os.sep, "/")
        return link[1] + os.path.relpath(_on_site(target), here).replace(os.sep, "/")

    return LINK.sub(moved, markdown)


def _on_site(path: str) -> str:
    """Returns where the site has a file of the repository."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")
