"""The chain is written on another server: over a real sshd, with the movers of a bundle, and data over TLS."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.line.conftest import MIB, Line
from vbrcore.testing.sshd import Sshd


@pytest.fixture
def far(line: Line) -> Iterator[Sshd]:
    """This machine once more, as a server whose movers have a home and a cache of their own."""
    line("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={line.lab}")
    with Sshd(line.home / "sshd") as sshd:
        where = f"{sshd.user}@127.0.0.1:{sshd.port}"
        identity = ("--identity", sshd.directory / "identity", "--accept-host-key")
        line("server", "add", "far", "--ssh", where, *identity, "--role", "repository", "--slots", "2")
        line("repository", "add", "main", "--server", "far", "--path", line.repository, "--reserve", "1M")
        yield sshd


def test_a_chain_on_another_server_is_written_shown_and_read_there(
    line: Line, far: Sshd, make_disk: Callable[..., Path], sha256: Callable[[Path], str]
) -> None:
    disk = make_disk(line.lab / "web" / "web.raw", seed=1, data_mib=60, size_bytes=60 * MIB)
    line.add_job("nightly", "--compression", "high")
    started = line.start_job()
    seen: dict[str, dict[str, object]] = {}
    deadline = time.monotonic() + 100
    while line.session(started["session_id"])["state"] != "ended":
        assert time.monotonic() < deadline
        seen |= {f"{one['server']} {one['kind']} {one['role']}": one for one in line.json("ps")}
    assert line.session(started["session_id"])["result"] == "success"
    cache = far.home / ".cache" / "vbrcore"
    target = seen["far mover target"]
    assert str(target["log_path"]).startswith(str(cache / "log"))
    assert int(str(target["memory_bytes"])) > MIB
    assert "far transport transport" in seen
    assert "local mover source" in seen
    index = cache / "index"
    assert index.is_dir(), "the cache of digests lies where the target is"
    assert not (line.home / "cache" / "index").exists()
    lines = [json.loads(text) for text in line("session", "log", started["session_id"], "--json").splitlines()]
    assert "far" in {entry.get("server", "") for entry in lines}
    assert [entry["time"] for entry in lines] == sorted(entry["time"] for entry in lines)
    point = line.points()[0]["point_id"]
    line("verify", point, "--deep")
    assert sha256(line.restore(point, "web.raw")) == sha256(disk)
    assert len([path for path in cache.iterdir() if len(path.name) == 64]) == 1
    assert list((cache / "log").glob(f"{started['job_id']}_*")) == []  # the service's own mover there still lives


@pytest.mark.usefixtures("far")
def test_why_a_disk_from_another_server_cannot_be_restored_is_said_and_no_file_stays(
    line: Line, make_disk: Callable[..., Path]
) -> None:
    make_disk(line.lab / "web" / "web.raw", seed=1, data_mib=8)
    line.add_job("nightly")
    line.run_job()
    (backup,) = line.repository.rglob("*.vbf")
    with backup.open("r+b") as file:
        file.seek(backup.stat().st_size // 2)
        file.write(os.urandom(64 * 1024))
    point, output = line.points()[0]["point_id"], line.home / "out.raw"
    line.refused("data_corrupt", "restore", "disk", point, "web.raw", "--output", output, "--format", "raw")
    assert not output.exists()


def test_what_a_cut_off_mover_said_is_fetched_by_the_next_session(
    line: Line, far: Sshd, make_disk: Callable[..., Path]
) -> None:
    make_disk(line.lab / "web" / "web.raw", seed=1, data_mib=1)
    line.add_job("nightly")
    first = line.run_job()
    left = far.home / ".cache" / "vbrcore" / "log" / f"{first['job_id']}_{first['session_id']}_{os.getpid()}-1.jsonl"
    left.write_text('{"type":"Log","time":1.0,"level":"info","message":"the last line"}\n')
    second = line.run_job()
    (kept,) = (line.home / "log").glob(f"nightly_*/{first['session_id']}_*.far.cut-off.jsonl")
    assert "the last line" in kept.read_text()
    assert not left.exists()
    assert "its last lines are in" in line("session", "log", second["session_id"])
