"""Files on another processor: arm64, emulated by qemu-user.

It needs `qemu-aarch64-static` and a folder with an arm64 system that has Python 3.11,
named by ARM64_ROOT. On Debian 12, as root:

    apt install qemu-user-static debootstrap
    debootstrap --arch=arm64 --variant=minbase --include=python3 bookworm FOLDER

That files compute the same there is looked at; an emulator tells nothing of the time.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from exported import images
from test_tflite_device import MODES, ROOT, folder, model  # noqa: F401

import tflite_export

QEMU = "qemu-aarch64-static"
SYSTEM = os.environ.get("ARM64_ROOT")

# The runtime of ai-edge-litert 2.3 ends in qemu 7.2 before it has opened a file.
PACKAGES = ["tflite-runtime==2.14.0", "numpy==1.26.4"]
PLATFORMS = ["manylinux_2_34_aarch64", "manylinux2014_aarch64"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The packages for arm64, unpacked; skips where there is no emulator or no pip."""
    if shutil.which(QEMU) is None or SYSTEM is None:
        pytest.skip(f"{QEMU} and a system of its own, in ARM64_ROOT, are needed")
    wheels = tmp_path_factory.mktemp("wheels")
    platforms = [f"--platform={name}" for name in PLATFORMS]
    of_python = ["--only-binary=:all:", "--python-version=3.11", *platforms]
    fetch = [sys.executable, "-m", "pip", "download", "-q", "-d", wheels]
    done = subprocess.run(
        [*fetch, *of_python, *PACKAGES], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"pip cannot fetch {PACKAGES}: {done.stderr.strip()[-300:]}")
    site = tmp_path_factory.mktemp("site")
    for wheel in wheels.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(site)
    shutil.copytree(ROOT / "tflite_export", site / "tflite_export")
    return site


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_file_computes_the_same_on_arm64(mode, site, folder, tmp_path):  # noqa: F811
    file = folder / f"{mode}.tflite"

    def on_arm64(*arguments):
        python = Path(SYSTEM) / "usr" / "bin" / "python3.11"
        command = [QEMU, "-L", SYSTEM, python, "-m", "tflite_export", *arguments]
        environment = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"]}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    strict = [] if mode is None else ["--tolerance", "0.2", "--top1", "0.8"]
    done = on_arm64("verify", file, *strict)
    assert done.returncode == 0, done
    target = tmp_path / "y.npz"
    done = on_arm64("run", file, folder / "x.npy", "--output", target)
    assert done.returncode == 0, done
    with np.load(target) as found:
        (expected,) = tflite_export.run(file, images(4)).values()
        np.testing.assert_allclose(found["output_0"], expected, atol=0.03)
