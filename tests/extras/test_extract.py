"""The program that gets disks out without vbrcore agrees with vbrcore, and copes with what is left of a chain."""

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.line.conftest import Line, disk_bytes, shared_line  # noqa: F401 - a fixture

CHECKOUT = Path(__file__).resolve().parents[2]
EXTRACTOR = CHECKOUT / "extras" / "vbf_extract.py"
MIB = 1024 * 1024


def extractor(
    *arguments: str | Path, exit_code: int = 0, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the program; whatever it finds, it says in lines of its own."""
    command = [sys.executable, str(EXTRACTOR), *map(str, arguments)]
    done = subprocess.run(
        command, check=False, capture_output=True, timeout=60, env={**os.environ, **(environment or {})}
    )
    assert done.returncode == exit_code, done
    assert all(line.startswith(b"vbf_extract: ") for line in done.stderr.splitlines()), done.stderr.decode()
    assert bool(done.stderr) >= bool(exit_code)
    return done


def listed(*paths: Path, exit_code: int = 0) -> dict[str, dict[str, Any]]:
    points = json.loads(extractor("list", *paths, "--json", exit_code=exit_code).stdout)
    return {point["point_id"]: point for point in points}


@dataclass
class Chain:
    """Two points of each of two machines: what their disks held, and what `point list` says of them."""

    directory: Path
    line: Line
    points: list[dict[str, Any]]
    contents: dict[tuple[str, str], bytes]

    def point(self, machine: str, number: int) -> str:
        found: str = [point["point_id"] for point in self.points if point["machine"] == machine][number]
        return found


@pytest.fixture(scope="module")
def original(shared_line: Line) -> Chain:  # noqa: F811
    line = shared_line
    disks = {"web": {"system.raw": 16 * MIB, "data.img": 5 * MIB + 513}, "db": {"empty.raw": 3 * MIB, "log.raw": MIB}}
    for machine, sizes in disks.items():
        (line.lab / machine).mkdir()
        for seed, (name, size_bytes) in enumerate(sizes.items()):
            with (line.lab / machine / name).open("wb") as file:
                file.write(b"" if name == "empty.raw" else disk_bytes(seed, min(size_bytes, 3 * MIB)))
                file.truncate(size_bytes)
    line.set_up()
    contents: dict[tuple[str, str], bytes] = {}
    for offset in (2 * MIB + 100, 4 * MIB + 7):
        before = {point["point_id"] for point in line.points()} if contents else set()
        line.run_job()
        for point in line.points():
            if point["point_id"] not in before:
                for disk in point["disks"]:
                    path = line.lab / point["machine"] / disk["name"]
                    contents[point["point_id"], disk["name"]] = path.read_bytes()
        with (line.lab / "web" / "system.raw").open("r+b") as file:
            file.seek(offset)
            file.write(os.urandom(70_000))
    directory = next(line.repository.rglob("*.full.vbf")).parent
    return Chain(directory, line, line.points(), contents)


@pytest.fixture
def chain(original: Chain, tmp_path: Path) -> Chain:
    """Give a copy of the chain that may be damaged."""
    directory = tmp_path / "chain"
    shutil.copytree(original.directory, directory)
    return Chain(directory, original.line, original.points, original.contents)


def the(chain: Chain, kind: str) -> Path:
    return next(chain.directory.glob(f"*.{kind}.vbf"))


def extract(chain: Chain, point: str, disk: str, output: Path, *, exit_code: int = 0) -> str:
    options = ("--point", point, "--disk", disk, "--output", output)
    done = extractor("extract", chain.directory, *options, exit_code=exit_code)
    assert output.exists() == (exit_code == 0)
    return done.stderr.decode()


def block_extents(path: Path) -> list[tuple[int, int]]:
    """Return offset and stored length of each block's extent, as salvage finds them (section 3)."""
    data = path.read_bytes()
    starts = [start for start in range(128 * 1024, len(data), 4096) if data[start : start + 4] == b"VBRX"]
    return [(start, int.from_bytes(data[start + 4 : start + 8], "little")) for start in starts if not data[start + 52]]


def test_all_disks_of_all_points_are_those_that_vbrcore_restores(original: Chain, tmp_path: Path) -> None:
    assert len(original.contents) == 8
    for number, ((point, disk), content) in enumerate(original.contents.items()):
        output = tmp_path / f"{number}.raw"
        assert extract(original, point, disk, output) == ""
        assert output.read_bytes() == content
        assert original.line.restore(point, disk).read_bytes() == content
        assert output.stat().st_blocks * 512 < 4 * MIB  # sparse, as the disk was
        assert output.stat().st_mode & 0o077 == 0
        output.unlink()


def test_the_list_agrees_with_that_of_vbrcore(original: Chain) -> None:
    found = listed(original.directory)
    assert set(found) == {point["point_id"] for point in original.points}
    for point in original.points:
        mine = found[point["point_id"]]
        assert {name: mine[name] for name in ("job", "machine", "kind", "created")} == {
            name: point[name] for name in ("job", "machine", "kind", "created")
        }
        disks = [{"name": disk["name"], "size_bytes": disk["size_bytes"]} for disk in mine["disks"]]
        assert disks == point["disks"]
        assert (mine["whole"], mine["encrypted"]) == (True, False)
    text = extractor("list", *original.directory.glob("*.vbf")).stdout.decode()
    assert all(f"point {point_id}" in text for point_id in found)
    assert "system.raw  16777216 bytes" in text


def test_verify_reads_all(original: Chain) -> None:
    lines = extractor("verify", original.directory).stdout.decode().splitlines()
    assert len(lines) == len(original.contents) + len(original.points)
    assert all(line.endswith(": verified") for line in lines)
    point = original.point("db", 1)
    lines = extractor("verify", original.directory, "--point", point[:8]).stdout.decode().splitlines()
    assert len(lines) == 3


def test_a_disk_streams_to_standard_output_by_its_number(original: Chain) -> None:
    point = original.point("web", 1)
    number = [disk["name"] for disk in listed(original.directory)[point]["disks"]].index("system.raw")
    options = ("--point", point, "--disk", str(number), "--output", "-")
    assert extractor("extract", original.directory, *options).stdout == original.contents[point, "system.raw"]


def test_a_damaged_block_is_named_and_costs_only_what_reaches_it(chain: Chain, tmp_path: Path) -> None:
    path = the(chain, "inc")
    offset, length = max(block_extents(path), key=lambda extent: extent[1])
    with path.open("r+b") as file:
        file.seek(offset + 64 + length // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x55]))
    first, second = chain.point("web", 0), chain.point("web", 1)
    said = extract(chain, second, "system.raw", tmp_path / "damaged.raw", exit_code=1)
    assert len(said.splitlines()) == 1
    assert f"{path}: offset {offset}: " in said
    assert second in said
    assert "system.raw" in said
    done = extractor("verify", chain.directory, exit_code=1)
    assert [line for line in done.stdout.decode().splitlines() if "DAMAGED" in line] == [
        next(line for line in done.stdout.decode().splitlines() if second in line and "system.raw" in line)
    ]
    for point, disk in ((first, "system.raw"), (second, "data.img")):
        output = tmp_path / f"{point}-{disk}"
        assert extract(chain, point, disk, output) == ""
        assert output.read_bytes() == chain.contents[point, disk]


def test_a_truncated_file_costs_what_stood_in_it(chain: Chain, tmp_path: Path) -> None:
    path = the(chain, "inc")
    os.truncate(path, path.stat().st_size // 2)
    found = listed(chain.directory, exit_code=1)
    assert set(found) == {chain.point("web", 0), chain.point("db", 0)}
    assert all(point["whole"] for point in found.values())
    said = extract(chain, chain.point("web", 0), "system.raw", tmp_path / "disk.raw")
    assert str(path) in said
    missing = extract(chain, chain.point("web", 1), "system.raw", tmp_path / "no.raw", exit_code=1)
    assert chain.point("web", 1) in missing


def test_without_the_first_file_it_is_said_which_points_are_not_whole(chain: Chain, tmp_path: Path) -> None:
    the(chain, "full").unlink()
    done = extractor("list", chain.directory, "--json", exit_code=1)
    found = {point["point_id"]: point for point in json.loads(done.stdout)}
    assert "its file with the id" in done.stderr.decode()
    assert {point_id: point["whole"] for point_id, point in found.items()} == {
        chain.point("web", 1): False,
        chain.point("db", 1): False,
    }
    extract(chain, chain.point("web", 1), "system.raw", tmp_path / "disk.raw", exit_code=1)
    empty = extract(chain, chain.point("db", 1), "empty.raw", tmp_path / "empty.raw")  # needs no block
    assert "missing" in empty
    assert (tmp_path / "empty.raw").read_bytes() == bytes(3 * MIB)


def test_what_is_no_backup_file_is_named_and_passed_over(chain: Chain, tmp_path: Path) -> None:
    alien = chain.directory / "alien.vbf"
    alien.write_bytes(os.urandom(300_000))
    (chain.directory / "empty.vbf").write_bytes(b"")
    (chain.directory / "directory.vbf").mkdir()
    os.mkfifo(chain.directory / "pipe.vbf")
    done = extractor("list", chain.directory, exit_code=1)
    for name in ("alien.vbf", "empty.vbf", "directory.vbf", "pipe.vbf"):
        assert [line for line in done.stderr.decode().splitlines() if name in line]
    extract(chain, chain.point("web", 1), "system.raw", tmp_path / "disk.raw")
    assert str(alien) in extractor("list", alien, exit_code=1).stderr.decode()
    extractor("list", tmp_path / "nowhere", exit_code=1)


@pytest.mark.parametrize("place", [0, 64 * 1024])
def test_one_slot_of_a_file_is_enough(chain: Chain, tmp_path: Path, place: int) -> None:
    path = the(chain, "full")
    with path.open("r+b") as file:
        file.seek(place + 100)
        file.write(os.urandom(8))
    done = extractor("list", chain.directory, "--json", exit_code=1)
    assert f"{path}: offset {place}: " in done.stderr.decode()
    assert {point["point_id"] for point in json.loads(done.stdout)} == {point["point_id"] for point in chain.points}
    extract(chain, chain.point("web", 1), "system.raw", tmp_path / "disk.raw")
    assert (tmp_path / "disk.raw").read_bytes() == chain.contents[chain.point("web", 1), "system.raw"]
    with path.open("r+b") as file:
        file.seek(64 * 1024 - place + 100)
        file.write(os.urandom(8))
    assert "no valid slot" in extractor("list", path, exit_code=1).stderr.decode()


def test_wrong_usage_ends_with_one_line_and_code_2(original: Chain, tmp_path: Path) -> None:
    there = tmp_path / "there.raw"
    there.write_bytes(b"precious")
    point = original.point("web", 0)
    for arguments in (
        (),
        ("list",),
        ("extract", original.directory, "--point", point),
        ("extract", original.directory, "--point", point, "--disk", "system.raw", "--output", there),
        ("extract", original.directory, "--point", point, "--disk", "0", "--output", tmp_path / "no" / "disk.raw"),
        ("extract", original.directory, "--point", "", "--disk", "system.raw", "--output", tmp_path / "new.raw"),
        ("list", original.directory, "--passphrase-file", tmp_path / "none"),
        ("list", original.directory, "--passphrase-file", there),  # nothing is encrypted
    ):
        assert len(extractor(*arguments, exit_code=2).stderr.splitlines()) == 1
    for point_id, disk in ((point, "no such disk"), ("no such point", "system.raw")):
        options = ("--point", point_id, "--disk", disk, "--output", tmp_path / "new.raw")
        assert b"no such" in extractor("extract", original.directory, *options, exit_code=1).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.raw"]
    assert there.read_bytes() == b"precious"


def absent(directory: Path, *packages: str) -> dict[str, str]:
    """Make packages look as if they were not installed."""
    for package in packages:
        (directory / f"{package}.py").write_text("raise ImportError\n")
    return {"PYTHONPATH": str(directory)}


def test_what_cannot_be_verified_is_said(original: Chain, tmp_path: Path) -> None:
    environment = absent(tmp_path, "blake3", "xxhash")
    point, output = original.point("web", 1), tmp_path / "disk.raw"
    options = ("--point", point, "--disk", "system.raw", "--output", output)
    done = extractor("extract", original.directory, *options, environment=environment)
    assert b"xxhash is not installed" in done.stderr
    assert b"NOT VERIFIED" in done.stderr
    assert b"NOT VERIFIED" in done.stdout
    assert output.read_bytes() == original.contents[point, "system.raw"]
    done = extractor("verify", original.directory, exit_code=2, environment=environment)
    assert all(b"NOT VERIFIED" in line for line in done.stdout.splitlines())
    extractor("list", original.directory, environment=environment)


def test_a_package_that_is_needed_is_named(original: Chain, tmp_path: Path) -> None:
    environment = absent(tmp_path, "zstandard")
    options = ("--point", original.point("web", 1), "--disk", "system.raw", "--output", tmp_path / "disk.raw")
    done = extractor("extract", original.directory, *options, exit_code=2, environment=environment)
    assert done.stderr == b"vbf_extract: a Python package is needed: pip install 'zstandard'\n"
    assert not (tmp_path / "disk.raw").exists()


def test_it_shares_no_code_with_vbrcore(original: Chain, tmp_path: Path) -> None:
    names = set()
    for node in ast.walk(ast.parse(EXTRACTOR.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    program = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print(*sys.modules, file=open('modules', 'w'))"
    )
    command = [sys.executable, "-c", program, str(EXTRACTOR), "verify", str(original.directory)]
    subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=tmp_path)
    modules = (tmp_path / "modules").read_text().split()
    assert "zstandard" in modules
    assert not [name for name in modules if name.startswith(("vbrcore", "vbr_", "msgspec"))]
    assert not [name for name in modules if name.startswith("cryptography")]  # nothing is encrypted


def test_older_pythons_can_read_it() -> None:
    ast.parse(EXTRACTOR.read_text(), feature_version=(3, 9))
