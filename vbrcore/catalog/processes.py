"""Which process is meant by a pid: the one that started at a certain moment, counted by the kernel.

Not psutil: its start times move with the wall clock, and its import takes longer than all that is needed here.
"""

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_STARTED_FIELD = 19  # of /proc/PID/stat, counted behind the name in parentheses
_DEAD = frozenset({"Z", "X", "x"})


def process_started(pid: int) -> float | None:
    """Return when a process started, in seconds since the machine did; None if it is gone (or a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    if fields[0] in _DEAD:
        return None
    return int(fields[_STARTED_FIELD]) / _TICKS_PER_S


def is_alive(pid: int, started: float) -> bool:
    """Tell whether the process that had this pid and start still runs."""
    return pid > 0 and process_started(pid) == started


def processes_of(session_id: str) -> tuple[int, ...]:
    """Return the pids of all living processes that name a session on their command line."""
    wanted = b"\0--session-id\0" + session_id.encode() + b"\0"
    found: list[int] = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            command = Path(entry.path, "cmdline").read_bytes()
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
        if wanted in command and process_started(int(entry.name)) is not None:
            found.append(int(entry.name))
    return tuple(found)
