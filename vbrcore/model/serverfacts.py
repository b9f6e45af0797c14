"""What was found on a managed server, and how it is: plain data that checks are made over."""

from typing import Literal

import msgspec

from vbrcore.model.errors import VbrError

MACHINES = ("x86_64", "aarch64")
_OLDEST_PYTHON, _NEWEST_PYTHON = (3, 11), (3, 13)


class Finding(msgspec.Struct, frozen=True):
    """What a check found. `code` is machine-readable; `hint`: how to mend it.

    `error`: what it is there for does not work so; `warning`: something does not; `note`: good to know, nothing lacks.
    """

    code: str
    text: str
    hint: str
    level: Literal["error", "warning", "note"] = "error"


def finding_of(error: VbrError) -> Finding:
    """Return an error that a check met as what it found."""
    return Finding(error.code, str(error), error.hint)


class ServerFacts(msgspec.Struct, frozen=True):
    """Gathered by a login. `os`, `machine` and `python` "": not found out; `python`: the newest version found there.

    `connect_s`: how long connecting took, without the login. `clock_offset_s`: its clock less ours, off by half the way
    there and back at most. `cache`: the directory for the bundle; `cache_error`: why nothing can be written there;
    `free_bytes`: of its file system. `bundle`: the version that lies there ("": none yet). `ports_free`: how many of
    the server's data ports can be listened on; `reached_port`: the one that was tried from the backup server;
    `reach_error`: why that did not get through ("": it did, or was not tried). `hypervisors`: what the plugins found of
    those that are tied to it, by hypervisor id.
    """

    os: str = ""
    machine: str = ""
    user: str = ""
    python: str = ""
    connect_s: float = 0.0
    clock_offset_s: float = 0.0
    cache: str = ""
    cache_error: str = ""
    free_bytes: int = 0
    bundle: str = ""
    cores: int = 0
    ports_free: int = 0
    reached_port: int = 0
    reach_error: str = ""
    hypervisors: dict[str, tuple[Finding, ...]] = {}

    @property
    def os_is_linux(self) -> bool:
        return "Linux" in self.os

    @property
    def python_fits(self) -> bool:
        """Whether movers run on this version of CPython."""
        parts = self.python.split(".")[:2]
        if len(parts) < 2 or not all(part.isdecimal() for part in parts):
            return False
        return _OLDEST_PYTHON <= (int(parts[0]), int(parts[1])) <= _NEWEST_PYTHON

    @property
    def can_run_movers(self) -> bool:
        return self.os_is_linux and self.machine in MACHINES and self.python_fits and not self.cache_error


class ServerState(msgspec.Struct, frozen=True):
    """How a server is. `away`: why it could not be reached last ("": it could, or nobody has tried).

    `failures`: in a row; `next_try`: when it is tried again by itself, seconds since the epoch. `checked`: when `facts`
    were gathered.
    """

    server_id: str
    away: str = ""
    failures: int = 0
    next_try: float = 0.0
    checked: float | None = None
    facts: ServerFacts | None = None
