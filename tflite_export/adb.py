"""An Android phone behind adb: picks the device, sends commands, explains failures."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

DEVICE_FOLDER = "/data/local/tmp"
"""The folder of a phone that adb may write to and run programs from."""

# `benchmark_model` stops by itself after 150 seconds of each phase.
TIMEOUT_S = 600

READY = "device"
"""The state of a device that takes commands, as `adb devices` puts it."""

ERROR_LINES = 5
"""Last lines of a failed command's output to show."""

TRUST = "Unlock the phone and allow USB debugging for this computer."

REMEDIES = {"unauthorized": TRUST, "authorizing": TRUST}
"""State of a device -> advice."""

HINTS = {
    "No space left on device": f"The phone is out of space in {DEVICE_FOLDER}.",
    "not executable|Exec format": "The binary is for another processor, it seems.",
    "unauthorized": TRUST,
    "device .*not found|no devices|offline": "Was the phone disconnected?",
}
"""Pattern in a failed command's output -> a hint, added to the output itself."""


class AdbError(RuntimeError):
    """An error of adb, or of the phone behind it."""


class Phone:
    """One device, ready for commands.

    Args:
        adb: The adb command.
        serial: The serial number of the device; `None` for the only one.

    Raises:
        FileNotFoundError: When there is no such adb.
        AdbError: When the device is missing, ambiguous or not ready.
    """

    def __init__(self, adb: str | Path, serial: str | None):
        self._adb = str(adb)
        devices = _parse_devices(self._call("devices"))
        self._serial = _choose(devices, serial)

    def run(self, *arguments: str) -> str:
        """Runs an adb command on the device.

        Args:
            *arguments: The words of the command, `"shell"` or `"push"` first.

        Returns:
            Everything that the command printed.

        Raises:
            AdbError: When the command failed, or did not end.
        """
        return self._call("-s", self._serial, *arguments)

    def _call(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                [self._adb, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
            )
        except OSError as error:
            raise FileNotFoundError(
                "Expected `adb` to be the command of the Android SDK platform tools. "
                f"Received: adb={self._adb!r}: {error.strerror}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise AdbError(
                f"`adb {' '.join(arguments)}` did not end within {TIMEOUT_S} seconds. "
                "Is the phone still connected?"
            ) from error
        if done.returncode:
            raise AdbError(_explain(arguments, done.returncode, done.stdout))
        # Older phones end their lines with a carriage return.
        return done.stdout.replace("\r", "")


def last_lines(output: str) -> str:
    """Returns the end of a command's output, where the reason of a failure is."""
    lines = output.strip().splitlines()
    return "\n".join(lines[-ERROR_LINES:])


def _parse_devices(listing: str) -> dict[str, str]:
    """Returns the state of each device by its serial number, from `adb devices`."""
    # A daemon that starts now prints lines of its own before.
    _, _, table = listing.partition("List of devices attached")
    devices = {}
    for line in table.splitlines():
        cells = line.split(maxsplit=1)
        if len(cells) == 2:
            serial, state = cells
            devices[serial] = state.strip()
    return devices


def _choose(devices: Mapping[str, str], serial: str | None) -> str:
    """Returns the serial number of the device asked for, if it is ready."""
    if not devices:
        raise AdbError(
            "Expected a phone that adb sees. Received: none. Connect one, and turn on "
            "USB debugging in its developer options."
        )
    if serial is None and len(devices) > 1:
        raise AdbError(
            "Expected `serial` to name one of several devices. "
            f"Received: serial=None with {devices}"
        )
    chosen = next(iter(devices)) if serial is None else serial
    state = devices.get(chosen)
    if state is None:
        raise AdbError(
            f"Expected `serial` to be one of {list(devices)}. "
            f"Received: serial={chosen!r}"
        )
    if state != READY:
        remedy = REMEDIES.get(state, "Connect it again, or restart adb.")
        raise AdbError(
            f"Expected device {chosen} to be ready. Received: it is {state!r}. {remedy}"
        )
    return chosen


def _explain(arguments: tuple[str, ...], code: int, output: str) -> str:
    """Returns the text of an error for a failed command: hints, then its own words."""
    sentences = []
    for pattern, hint in HINTS.items():
        if re.search(pattern, output):
            sentences.append(hint)
    command = " ".join(arguments)
    sentences.append(
        f"`adb {command}` failed with exit code {code}: {last_lines(output)}"
    )
    return " ".join(sentences)
