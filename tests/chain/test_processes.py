"""A writer in a process of its own, killed at any moment."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vbrcore.model.errors import ChainLocked
from vbrcore.storage.local import LocalStorage
from vbrcore.testing import chain_kit as kit

SIZE = kit.size_of(40)
PROGRAM = """
import sys
from pathlib import Path
from vbrcore.chain.writer import ChainWriter
from vbrcore.storage.local import LocalStorage
from vbrcore.testing import chain_kit as kit
ChainWriter.checkpoint_rows = 5
storage, start = LocalStorage(Path(sys.argv[1])), int(sys.argv[3])
writer = kit.open_writer(storage, Path(sys.argv[2]))
print("ready", flush=True)
for number in range(start, start + 1000):
    disk = kit.send_disk(writer, {b: kit.content(number * 10 + b) for b in range(10)}, kit.size_of(40))
    writer.checkpoint_if_due()
    point = writer.commit_point(kit.point_of(disk, machine=f"m{number}"))
    print(point.point_id, number, flush=True)
    if number % 3 == 2:
        writer.seal()
        writer = kit.open_writer(storage, Path(sys.argv[2]))
"""


def start(root: Path, index: Path, number: int) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", PROGRAM, str(root), str(index), str(number)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def test_kill_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    storage = LocalStorage(root)
    acknowledged: dict[str, int] = {}
    for round_ in range(8):
        child = start(root, tmp_path / "index", round_ * 1000)
        assert child.stdout is not None
        with child, child.stdout:
            assert child.stdout.readline() == "ready\n"
            time.sleep(random.Random(round_).random() * 0.15)  # noqa: S311
            child.kill()
            lines = child.stdout.read().splitlines()
        acknowledged |= {line.split()[0]: int(line.split()[1]) for line in lines if len(line.split()) == 2}
    writer = kit.open_writer(storage, tmp_path / "index")
    visible = {point.point_id for point in writer.points}
    last = kit.send_point(writer, {0: kit.content(0)}, SIZE)
    writer.seal()
    assert acknowledged.keys() <= visible
    for point_id, number in acknowledged.items():
        assert kit.restore(storage, point_id) == {"d0": {b: kit.content(number * 10 + b) for b in range(10)}}
    assert kit.restore(storage, last.point_id) == {"d0": {0: kit.content(0)}}


def test_a_stopped_writer_keeps_others_out_until_it_is_gone(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    child = start(root, tmp_path / "index", 0)
    assert child.stdout is not None
    with child, child.stdout:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGSTOP)
        with pytest.raises(ChainLocked):
            kit.open_writer(LocalStorage(root), tmp_path / "index")
        child.kill()
        child.wait()
        child.stdout.read()
    kit.open_writer(LocalStorage(root), tmp_path / "index").close()
