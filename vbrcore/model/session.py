"""One run: sessions, their tasks, and how they ended."""

from typing import Literal

import msgspec

from vbrcore.model.errors import ErrorInfo

SessionKind = Literal[
    "backup", "copy", "restore", "verify", "health", "delete", "rekey", "retention", "upkeep", "inventory", "cleanup"
]
# Runs of a job, of which there is one at a time.
JOB_RUNS: tuple[SessionKind, ...] = ("backup", "copy")
# What looks after the chains of a job besides: `job stop` stops it where no run is there.
JOB_CARE: tuple[SessionKind, ...] = ("upkeep", "retention", "health")
SessionState = Literal["starting", "waiting", "running", "stopping", "ended"]
Result = Literal["none", "success", "warning", "failed"]
TaskState = Literal["pending", "assigned", "running", "done", "failed", "skipped"]


class Totals(msgspec.Struct, frozen=True):
    """Bytes of a session or task. `stored_bytes` is what was appended to backup files."""

    read_bytes: int = 0
    transferred_bytes: int = 0
    stored_bytes: int = 0
    audit_bytes: int = 0

    def plus(self, other: "Totals") -> "Totals":
        return Totals(
            self.read_bytes + other.read_bytes,
            self.transferred_bytes + other.transferred_bytes,
            self.stored_bytes + other.stored_bytes,
            self.audit_bytes + other.audit_bytes,
        )


class Session(msgspec.Struct, frozen=True):
    """`request` is the plain data of what was asked (a `SessionRequest` of the API, MessagePack built-ins).

    `report`: what it found out besides its result, as plain data of its kind. `node`: the service node that runs its
    manager; "": nobody has claimed it yet. A pid is one of that node.
    """

    session_id: str
    job_id: str
    name: str
    kind: SessionKind
    state: SessionState
    result: Result
    manual: bool
    created: float
    started: float | None = None
    ended: float | None = None
    pid: int = 0
    pid_started: float = 0.0
    stop_requested: Literal["", "graceful", "now"] = ""
    totals: Totals = Totals()
    warnings: tuple[str, ...] = ()
    error: ErrorInfo | None = None
    request: dict[str, object] = {}
    report: dict[str, object] = {}
    node: str = ""


class TaskNeeds(msgspec.Struct, frozen=True):
    """What a task must have at once. Empty strings: does not need it.

    `machine` and `datastores` are level 2 of DESIGN 5 and taken with a machine's first disk only: the lease is held
    by (session, machine) until the machine is released.
    """

    repository_id: str = ""
    machine: str = ""
    datastores: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    repository_server: str = ""


class Task(msgspec.Struct, frozen=True):
    """One virtual disk in one session (or the machine's configuration, which needs no slot).

    `server`, `mode`: which proxy reads it and how; `why`: what decided so, for people.
    """

    task_id: str
    session_id: str
    machine: str
    disk: str
    state: TaskState = "pending"
    reason: str = ""
    size_bytes: int = 0
    server: str = ""
    attempt: int = 0
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    totals: Totals = Totals()
    warnings: tuple[str, ...] = ()
    error: ErrorInfo | None = None
    needs: TaskNeeds = TaskNeeds()
    mode: str = ""
    why: str = ""
