"""What a job manager and a transport say to each other. Messages of movers pass through unread."""

from typing import Literal

import msgspec

from vbrcore.mover.messages import Message

Role = Literal["source", "target", "restore", "copy", "storage"]


# --- manager to transport -------------------------------------------------------------------------


class StartMover(Message, frozen=True):
    """Start a mover process. `mover_id` is chosen by the manager; the other values stand on its command line."""

    mover_id: int
    role: Role
    job_id: str
    session_id: str
    task_id: str
    disk: str


class ToMover(Message, frozen=True):
    mover_id: int
    body: msgspec.Raw


class KillMover(Message, frozen=True):
    mover_id: int


class Ping(Message, frozen=True):
    """The manager lives."""


# --- transport to manager -------------------------------------------------------------------------


class MoverStarted(Message, frozen=True):
    mover_id: int
    pid: int


class FromMover(Message, frozen=True):
    mover_id: int
    body: msgspec.Raw


class MoverExited(Message, frozen=True):
    """The last message about a mover. `reason` is set where the transport ended it; `stderr` is its tail."""

    mover_id: int
    returncode: int
    stderr: str = ""
    reason: str = ""


class ProcessStats(msgspec.Struct, frozen=True):
    """One process, once a second. The transport itself has role `transport`."""

    pid: int
    parent_pid: int
    role: str
    task_id: str
    disk: str
    cpu_percent: float
    memory_bytes: int


class Stats(Message, frozen=True):
    processes: tuple[ProcessStats, ...]


class Pong(Message, frozen=True):
    """The transport lives."""


ToTransport = StartMover | ToMover | KillMover | Ping
FromTransport = MoverStarted | FromMover | MoverExited | Stats | Pong
