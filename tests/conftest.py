"""What every test may ask for: a deployment of its own under a short path, and the command line that uses it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vbrcore.testing.smbd import Smbd

CHECKOUT = Path(__file__).resolve().parents[1]


class Vbr:
    """`vbr("job", "list")` runs `python -m vbrcore job list` in one home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.command = [sys.executable, "-m", "vbrcore"]
        self.environment = {**os.environ, "VBRCORE_HOME": str(home)}

    def __call__(
        self, *args: str | Path, exit_code: int | None = 0, stdin: str = "", timeout_s: float = 110
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end. Another exit code than `exit_code` fails the test (None: any will do)."""
        done = subprocess.run(
            [*self.command, *map(str, args)],
            check=False,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if exit_code is not None and done.returncode != exit_code:
            pytest.fail(
                f"vbrcore {' '.join(map(str, args))}: exit code {done.returncode}, not {exit_code}\n"
                f"--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
            )
        return done

    def json(self, *args: str | Path, exit_code: int | None = 0, timeout_s: float = 110) -> Any:
        """Run one command with `--json`; return the JSON value on its last line, or that all its lines make."""
        text = self(*args, "--json", exit_code=exit_code, timeout_s=timeout_s).stdout.strip()
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return json.loads(text.splitlines()[-1])

    def start(self, *args: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Begin one command and leave it running; the test waits for it (`with vbr.start(...) as command`)."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [*self.command, *map(str, args)]
        return subprocess.Popen(command, env=self.environment, text=True, **(pipes | options))


def processes_of(home: Path) -> dict[int, str]:
    """Living processes that belong to a home, as pid → command line: their environment or command line names it."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            environment = (directory / "environ").read_bytes().split(b"\0")
            state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        ours = b"VBRCORE_HOME=" + os.fsencode(home) in environment or str(home) in command
        if ours and state not in "ZX" and int(directory.name) != os.getpid():
            found[int(directory.name)] = command
    return found


def stop_processes_of(home: Path) -> dict[int, str]:
    """Stop the service of a home; return what was still there afterwards (it is killed)."""
    if not processes_of(home):
        return {}
    subprocess.run(
        [sys.executable, "-m", "vbrcore", "service", "stop"],
        check=False,
        env={**os.environ, "VBRCORE_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    for _ in range(100):
        left = processes_of(home)
        if not left:
            return {}
        time.sleep(0.1)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return left


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give an empty deployment (its path is short enough for sockets). Fails when processes outlive the test."""
    path = Path(tempfile.mkdtemp(prefix="vbr-", dir="/tmp"))
    monkeypatch.setenv("VBRCORE_HOME", str(path))
    try:
        yield path
        left = stop_processes_of(path)
    finally:
        stop_processes_of(path)
        shutil.rmtree(path, ignore_errors=True)
    if left:
        lines = "\n".join(f"  {pid} {command}" for pid, command in left.items())
        pytest.fail(f"processes outlived the test:\n{lines}")


@pytest.fixture
def vbr(home: Path) -> Vbr:
    """Give the command line of `home`."""
    return Vbr(home)


@pytest.fixture
def smbd(tmp_path: Path) -> Iterator[Smbd]:
    """A real smbd that serves `tmp_path`/data as the share `data`."""
    (tmp_path / "data").mkdir()
    server = Smbd(tmp_path / "smbd")
    server.share("data", tmp_path / "data")
    server.start()
    try:
        yield server
    finally:
        server.signal(signal.SIGCONT)
        server.kill()
