"""A service of root and a caller who is somebody else: restored files are the caller's, and lie where they may."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Vbr

CALLER = 65534
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="another user's service is needed"),
]


class Caller(Vbr):
    """The command line as another user runs it."""

    def __init__(self, home: Path, runtime: Path) -> None:
        super().__init__(home)
        user = ["setpriv", f"--reuid={CALLER}", f"--regid={CALLER}", "--clear-groups", "--"]
        self.command = [*user, sys.executable, "-m", "vbrcore"]
        self.environment["XDG_RUNTIME_DIR"] = str(runtime)


@pytest.fixture
def place() -> Iterator[Path]:
    """Give a directory that the caller reaches: `allowed` in it is for restores and the caller's own."""
    root = Path(tempfile.mkdtemp(prefix="vbr-", dir="/tmp"))
    root.chmod(0o755)
    for name in ("allowed", "runtime"):
        (root / name).mkdir(mode=0o700)
        os.chown(root / name, CALLER, CALLER)
    (root / "outside").mkdir(mode=0o755)
    yield root
    shutil.rmtree(root)


@pytest.fixture
def caller(line: Any, place: Path, make_disk: Any) -> Caller:
    """A point of one disk, and a service whose socket another user reaches."""
    (line.home / "service.toml").write_text(
        f'[access]\nusers = [{CALLER}]\n[restore]\ndirectories = ["{place / "allowed"}"]\n'
    )
    make_disk(line.lab / "web" / "system.raw", seed=1)
    line.set_up()
    line.run_job()
    for directory in (line.home, line.home / "run"):
        directory.chmod(0o711)  # as /run/vbrcore is, where an installed service listens
    return Caller(line.home, place / "runtime")


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode != 0, done
    return done.stderr


def restore(caller: Caller, point: str, output: Path | str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ("restore", "disk", point, "system.raw", "--output", output, *options)
    return caller(*command, exit_code=None)


def test_a_callers_files_are_made_where_they_may_be_and_given_to_the_caller(
    line: Any, caller: Caller, place: Path, sha256: Any
) -> None:
    allowed, outside = place / "allowed", place / "outside"
    point = line.points()[0]["point_id"]
    disk = line.lab / "web" / "system.raw"

    (allowed / "inner").mkdir()
    for output, image_format in ((allowed / "one.raw", "raw"), (allowed / "inner" / "two.qcow2", "qcow2")):
        assert restore(caller, point, output, "--format", image_format).returncode == 0
        made = output.stat()
        assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (CALLER, CALLER, 0o600)
    assert sha256(allowed / "one.raw") == sha256(disk)
    compared = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk, allowed / "inner" / "two.qcow2"]
    assert subprocess.run(compared, capture_output=True, check=False).returncode == 0

    # Elsewhere, existing files and links of every kind: refused, and nothing is made or changed anywhere.
    (allowed / "link").symlink_to(outside)
    (allowed / "last").symlink_to(outside / "last")
    (allowed / "inner" / "deep").symlink_to("../../outside")
    assert "output_refused" in refusal(restore(caller, point, outside / "new", "--json"))
    assert "output_refused" in refusal(restore(caller, point, f"{allowed}/../outside/new", "--json"))
    assert "output_refused" in refusal(restore(caller, point, allowed / "one.raw", "--json"))
    assert "output_refused" in refusal(restore(caller, point, allowed / "last", "--json"))
    assert "is not followed" in refusal(restore(caller, point, allowed / "link" / "new"))
    assert "is not followed" in refusal(restore(caller, point, allowed / "inner" / "deep" / "new"))
    assert list(outside.iterdir()) == []
    assert sha256(allowed / "one.raw") == sha256(disk)
    assert sorted(entry.name for entry in allowed.iterdir()) == ["inner", "last", "link", "one.raw"]
    machine = ("restore", "machine", point, "--hypervisor", "lab", "--name", "new", "--directory", outside)
    assert "output_refused" in refusal(caller(*machine, "--json", exit_code=None))

    # The same user as the service is bound to nothing.
    assert line.restore(point, "system.raw").stat().st_uid == 0


def test_a_stream_goes_to_its_caller_and_to_nobody_else(line: Any, caller: Caller, place: Path) -> None:
    point = line.points()[0]["point_id"]
    streamed = place / "stream.raw"
    with streamed.open("wb") as file:
        command = [*caller.command, "restore", "disk", point, "system.raw", "--output", "-"]
        subprocess.run(command, stdout=file, check=True, timeout=60, env=caller.environment)
    assert streamed.read_bytes() == (line.lab / "web" / "system.raw").read_bytes()

    # A socket of root's is not for the caller to have written to, though root's mover could.
    script = (
        "import sys; from pathlib import Path; from vbrcore.api import operations as o, types as t\n"
        "from vbrcore.api.client import Client\n"
        "with Client(Path(sys.argv[1])) as client:\n"
        "    request = t.RestoreDisk(sys.argv[2], 'system.raw', stream=sys.argv[3], stream_token='GET / HTTP/1.1')\n"
        "    print(client.call(o.RESTORE_DISK, request).session_id)"
    )
    target = place / "root.socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(target))
        target.chmod(0o600)
        listener.listen()
        command = [*caller.command[:-2], "-c", script, str(line.home), point, str(target)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60, env=caller.environment, cwd=Path.cwd()
        )
        session = line.wait_for_end(done.stdout.strip())
        assert session["error"]["code"] == "output_refused"
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100) == b""
