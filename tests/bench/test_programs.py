"""The benchmarks themselves, at a size at which they prove nothing but that they work."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def bench(program: str, *arguments: str, exit_codes: tuple[int, ...] = (0,)) -> Any:
    """Run a benchmark; return the JSON that it printed."""
    command = [sys.executable, str(CHECKOUT / "bench" / f"{program}.py"), *arguments, "--json", "-"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode in exit_codes, done.stderr
    return json.loads(done.stdout)


def test_backup_and_limits(tmp_path: Path) -> None:
    figures = bench(
        "backup",
        "--size",
        "64M",
        "--rounds",
        "1",
        "--only",
        "vbrcore,limit,qemu-img nearest",
        "--workdir",
        str(tmp_path),
    )
    disk = figures["disk"]
    # Blocks that hold little more than a hole count in full.
    assert 0 < disk["unique_bytes"] < disk["allocated_bytes"] + (8 << 20) < disk["size_bytes"] == 64 << 20
    assert 0.018 < disk["changed_bytes"] / disk["size_bytes"] < 0.021
    assert disk["compressed_bytes"] > 0.1 * disk["plain_bytes"]
    assert not [skipped for skipped in figures["skipped"] if skipped["failed"]]
    samples = {(s["contestant"], s["phase"]): s for s in figures["samples"] if s["setting"] != "nearest"}
    full, unchanged, changed = (samples["vbrcore", phase] for phase in ("full", "unchanged", "changed"))
    compressed = samples["limit", "full"]["stored_bytes"]
    # Each block is stored once, in no more than what compression and alignment leave of it.
    assert compressed < full["stored_bytes"] < compressed * 1.1 + (1 << 20)
    assert unchanged["details"]["transferred_bytes"] < 1 << 20
    assert 0 < changed["stored_bytes"] - unchanged["stored_bytes"] < 8 * disk["changed_bytes"] + (1 << 20)
    assert full["details"]["read_bytes"] == unchanged["details"]["read_bytes"] >= disk["unique_bytes"]
    assert samples["vbrcore", "restore"]["usage"]["cpu_s"] > 0
    lines = {(line["contestant"], line["setting"], line["phase"]): line for line in figures["summary"]}
    assert lines["qemu-img", "nearest", "full"]["stored_bytes"] > 0
    assert lines["vbrcore", "default", "full"]["ratio"]["median"] == 1.0
    assert all(line["rounds"] == 1 for line in lines.values())


def test_the_disk_is_the_same_each_time(tmp_path: Path) -> None:
    from bench import corpus  # noqa: PLC0415 - its own test only

    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(200):
        (tree / f"file{number}.txt").write_bytes(bytes([number]) * 30000 + number.to_bytes(4) * 2000)
    first = corpus.build(tmp_path / "a" / "disk.raw", 32 << 20, [str(tree)])
    second = corpus.build(tmp_path / "b" / "disk.raw", 32 << 20, [str(tree)])
    assert first.plain_bytes == second.plain_bytes > 0
    assert corpus.extents(Path(first.path)) == corpus.extents(Path(second.path))
    change = corpus.Change(Path(first.path), 0.02)
    before = Path(first.path).read_bytes()
    change.apply()
    assert Path(first.path).read_bytes() != before
    change.revert()
    assert Path(first.path).read_bytes() == before


def test_memory_of_movers() -> None:
    figures = bench("memory", "--size", "32M", "--disks", "3")
    assert len(figures["source_peak_bytes"]) == figures["disks"] == 3
    assert figures["samples"] > 0
    assert 0 < max(figures["source_peak_bytes"]) <= figures["source_aim_bytes"]
    assert 0 < figures["target_peak_bytes"] <= figures["target_aim_bytes"]


def test_idle_sessions() -> None:
    figures = bench("idle_session", "--sessions", "2", "--size", "1M", exit_codes=(0, 1))
    assert figures["sessions"] == 2
    stages = figures["stages"]
    assert stages[0]["name"].startswith("(command")
    assert stages[-1]["name"].startswith("(end")
    assert sum(stage["wall_s"]["minimum"] for stage in stages) <= figures["wall_s"]["maximum"]


def test_a_generation(tmp_path: Path) -> None:
    size = ("--blocks", "6000", "--files", "3", "--points", "50", "--point-files", "5", "--times", "1")
    figures = bench("generation", *size, "--workdir", str(tmp_path), exit_codes=(0, 1))
    steps = figures["steps"]
    assert steps["mark"]["entries"] == 3 * 6000
    assert steps["mark"]["pages"] == 3 * (24 + 1)
    assert steps["mark"]["wrong_part"] < 0.02
    assert steps["lookup"]["known"] == steps["lookup"]["digests"] * 9 // 10
    assert steps["give_back"]["warnings"] == []
    assert steps["give_back"]["gone_rows"] > 0.9 * 3 * (2000 // 32)
    assert figures["list"]["points"] == steps["read_points"]["points"] == 50
    assert figures["met"]["memory"]


@pytest.mark.parametrize("file_system", ["xfs", "ext4"])
def test_a_synthetic_full(file_system: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    size = ("--blocks", "300", "--rounds", "1", "--file-system", file_system)
    found = bench("synthetic", *size, "--workdir", str(tmp_path), exit_codes=(0, 1))["file_systems"]
    (figures,) = found
    assert figures["restored"]
    assert figures["full_bytes"] > 300 * 16 * 1024
    if file_system == "xfs":
        assert figures["moved_bytes"] == 0
        assert 6 <= figures["clone_calls"] < 300
    else:
        assert figures["moved_bytes"] > 300 * 16 * 1024
        assert figures["clone_calls"] == 0
    assert figures["x_ours"]["cp"]["median"] > 0


def test_a_program_is_measured_with_what_it_leaves_behind(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from bench import process;"
        "process.prepare();"
        "burn = 'import time; end = time.process_time() + 0.3\\nwhile time.process_time() < end: pass';"
        "popen = 'subprocess.Popen([sys.executable, \"-c\", ' + repr(burn) + '], start_new_session=True)';"
        "code = f'import subprocess, sys; {popen}';"
        "done = process.measure([sys.executable, '-c', code], scratch=Path(sys.argv[2]));"
        "print(done.usage.cpu_s)"
    )
    command = [sys.executable, "-c", script, str(CHECKOUT), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert float(done.stdout) > 0.3


@pytest.mark.parametrize(
    "program", ["backup", "copying", "generation", "idle_session", "memory", "movers", "limits", "synthetic"]
)
def test_programs_explain_themselves(program: str) -> None:
    command = [sys.executable, str(CHECKOUT / "bench" / f"{program}.py"), "--help"]
    assert "usage" in subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_ssh_start() -> None:
    figures = bench("ssh_start", "--runs", "1")
    assert figures["sent_at_first"] is True
    assert figures["bundle_bytes"] > 1 << 20
    assert min(figures[name] for name in ("build_s", "first_s", "later_s", "ssh_python_pass_s")) > 0
