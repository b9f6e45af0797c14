"""A deployment of its own with machines of the images plugin, driven as a user drives it."""

import hashlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Vbr, stop_processes_of
from vbrcore.model.errors import all_errors

MIB = 1024 * 1024


class Line:
    """The whole line on one machine: a repository and a lab directory of machines beside the home."""

    def __init__(self, vbr: Vbr, root: Path) -> None:
        self.vbr = vbr
        self.home = vbr.home
        self.lab = root / "lab"
        self.repository = root / "repository"
        self.out = root / "out"
        for directory in (self.lab, self.out):
            directory.mkdir()

    def __call__(self, *args: str | Path, expect: int | None = 0) -> str:
        return self.vbr(*args, exit_code=expect).stdout

    def json(self, *args: str | Path, expect: int | None = 0) -> Any:
        return self.vbr.json(*args, exit_code=expect)

    def refused(self, code: str, *args: str | Path, stdin: str = "") -> dict[str, Any]:
        """Run a command that must end with one typed error and its exit code; return the error, with its tasks."""
        done = self.vbr(*args, "--json", exit_code=None, stdin=stdin)
        errors = [text for text in done.stderr.splitlines() if text.startswith('{"error"')]
        assert len(errors) == 1, f"not one error: {done}"
        error: dict[str, Any] = json.loads(errors[0])["error"]
        expected = next(cls for cls in all_errors() if cls.code == code)
        assert (error["code"], done.returncode) == (code, expected.exit_code), done
        assert "Traceback" not in done.stderr
        assert "internal_error" not in done.stderr
        return error

    def failed_tasks(self, job: str = "nightly") -> dict[tuple[str, str], dict[str, str]]:
        """Run a job that must fail; return the errors of its tasks by machine and disk."""
        error = self.refused("session_failed", "job", "run", job)
        return {(task["machine"], task["disk"]): task for task in error["tasks"]}

    def set_up(self, job: str = "nightly", *options: str, machine: str = "*") -> None:
        self("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={self.lab}")
        self("repository", "add", "main", "--path", self.repository, "--reserve", "1M")
        self.add_job(job, *options, machine=machine)

    def add_job(self, job: str, *options: str, machine: str = "*") -> None:
        self("job", "create", job, "--hypervisor", "lab", "--machine", machine, "--repository", "main", *options)

    def run_job(self, job: str = "nightly", expect: int | None = 0) -> dict[str, Any]:
        done: dict[str, Any] = json.loads(self("job", "run", job, "--json", expect=expect).splitlines()[-1])
        return done

    def start_job(self, job: str = "nightly") -> dict[str, str]:
        started: dict[str, str] = json.loads(self("job", "run", job, "--detach", "--json"))
        return started

    def points(self, job: str = "nightly") -> list[dict[str, Any]]:
        points: list[dict[str, Any]] = self.json("point", "list", "--job", job)
        return points

    def restore(self, point: str, disk: str, image_format: str = "raw") -> Path:
        output = self.out / f"{point}-{Path(disk).name}.{image_format}"
        self("restore", "disk", point, disk, "--output", output, "--format", image_format)
        return output

    def session(self, session_id: str) -> dict[str, Any]:
        session: dict[str, Any] = self.json("session", "show", session_id)
        return session

    def wait_for_end(self, session_id: str, timeout_s: float = 100) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        session: dict[str, Any] = {}
        while time.monotonic() < deadline:
            session = self.session(session_id)
            if session["state"] == "ended":
                return session
            time.sleep(0.2)
        message = f"session {session_id} did not end: {session}"
        raise AssertionError(message)


def disk_bytes(seed: int, size_bytes: int) -> bytes:
    """Contents that compress by about half and do not repeat."""
    generator = random.Random(seed)  # noqa: S311 - contents that can be made again
    return b"".join(generator.randbytes(512) + bytes(512) for _ in range(-(-size_bytes // 1024)))[:size_bytes]


@pytest.fixture
def line(vbr: Vbr, tmp_path: Path) -> Line:
    return Line(vbr, tmp_path)


@pytest.fixture(scope="module")
def shared_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """Give one deployment to all tests of a module that do not disturb each other."""
    home = Path(tempfile.mkdtemp(prefix="vbr-", dir="/tmp"))
    try:
        yield Line(Vbr(home), tmp_path_factory.mktemp("line"))
        left = stop_processes_of(home)
    finally:
        stop_processes_of(home)
        shutil.rmtree(home, ignore_errors=True)
    assert left == {}, "processes outlived the module's tests"


@pytest.fixture
def sha256() -> Callable[[Path], str]:
    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return digest


@pytest.fixture
def make_disk() -> Callable[..., Path]:
    """Write a raw disk: `data` megabytes of contents, then a hole up to `size_bytes`."""

    def make(path: Path, *, seed: int, data_mib: int = 4, size_bytes: int = 16 * MIB) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(disk_bytes(seed, data_mib * MIB))
            file.truncate(size_bytes)
        return path

    return make
