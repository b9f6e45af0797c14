"""What a job manager and a transport say to each other. Messages of movers pass through unread."""

from typing import Literal

import msgspec

from vbrcore.mover.messages import Message

PROTOCOL = 1
PROTOCOLS = (1,)  # what a manager of this version talks to: its own, and the one before once there is one

Role = Literal["source", "target", "restore", "copy", "storage", "sink"]


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


class Farewell(Message, frozen=True):
    """The manager has done with all movers: what is left of their logs is not wanted."""


class LogTaken(Message, frozen=True):
    """The manager has kept a log that was left behind."""

    name: str


# --- transport to manager -------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """The first message: who this is. `cache_directory`: where things may be kept there ("": this is no bundle)."""

    protocol: int
    version: str
    python: str
    pid: int
    cores: int
    cache_directory: str


class LeftLog(Message, frozen=True):
    """The last lines of a mover that was cut off, each a JSON object, found beside the bundle."""

    name: str
    data: bytes


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
    log_path: str = ""


class Stats(Message, frozen=True):
    processes: tuple[ProcessStats, ...]


class Pong(Message, frozen=True):
    """The transport lives, and this is what its clock says (seconds since the epoch)."""

    clock: float


ToTransport = StartMover | ToMover | KillMover | Ping | Farewell | LogTaken
FromTransport = Hello | LeftLog | MoverStarted | FromMover | MoverExited | Stats | Pong
