"""Measures programs with all that they start, detached processes included.

This process makes itself the subreaper of all its descendants, so that a program cannot leave it by detaching: who
loses its parent becomes a child of ours. Then the CPU time of everything that ran below us is what ended (reaped by its
parent, or by us: RUSAGE_CHILDREN) plus what still lives, and the difference of two readings is exact.
"""

import contextlib
import ctypes
import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec

_PR_SET_CHILD_SUBREAPER: Final = 36
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_SAMPLE_S: Final = 0.1
_QUIET_S: Final = 0.3
_QUIET_LIMIT_S: Final = 10.0
_ERROR_TAIL_BYTES: Final = 2000


class CommandFailed(Exception):
    """A program ended with an exit code that is not 0; says which and with what last words."""


class Usage(msgspec.Struct, frozen=True):
    """`durable_s` adds the time until the file system has written back all that the program left to it.

    `peak_memory_bytes` is the highest sum of anonymous memory over the processes that lived at one moment (sampled).
    """

    wall_s: float
    durable_s: float
    cpu_s: float
    peak_memory_bytes: int


class Done(msgspec.Struct, frozen=True):
    """A program that ended well. `output` is what it wrote to its standard output."""

    usage: Usage
    output: str


def prepare() -> None:
    """Make orphans among our descendants our children, and have programs start as a user's do. Raises OSError."""
    # Where this is set, as in many containers, every Python process compiles all its modules anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Family:
    """All living descendants of this process. Cheap to ask ten times a second: only new processes are looked at."""

    def __init__(self) -> None:
        self._members: set[int] = set()
        self._strangers: set[int] = {os.getpid()}

    def members(self) -> frozenset[int]:
        """Return the process ids of all descendants that live (or wait to be reaped)."""
        present = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208 - names only, often
        self._members &= present
        self._strangers &= present
        for pid in sorted(present - self._members - self._strangers):
            self._place(pid)
        return frozenset(self._members)

    def cpu_s(self) -> float:
        """Return the CPU time of all descendants there ever were, as far as it was reaped or still lives."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        alive = sum(_cpu_ticks(pid) for pid in self.members())
        return ended.ru_utime + ended.ru_stime + alive / _TICKS_PER_S

    def anonymous_bytes(self) -> int:
        """Return the anonymous memory that all of them hold now."""
        return sum(anonymous_bytes(pid) for pid in self.members())

    def _place(self, pid: int) -> bool:
        """Find out whether `pid` is one of ours, asking its parents first."""
        if pid in self._members or pid in self._strangers:
            return pid in self._members
        parent = _parent(pid)
        ours = parent == os.getpid() or (parent > 1 and self._place(parent))
        (self._members if ours else self._strangers).add(pid)
        return ours


def measure(
    command: Sequence[str],
    *,
    scratch: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Done:
    """Run a program to its end and return what it used. Raises `CommandFailed`.

    `scratch` is a directory on the file system that it writes to; its output passes through files there. What the
    program's background processes still do when it has ended counts as CPU time, not as wall time.
    """
    family = Family()
    cpu_before = family.cpu_s()
    with (scratch / "stdout").open("w+b") as out, (scratch / "stderr").open("w+b") as err:
        started = time.perf_counter()
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, cwd=cwd) as process:
            peak_bytes = _watch(process, family)
        wall_s = time.perf_counter() - started
        if process.returncode != 0:
            raise CommandFailed(f"{' '.join(command)}: exit code {process.returncode}: {_tail(err)} {_tail(out)}")
        sync(scratch)
        durable_s = time.perf_counter() - started
        _settle(family)
        out.seek(0)
        output = out.read().decode(errors="replace")
    return Done(Usage(wall_s, durable_s, family.cpu_s() - cpu_before, peak_bytes), output)


@contextlib.contextmanager
def measured(scratch: Path) -> Iterator[Callable[[], Usage]]:
    """Measure the body, which works in this very process; the value returns its figures afterwards."""
    cpu_before = time.process_time()
    started = time.perf_counter()
    figures: list[Usage] = []
    yield lambda: figures[0]
    wall_s = time.perf_counter() - started
    cpu_s = time.process_time() - cpu_before
    sync(scratch)
    figures.append(Usage(wall_s, time.perf_counter() - started, cpu_s, anonymous_bytes(os.getpid())))


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a program that is not measured and return its standard output. Raises `CommandFailed`."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=env, cwd=cwd, check=False)
    if done.returncode != 0:
        words = (done.stderr + done.stdout)[-_ERROR_TAIL_BYTES:].decode(errors="replace")
        raise CommandFailed(f"{' '.join(command)}: exit code {done.returncode}: {words}")
    return done.stdout.decode(errors="replace")


def sync(path: Path) -> None:
    """Wait until the file system of `path` has written everything back."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if libc.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(descriptor)


def anonymous_bytes(pid: int) -> int:
    """Return RssAnon of a process, 0 if it is gone."""
    return status_bytes(pid, b"RssAnon:")


def status_bytes(pid: int, field: bytes) -> int:
    """Return a field of /proc/PID/status that is given in kB, in bytes; 0 if the process is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_bytes().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def _watch(process: subprocess.Popen[bytes], family: Family) -> int:
    """Sample memory until the program ends and reap orphans meanwhile; return the highest sum."""
    peak_bytes = 0
    while True:
        peak_bytes = max(peak_bytes, family.anonymous_bytes())
        _reap_orphans(process.pid)
        try:
            process.wait(_SAMPLE_S)
        except subprocess.TimeoutExpired:
            continue
        return peak_bytes


def _reap_orphans(keep_pid: int) -> None:
    """Collect children that ended, all but `keep_pid`, whose exit code somebody waits for."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid == keep_pid:
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(ended.si_pid, 0)


def _settle(family: Family) -> None:
    """Wait until what was started stops using CPU time, so that it does not count for whoever is measured next."""
    deadline = time.monotonic() + _QUIET_LIMIT_S
    before = family.cpu_s()
    while time.monotonic() < deadline:
        time.sleep(_QUIET_S)
        _reap_orphans(0)
        now = family.cpu_s()
        if now - before < _QUIET_S * 0.1:
            return
        before = now


def _stat_fields(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat after the program's name (which may hold anything); empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _parent(pid: int) -> int:
    fields = _stat_fields(pid)
    return int(fields[1]) if fields else 0


def _cpu_ticks(pid: int) -> int:
    """User and system time of the process and of the children it has reaped."""
    return sum(int(field) for field in _stat_fields(pid)[11:15])


def _tail(file: IO[bytes]) -> str:
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, size_bytes - _ERROR_TAIL_BYTES))
    return file.read().decode(errors="replace").strip()
