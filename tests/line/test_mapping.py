"""Chain mapping: a job goes on with a chain that is there, also after its backup server has burnt down."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Vbr, stop_processes_of
from tests.line.conftest import Line

MIB = 1024 * 1024


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def second(line: Any) -> Iterator[Line]:
    """Another backup server that sees the same machines and the same repository."""
    home = Path(tempfile.mkdtemp(prefix="vbr-", dir="/tmp"))
    other = object.__new__(Line)
    other.vbr, other.home, other.lab, other.repository, other.out = Vbr(home), home, line.lab, line.repository, line.out
    try:
        yield other
        left = stop_processes_of(home)
    finally:
        stop_processes_of(home)
        shutil.rmtree(home, ignore_errors=True)
    assert left == {}


def test_a_new_server_goes_on_where_the_burnt_one_ended(line: Any, second: Line, make_disk: Any) -> None:
    web = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=8, size_bytes=16 * MIB)
    make_disk(line.lab / "db" / "disk.raw", seed=2, data_mib=2, size_bytes=4 * MIB)
    line.set_up()
    line.run_job()
    before = line.out / "before.raw"
    shutil.copy(web, before)
    old = {point["machine"]: point["point_id"] for point in line.points()}
    stop_processes_of(line.home)
    shutil.rmtree(line.home)
    line.home.mkdir()
    with web.open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"changed since")
    second("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={second.lab}")
    (chain,) = second.json("repository", "import", second.repository, "--name", "main", "--reserve", "1M")["chains"]
    second.add_job("again", "--map-chain", chain["directory"])
    assert second.json("job", "show", "again")["directory"] == chain["directory"]
    assert {point["point_id"] for point in second.points("again")} == set(old.values())
    done = second.run_job("again")
    assert done["result"] == "success"
    assert done["transferred_bytes"] < 3 * MIB, "compared with the last point, not sent anew"
    points = second.points("again")
    assert [(point["machine"], point["kind"]) for point in points if point["point_id"] not in old.values()] in (
        [("web", "increment"), ("db", "increment")],
        [("db", "increment"), ("web", "increment")],
    )
    assert len([path for path in second.repository.iterdir() if path.is_dir()]) == 1
    newest = next(one for one in reversed(points) if one["machine"] == "web")["point_id"]
    assert sha256(second.restore(old["web"], "disk.raw")) == sha256(before)
    assert sha256(second.restore(newest, "disk.raw")) == sha256(web)
    second("health", "check", "again", "--deep")


def test_a_new_server_goes_on_with_a_chain_of_each_machine(line: Any, second: Line, make_disk: Any) -> None:
    for seed, machine in enumerate(("db", "web"), 1):
        make_disk(line.lab / machine / "disk.raw", seed=seed, data_mib=2, size_bytes=4 * MIB)
    line.set_up("nightly", "--per-machine")
    line.run_job()
    old = {point["point_id"] for point in line.points()}
    stop_processes_of(line.home)
    shutil.rmtree(line.home)
    line.home.mkdir()
    second("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={second.lab}")
    chains = second.json("repository", "import", second.repository, "--name", "main", "--reserve", "1M")["chains"]
    parents = {str(Path(chain["directory"]).parent) for chain in chains}
    assert len(chains) == 2
    (parent,) = parents
    second.add_job("whole")
    for directory in (parent, chains[0]["directory"]):
        second.refused(
            "not_found" if directory == parent else "invalid_value", "job", "map", "whole", "--directory", directory
        )
    second.add_job("again", "--per-machine")
    assert second.json("job", "map", "again", "--directory", parent)["directory"] == parent
    assert {point["point_id"] for point in second.points("again")} == old
    done = second.run_job("again")
    assert done["result"] == "success"
    new = [point for point in second.points("again") if point["point_id"] not in old]
    assert {(point["machine"], point["kind"]) for point in new} == {("db", "increment"), ("web", "increment")}
    found = {path.parent.relative_to(second.repository).as_posix() for path in second.repository.rglob("*.vbf")}
    assert found == {chain["directory"] for chain in chains}
    for point in new:
        restored = second.restore(point["point_id"], "disk.raw")
        assert sha256(restored) == sha256(second.lab / point["machine"] / "disk.raw")


def test_a_chain_that_does_not_fit_is_refused_and_nothing_changes(line: Any, make_disk: Any) -> None:
    make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=2, size_bytes=4 * MIB)
    line.set_up()
    line.run_job()
    (directory,) = [path.name for path in line.repository.iterdir() if path.is_dir()]
    line.add_job("second")
    line.add_job("small", "--block-size", "256K")
    for job in ("second", "small"):
        assert "nightly" in line.refused("in_use", "job", "map", job, "--directory", directory)["message"]
    create = ("job", "create", "third", "--hypervisor", "lab", "--machine", "*", "--repository", "main")
    line.refused("in_use", *create, "--map-chain", directory)
    line("job", "delete", "nightly")
    assert "1048576" in line.refused("invalid_value", "job", "map", "small", "--directory", directory)["message"]
    line.refused("invalid_value", *create, "--block-size", "4M", "--map-chain", directory)
    for bad in ("..", "/", "../elsewhere", "/etc", "."):
        line.refused("invalid_value", "job", "map", "second", "--directory", bad)
    line.refused("not_found", "job", "map", "second", "--directory", "absent")
    line.refused("not_found", "job", "map", "nobody", "--directory", directory)
    line.refused("usage", "job", "map", "second")
    assert {job["name"]: job["directory"] for job in line.json("job", "list")} == {"second": "", "small": ""}
    assert line.points("second") == []
    path = line.repository / directory
    assert line.json("job", "map", "second", "--directory", str(path))["directory"] == directory
    assert [point["kind"] for point in line.points("second")] == ["full"]
    assert line.run_job("second")["result"] == "success"
    assert [point["kind"] for point in line.points("second")] == ["full", "increment"]
    line.refused("in_use", "job", "map", "small", "--directory", directory)
