"""The whole line of the images plugin without root: everything belongs to an account that may do nothing special."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT, Vbr, stop_processes_of
from tests.line.conftest import MIB, Line, disk_bytes

NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]


def closed_above(path: Path) -> Path | None:
    """Return the first directory on the way to `path` that others may not enter."""
    return next((one for one in reversed(path.parents) if not one.stat().st_mode & 0o001), None)


def as_nobody(stage: Path) -> list[str]:
    """Return what runs a command as `NOBODY`, who may not do anything that root's groups may.

    Where this Python or the checkout lies below a directory of root's own (a home), they are shown there in a mount
    namespace of the command's own, and nothing else of that directory is.
    """
    needed = {Path(os.path.realpath(place)) for place in (CHECKOUT, sys.prefix, sys.base_prefix)}
    hidden = {path: top for path in needed if (top := closed_above(path)) is not None}
    if not hidden:
        return AS_NOBODY
    steps = ["set -e", f"mount -t tmpfs none {shlex.quote(str(stage))}"]
    places = {path: shlex.quote(str(stage / str(number))) for number, path in enumerate(hidden)}
    steps += [f"mkdir {place}; mount --rbind {shlex.quote(str(path))} {place}" for path, place in places.items()]
    steps += [f"mount -t tmpfs -o mode=755 none {shlex.quote(str(top))}" for top in set(hidden.values())]
    steps += [
        f"mkdir -p {shlex.quote(str(path))}; mount --rbind {place} {shlex.quote(str(path))}"
        for path, place in places.items()
    ]
    return ["unshare", "--mount", "sh", "-c", "; ".join([*steps, 'exec "$@"']), "sh", *AS_NOBODY]


class UserVbr(Vbr):
    """The command line as run by `NOBODY` (or by whoever runs the tests, where that is not root)."""

    def __init__(self, home: Path, stage: Path) -> None:
        super().__init__(home)
        if os.geteuid() == 0:
            self.command = [*as_nobody(stage), *self.command]
            for name in ("XDG_RUNTIME_DIR", "TMPDIR", "HOME"):
                self.environment.pop(name, None)


@pytest.fixture
def user_line() -> Iterator[Line]:
    top = Path(tempfile.mkdtemp(prefix="vbr-", dir="/tmp"))
    top.chmod(0o755)
    home, stage = top / "home", top / "stage"
    home.mkdir(mode=0o700)
    stage.mkdir()
    line = Line(UserVbr(home, stage), top)
    line.repository.mkdir(mode=0o700)
    if os.geteuid() == 0:
        for path in (home, line.lab, line.out, line.repository):
            os.chown(path, NOBODY, NOBODY)
    try:
        if line.vbr("service", "stop", exit_code=None).returncode:
            pytest.skip("another user may not run this Python or read this checkout")
        yield line
        left = stop_processes_of(home)
    finally:
        stop_processes_of(home)
        shutil.rmtree(top)
    assert left == {}


def test_the_whole_line_without_root(user_line: Any, sha256: Any) -> None:
    line = user_line
    raw = line.lab / "web" / "disk.raw"
    raw.parent.mkdir()
    raw.write_bytes(disk_bytes(1, 3 * MIB + 7))
    qcow2 = line.lab / "web" / "data.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True, capture_output=True)
    line.set_up()
    first = sha256(raw)
    line.run_job()
    with raw.open("r+b") as file:
        file.write(b"changed")
    line.run_job()
    full, increment = (point["point_id"] for point in line.points())
    assert sha256(line.restore(full, "disk.raw")) == first
    assert sha256(line.restore(increment, "disk.raw")) == sha256(raw)
    restored = line.restore(increment, "data.qcow2", "qcow2")
    compared = ["qemu-img", "compare", qcow2, restored]
    assert subprocess.run(compared, capture_output=True, check=False).returncode == 0
    line("verify", increment, "--deep")
    line("restore", "machine", full, "--hypervisor", "lab", "--name", "again")
    line("point", "delete", full)
    processes = line.json("ps")
    assert processes
    for path in (line.repository, line.home, line.out):
        assert {found.stat().st_uid for found in path.rglob("*")} == {os.geteuid() or NOBODY}
        assert not [found for found in path.rglob("*") if found.is_file() and found.stat().st_mode & 0o077]


@pytest.mark.skipif(os.geteuid() != 0, reason="nothing can be kept from root's own files without root")
def test_what_the_account_may_not_read_or_write_is_one_clear_error(user_line: Any) -> None:
    line = user_line
    for name in ("mine", "good"):
        (line.lab / name).mkdir()
        (line.lab / name / "disk.raw").write_bytes(b"content" * 1000)
    (line.lab / "mine" / "disk.raw").chmod(0o600)  # root's
    line.set_up()
    failed = line.failed_tasks()
    assert failed["mine", "disk.raw"]["code"] == "image_invalid"
    assert "Permission denied" in failed["mine", "disk.raw"]["message"]
    (point,) = line.points()
    assert point["machine"] == "good"
    place = line.lab / "good"  # root's, too
    error = line.refused("sink_write_failed", "restore", "disk", point["point_id"], "disk.raw", "--output", place / "x")
    assert str(place / "x") in error["message"]
    line.refused("repository_read_only", "repository", "add", "r", "--path", place / "repository")
    for path in line.repository.rglob("*.vbf"):
        os.chown(path, 0, 0)
    line.refused("permission_refused", "verify", point["point_id"])
    line.refused("session_failed", "job", "run", "nightly")
    assert line.json("session", "list", "--job", "nightly")[0]["error"]["code"] == "permission_refused"
    assert len(list(line.repository.rglob("*.vbf"))) == 1
    os.chown(line.home, 0, 0)
    line.home.chmod(0o700)
    error = line.refused("permission_refused", "job", "list")
    assert str(line.home) in error["message"]
