"""Timing on a phone, with a stand-in for adb that replays what was really printed.

No phone was at hand. The stand-in keeps the phone's files in a folder, so that what is
pushed, run and removed can be looked at; its errors are the words of adb 29.
"""

import json
import sys
from pathlib import Path

import pytest

from tflite_export import __main__ as command_line
from tflite_export import adb, android
from tflite_export.android import AdbError, parse_operations, parse_timings

OUTPUTS = Path(__file__).parent / "benchmark_model"

STAND_IN = """#!{python}
import json, os, pathlib, shutil, sys
here = pathlib.Path(__file__).parent
world = json.loads((here / "world.json").read_text())
words = sys.argv[1:]
with open(here / "log", "a") as log:
    print(*words, file=log)
if words == ["devices"]:
    print("* daemon not running; starting now at tcp:5037")
    print("* daemon started successfully")
    print("List of devices attached")
    for serial, state in world["devices"].items():
        print(serial, state, sep="\\t")
    print()
    sys.exit()
assert words.pop(0) == "-s", "which device?"
serial = words.pop(0)
if world["unplugged_at"] and world["unplugged_at"] in " ".join(words):
    world["devices"] = dict()
    (here / "world.json").write_text(json.dumps(world))
if serial not in world["devices"]:
    sys.exit(f"error: device '{{serial}}' not found")
phone = here / "phone"
def on_phone(path):
    assert path.startswith("/data/local/tmp/"), path
    return phone / path[1:]
match words:
    case ["shell", "mkdir", "-p", folder]:
        on_phone(folder).mkdir(parents=True)
    case ["push", source, target]:
        if os.path.getsize(source) > world["space"]:
            print(f"adb: error: failed to copy '{{source}}' to '{{target}}': "
                  "remote couldn't create file: No space left on device")
            sys.exit(1)
        shutil.copy(source, on_phone(target))
        print(f"{{source}}: 1 file pushed. 25.3 MB/s")
    case ["shell", "chmod", "755", file]:
        on_phone(file).chmod(0o755)
    case ["shell", "rm", "-rf", folder]:
        shutil.rmtree(on_phone(folder))
    case ["shell", program, graph, *flags]:
        assert os.access(on_phone(program), os.X_OK)
        assert on_phone(graph.removeprefix("--graph=")).is_file()
        if world["broken"]:
            print(f"/system/bin/sh: {{program}}: not executable: 64-bit ELF file")
            sys.exit(126)
        # Of TensorFlow Lite's program, and of LiteRT's.
        switches = set(["--enable_op_profiling=true", "--use_profiler=true"])
        profiled = switches <= set(flags)
        name = world["profile"] if profiled else world["output"]
        sys.stdout.write((pathlib.Path({outputs!r}) / f"{{name}}.txt").read_text())
    case _:
        sys.exit(f"unknown command: {{words}}")
"""


class Phone:
    """The stand-in, and what it did."""

    def __init__(self, folder):
        self.folder = folder
        self.adb = folder / "adb"
        self.adb.write_text(
            STAND_IN.format(python=sys.executable, outputs=str(OUTPUTS))
        )
        self.adb.chmod(0o755)
        self.model, self.binary = folder / "m.tflite", folder / "benchmark_model"
        self.model.write_bytes(b"m" * 2_000_000)
        self.binary.write_bytes(b"b")
        self.change()

    def change(self, **facts):
        world = {
            "devices": {"R58M": "device"},
            "output": "newer_xnnpack",
            "profile": "2022_profile",
            "space": 1e9,
            "broken": False,
            "unplugged_at": None,
        }
        (self.folder / "world.json").write_text(json.dumps(world | facts))

    def benchmark(self, **options):
        return android.benchmark(self.model, self.binary, adb=self.adb, **options)

    @property
    def log(self):
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def left_behind(self):
        return list((self.folder / "phone/data/local/tmp").glob("*"))


@pytest.fixture
def phone(tmp_path):
    return Phone(tmp_path)


def test_what_the_phone_printed_becomes_a_latency(phone):
    latency = phone.benchmark(threads=4, runs=25)
    assert latency.path == str(phone.model)
    assert latency.size_bytes == 2_000_000
    assert (latency.runs, latency.threads, latency.warmup) == (25, 4, 5)
    assert latency.p50_ms == pytest.approx(141.253)
    assert latency.p90_ms is None
    assert latency.mean_ms == pytest.approx(145.528)
    assert latency.std_ms == pytest.approx(13.583)
    assert latency.init_ms == pytest.approx(92.318)
    assert latency.peak_memory_mb == pytest.approx(73.4102)
    assert latency.delegate == "XNNPACK"
    assert latency.operations == ()
    assert "p50 141.253 ms, p90 – ms" in str(latency)


def test_the_flags_are_those_of_benchmark_model(phone):
    phone.benchmark(threads=4, runs=7, warmup=2, use_gpu=True, use_xnnpack=False)
    (run,) = [line for line in phone.log if "--graph" in line]
    assert run.split()[5:] == [
        "--num_threads=4",
        "--num_runs=7",
        "--warmup_runs=2",
        "--use_gpu=true",
        "--use_nnapi=false",
        "--use_xnnpack=false",
    ]


def test_the_phone_is_left_as_it_was(phone):
    phone.benchmark(profile=True)
    assert phone.left_behind == []
    assert len([line for line in phone.log if " push " in line]) == 2


def test_the_delegate_is_the_one_the_phone_used(phone):
    phone.change(output="newer_gpu")
    assert phone.benchmark(use_gpu=True).delegate == "GPU"
    phone.change(output="2020")
    assert phone.benchmark(use_gpu=True).delegate == "none"


def test_profiling_is_a_run_of_its_own(phone):
    latency = phone.benchmark(profile=True)
    assert latency.mean_ms == pytest.approx(145.528)
    assert len(latency.operations) == 5
    first, *_, last = latency.operations
    assert (first.type, first.mean_ms) == ("CONV_2D", 60.957)
    assert first.name == "[MobilenetV1/MobilenetV1/Conv2d_0/Relu6]:0"
    assert (last.type, last.mean_ms) == ("SOFTMAX", 0.233)
    runs = [line for line in phone.log if "--graph" in line]
    assert ["--enable_op_profiling=true" in run for run in runs] == [False, True]
    assert json.loads(latency.to_json())["operations"][0]["type"] == "CONV_2D"


def test_outputs_of_older_versions_are_read():
    found = parse_timings((OUTPUTS / "2020.txt").read_text())
    assert found["p50_ms"] is None
    assert found["runs"] == 50
    assert found["mean_ms"] == pytest.approx(33.2094)
    assert found["peak_memory_mb"] == pytest.approx(12.8672)
    found = parse_timings((OUTPUTS / "2022_profile.txt").read_text())
    assert found["mean_ms"] == pytest.approx(2950.34)
    assert found["init_ms"] == pytest.approx(17.187)


def test_the_output_of_litert_s_own_program_is_read():
    text = (OUTPUTS / "litert.txt").read_text()
    found = parse_timings(text)
    assert (found["runs"], found["delegate"]) == (2112, "XNNPACK")
    assert found["p50_ms"] == pytest.approx(0.462)
    assert found["mean_ms"] == pytest.approx(0.464545)
    assert found["init_ms"] == pytest.approx(4.48)
    assert found["peak_memory_mb"] == pytest.approx(11.51)


def test_its_profile_has_what_each_run_does_and_not_what_happens_once():
    operations = parse_operations((OUTPUTS / "litert.txt").read_text())
    assert [operation.type for operation in operations] == [
        "LiteRT::Run[buffer registration]",
        "Static Reshape (NC)",
        "Fully Connected (NC, PF32) GEMM",
        "LiteRT::Run[Buffer sync]",
    ]
    assert operations[2].mean_ms == 0.382
    assert operations[2].name == "Delegate/Fully Connected (NC, PF32) GEMM:1"


def test_a_phone_with_litert_s_own_program_gives_a_latency(phone):
    phone.change(output="litert", profile="litert")
    latency = phone.benchmark(profile=True)
    assert latency.p50_ms == pytest.approx(0.462)
    assert [operation.mean_ms for operation in latency.operations][2] == 0.382


def test_a_single_run_is_its_own_mean():
    text = (OUTPUTS / "2020.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("count=50")]
    text = "\n".join(["count=1 curr=3512391", *lines[-4:]])
    found = parse_timings(text)
    assert (found["runs"], found["mean_ms"], found["std_ms"]) == (1, 3512.391, 0.0)


def test_profiles_of_versions_with_other_columns_are_read():
    text = (OUTPUTS / "2022_profile.txt").read_text()
    rows = [line.split("\t") for line in text.splitlines()]
    without_start = "\n".join("\t".join(r[:2] + r[3:] if r[3:] else r) for r in rows)
    assert parse_operations(without_start) == parse_operations(text)


def test_an_output_without_a_profile_is_an_error():
    with pytest.raises(AdbError, match=r"to print a profile. Received: none"):
        parse_operations((OUTPUTS / "2020.txt").read_text())


@pytest.mark.parametrize(
    ("devices", "serial", "message"),
    [
        ({}, None, r"a phone that adb sees.*none.*USB debugging"),
        ({"A": "device", "B": "device"}, None, r"`serial` to name one.*'A'.*'B'"),
        ({"A": "unauthorized"}, None, r"'unauthorized'.*allow USB debugging"),
        ({"A": "offline"}, None, r"A to be ready.*'offline'.*restart adb"),
        ({"A": "device"}, "C", r"one of \['A'\]. Received: serial='C'"),
        (
            {"A": "no permissions (missing udev rules?)"},
            None,
            r"'no permissions \(missing udev rules\?\)'",
        ),
    ],
)
def test_a_device_that_is_not_ready_is_named(phone, devices, serial, message):
    phone.change(devices=devices)
    with pytest.raises(AdbError, match=message):
        phone.benchmark(serial=serial)
    assert phone.log == ["devices"]


def test_one_of_two_devices_is_chosen_by_serial(phone):
    phone.change(devices={"A": "device", "B": "device"})
    phone.benchmark(serial="B")
    assert all(line.startswith("-s B ") for line in phone.log[1:])


def test_a_phone_out_of_space_is_named_and_left_as_it_was(phone):
    phone.change(space=1000)
    with pytest.raises(AdbError, match=r"out of space in /data/local/tmp.*No space"):
        phone.benchmark()
    assert phone.left_behind == []


def test_a_binary_for_another_processor_is_named(phone):
    phone.change(broken=True)
    with pytest.raises(AdbError, match=r"another processor.*exit code 126"):
        phone.benchmark()
    assert phone.left_behind == []


@pytest.mark.parametrize("step", ["push", "chmod", "--graph"])
def test_a_phone_that_goes_away_is_named_though_cleaning_up_fails(phone, step):
    phone.change(unplugged_at=step)
    with pytest.raises(AdbError, match=r"disconnected\?.*device 'R58M' not found"):
        phone.benchmark()


def test_an_interrupted_run_leaves_nothing_on_the_phone(phone, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(android, "parse_timings", interrupted)
    with pytest.raises(KeyboardInterrupt):
        phone.benchmark()
    assert phone.left_behind == []


def test_a_run_that_prints_no_timings_is_an_error_with_its_last_words():
    with pytest.raises(AdbError, match=r"(?s)print its timings.*Failed to"):
        parse_timings("STARTING!\nERROR: Failed to apply GPU delegate.\n")


def test_an_adb_that_is_not_there_is_named(phone):
    with pytest.raises(FileNotFoundError, match=r"`adb`.*adb='/nowhere/adb'"):
        android.benchmark(phone.model, phone.binary, adb="/nowhere/adb")


def test_an_adb_that_hangs_is_an_error(phone, monkeypatch):
    phone.adb.write_text("#!/bin/sh\nsleep 20\n")
    monkeypatch.setattr(adb, "TIMEOUT_S", 0.2)
    with pytest.raises(AdbError, match=r"did not end within 0\.2 seconds"):
        phone.benchmark()


@pytest.mark.parametrize("name", ["model", "binary"])
def test_a_missing_file_is_named_before_adb_is_asked(phone, name):
    getattr(phone, name).unlink()
    with pytest.raises(FileNotFoundError, match=r"`(path|binary)` to be an existing"):
        phone.benchmark()
    assert phone.log == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "runs=0"),
        ({"threads": 0}, "threads=0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"use_gpu": True, "use_nnapi": True}, "one accelerator"),
    ],
)
def test_bad_arguments_are_refused_before_adb_is_asked(phone, options, message):
    with pytest.raises(ValueError, match=message):
        phone.benchmark(**options)
    assert phone.log == []


def test_the_command_line_prints_latency_and_operations(phone, capsys):
    files = [str(phone.model), "--binary", str(phone.binary), "--adb", str(phone.adb)]
    assert command_line.main(["android", *files, "--profile"]) == 0
    printed = capsys.readouterr().out
    assert "141.253" in printed
    assert "60.957 ms  CONV_2D  [MobilenetV1/MobilenetV1/Conv2d_0/Relu6]:0" in printed
    assert command_line.main(["android", *files, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["delegate"] == "XNNPACK"
    phone.change(output="2020")
    assert command_line.main(["android", *files, "--markdown"]) == 0
    assert "| – | – | 33.209 | 0.450 | – |" in capsys.readouterr().out


def test_the_command_line_says_what_is_wrong_in_one_line(phone, capsys):
    phone.change(devices={})
    files = [str(phone.model), "--binary", str(phone.binary), "--adb", str(phone.adb)]
    assert command_line.main(["android", *files]) == 2
    assert capsys.readouterr().err.startswith("tflite_export: Expected a phone")
