"""What a release is made of."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
URL = "https://github.com/owner/keras_greedy"


def long_description(url):
    pytest.importorskip("setuptools")
    if not (ROOT / "setup.py").is_file():
        pytest.skip("only a clone has setup.py")
    ended = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "--long-description"],
        cwd=ROOT,
        env={**os.environ, "REPOSITORY_URL": url},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout


def test_the_links_of_a_release_lead_to_the_repository():
    found = long_description(URL)
    links = re.findall(r"\]\(([^)]+)\)", found)
    assert f"{URL}/raw/main/docs/tradeoff.png" in links
    assert f"{URL}/blob/main/docs/guides/prune.md" in links
    assert all(link.startswith(("https://", "#")) for link in links)


def test_without_an_address_the_readme_is_as_it_is():
    assert long_description("").strip() == (ROOT / "README.md").read_text().strip()
