"""The session log: one JSON object a line, of the manager and of all its movers, in time order."""

import math
import os
import re
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import msgspec

Level = Literal["debug", "info", "warning", "error"]


class LogLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """`time` is seconds since the epoch by this machine's clock; `kind` is who said it."""

    time: float
    level: Level
    kind: str
    message: str
    job_id: str = ""
    session_id: str = ""
    task_id: str = ""
    machine: str = ""
    disk: str = ""
    pid: int = 0
    server: str = ""


def closing_line(*, failed: bool, name: str, job_id: str) -> str:
    """Return the last line of every session log; monitoring greps for it."""
    outcome = "stopped with failures" if failed else "been stopped successfully"
    return f"Job has {outcome}. Name: [{name}], JobId: [{job_id}]"


class SessionLog:
    """Appends lines; safe from several threads. The file is 0600 and made anew with its directory."""

    def __init__(self, path: Path, *, job_id: str, session_id: str) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._job_id = job_id
        self._session_id = session_id
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        self._newest = 0.0
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(
        self,
        level: Level,
        message: str,
        *,
        kind: str = "job-manager",
        task_id: str = "",
        machine: str = "",
        disk: str = "",
        pid: int = 0,
        server: str = "",
        at: float | None = None,
    ) -> None:
        """Write a line; `at`: when it was said, by this machine's clock (None: now). No line is older than the last."""
        with self._lock:
            self._newest = max(self._newest, min(at or math.inf, time.time()))
            self._append(
                LogLine(
                    time=self._newest,
                    level=level,
                    kind=kind,
                    message=message,
                    job_id=self._job_id,
                    session_id=self._session_id,
                    task_id=task_id,
                    machine=machine,
                    disk=disk,
                    pid=pid or os.getpid(),
                    server=server,
                )
            )

    def _append(self, line: LogLine) -> None:
        os.write(self._descriptor, self._encoder.encode(line) + b"\n")

    def keep_left(self, server: str, name: str, data: bytes) -> Path:
        """Keep what a mover of an earlier session left on a server, durably: beside the log of its session.

        `name` is `<job>_<session>_<...>.jsonl`, as the server says it.
        """
        plain = re.sub(r"[^0-9A-Za-z._-]", "", name).lstrip(".")
        _, _, rest = plain.partition("_")
        session_id, _, _ = rest.partition("_")
        log = next(self.path.parents[1].glob(f"*/{session_id}.jsonl"), self.path)
        path = log.parent / f"{rest.removesuffix('.jsonl') or 'unknown'}.{server}.cut-off.jsonl"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return path

    def info(self, message: str, *, machine: str = "", disk: str = "", task_id: str = "") -> None:
        self.write("info", message, machine=machine, disk=disk, task_id=task_id)

    def warning(self, message: str, *, machine: str = "", disk: str = "", task_id: str = "") -> None:
        self.write("warning", message, machine=machine, disk=disk, task_id=task_id)

    def error(self, message: str, *, machine: str = "", disk: str = "", task_id: str = "") -> None:
        self.write("error", message, machine=machine, disk=disk, task_id=task_id)

    def close(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
