"""Pictures that the service could have given, and a source that gives them: the in-memory twin of a service."""

import time
from typing import Literal

import msgspec

from vbr_tui.store import Picture
from vbrcore.api.types import (
    HypervisorView,
    JobView,
    ProcessView,
    RepositoryView,
    ServiceView,
    SessionView,
    TaskView,
)
from vbrcore.model.errors import ErrorInfo, ServiceUnavailable
from vbrcore.model.job import Schedule
from vbrcore.model.retention import Retention
from vbrcore.model.session import SessionState, Totals

ProcessKind = Literal["service", "job-manager", "transport", "mover"]

GIB = 1024**3
MIB = 1024**2
SERVICE = ServiceView(
    "0.1.0", 4100, "/var/lib/vbrcore", "2025-11-25T01:00:00+00:00", installed=False, sessions_running=0
)
HYPERVISOR = HypervisorView("h1", "lab", "images", {"path": "/srv/images"})
REPOSITORY = RepositoryView(
    "r1", "main", "local", "/srv/backup", 2, 2, "ok", "", 100 * GIB, 60 * GIB, 10 * GIB, GIB, GIB, 3
)


class Fixed:
    """Gives the picture it holds; without one it says that the service is unreachable."""

    def __init__(self, picture: Picture | None) -> None:
        self.picture = picture
        self.starts: list[bool] = []

    def look(self, *, start: bool) -> Picture:
        self.starts.append(start)
        if self.picture is None:
            raise ServiceUnavailable("no service answers at /var/lib/vbrcore/run/api.sock")
        return msgspec.structs.replace(self.picture, taken=time.monotonic())

    def close(self) -> None:
        """Nothing is held."""


def job(name: str) -> JobView:
    when, kept = Schedule(), Retention()
    return JobView("j1", name, "lab", "main", ("*",), (), MIB, "fast", False, when, kept, "success", None, None)


def task(number: int, machine: str, disk: str, state: str, **changes: object) -> TaskView:
    size = (20 + number) * GIB
    view = TaskView(f"task{number}", machine, disk, state, "", "local", size, 0, 1, Totals())
    return msgspec.structs.replace(view, **changes)


def session(name: str, state: SessionState, tasks: tuple[TaskView, ...] = (), **changes: object) -> SessionView:
    totals = Totals()
    for one in tasks:
        totals = totals.plus(one.totals)
    view = SessionView(
        f"session-{name}", f"job-{name}", name, "backup", state, "", "none", "2025-11-25T01:00:00+00:00", None, 75.0,
        totals, (), None, tasks,
    )  # fmt: skip
    return msgspec.structs.replace(view, **changes)


def process(kind: ProcessKind, pid: int, parent: int, **changes: object) -> ProcessView:
    view = ProcessView(kind, pid, parent, "local", "", "", "", "", "", 1.0, 30 * MIB, "")
    return msgspec.structs.replace(view, **changes)


def busy_picture() -> Picture:
    """Two sessions: one reads two disks while a third waits for a slot; the other waits for the chain."""
    running = {"done_bytes": 9 * GIB, "rate_bytes_s": 210.0 * MIB, "eta_s": 62.0}
    nightly = session(
        "nightly",
        "running",
        (
            task(1, "web01", "root.qcow2", "running", busy={"source": 0.87, "compress": 0.4, "target": 0.1},
                 totals=Totals(6 * GIB, 3 * GIB), **running),
            task(2, "web01", "data.raw", "running", busy={"source": 0.2, "compress": 0.95, "target": 0.1},
                 totals=Totals(8 * GIB, 5 * GIB), **running),
            task(3, "db01", "root.qcow2", "pending", reason="no_free_proxy_slot"),
            task(4, "mail", "root.vmdk", "done", totals=Totals(GIB, GIB // 2)),
            task(5, "mail", "spool.vhdx", "failed",
                 error=ErrorInfo("source_read_failed", "spool.vhdx: input/output error", "Look at the storage.")),
        ),
    )  # fmt: skip
    hourly = session("hourly", "waiting", reason="chain_in_use: nightly writes to it")
    old = session("weekly", "ended", result="warning", ended="2025-11-24T23:30:00+00:00", duration_s=415.0)
    log = "/var/lib/vbrcore/log/nightly/s1.jsonl"
    ids = {"job_id": "job-nightly", "session_id": "session-nightly", "job_name": "nightly", "log_path": log}
    return Picture(
        taken=0.0,
        service=msgspec.structs.replace(SERVICE, sessions_running=2),
        sessions=(nightly, hourly),
        recent=(old,),
        jobs=(job("nightly"),),
        hypervisors=(HYPERVISOR,),
        repositories=(REPOSITORY,),
        processes=(
            process("service", 4100, 1, log_path="/var/lib/vbrcore/log/service.jsonl"),
            process("job-manager", 4120, 4100, **ids),
            process("transport", 4125, 4120, **ids),
            process("mover", 4130, 4125, role="target", cpu_percent=38.0, memory_bytes=190 * MIB, **ids),
            process("mover", 4131, 4125, role="source", disk="root.qcow2", cpu_percent=97.0, **ids),
            process("mover", 4132, 4125, role="source", disk="data.raw", cpu_percent=64.0, **ids),
            process("job-manager", 4140, 4100, job_name="hourly", job_id="job-hourly", session_id="session-hourly"),
        ),
    )


def idle_picture(**changes: object) -> Picture:
    """Nothing runs; one hypervisor, one repository and one job are there unless `changes` takes them away."""
    picture = Picture(
        taken=0.0,
        service=SERVICE,
        processes=(process("service", 4100, 1),),
        jobs=(job("nightly"),),
        hypervisors=(HYPERVISOR,),
        repositories=(REPOSITORY,),
    )
    return msgspec.structs.replace(picture, **changes)
