"""All processes of a deployment: the service, its managers, and the transports and movers that these report."""

import contextlib
import os
import threading

import psutil

from vbrcore.api import operations, types
from vbrcore.catalog.processes import is_alive, process_started
from vbrcore.model.session import Session
from vbrcore.service.defaults import LOCAL_SERVER
from vbrcore.service.routes import Call, Routes


def add_routes(routes: Routes) -> None:
    routes.add(operations.PROCESS_LIST, _list)


class _Meter:
    """CPU shares are counted between two looks at the same process, so the objects are kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, psutil.Process] = {}

    def look(self, pid: int) -> tuple[int, float, int]:
        """Return parent pid, CPU percent since the last look and resident bytes. Raises `psutil.NoSuchProcess`."""
        with self._lock:
            process = self._known.get(pid)
            if process is None or not process.is_running():
                process = self._known[pid] = psutil.Process(pid)
            try:
                with process.oneshot():
                    return process.ppid(), process.cpu_percent(), process.memory_info().rss
            except psutil.NoSuchProcess:
                del self._known[pid]
                raise


_meter = _Meter()


def _list(call: Call, _request: types.Nothing) -> tuple[types.ProcessView, ...]:
    found = [_service(call)]
    for session in call.service.catalog.live_sessions():
        if is_alive(session.pid, session.pid_started):
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(_manager(call, session))
    reported = call.service.live.processes()
    return (*found, *(process for process in reported if process_started(process.pid) is not None))


def _service(call: Call) -> types.ProcessView:
    parent, cpu, memory = _meter.look(os.getpid())
    return types.ProcessView(
        kind="service",
        pid=os.getpid(),
        parent_pid=parent,
        server=LOCAL_SERVER,
        role="",
        job_id="",
        session_id="",
        task_id="",
        disk="",
        cpu_percent=cpu,
        memory_bytes=memory,
        log_path=str(call.service.home.service_log),
    )


def _manager(call: Call, session: Session) -> types.ProcessView:
    parent, cpu, memory = _meter.look(session.pid)
    return types.ProcessView(
        kind="job-manager",
        pid=session.pid,
        parent_pid=parent,
        server=LOCAL_SERVER,
        role="",
        job_id=session.job_id,
        session_id=session.session_id,
        task_id="",
        disk="",
        cpu_percent=cpu,
        memory_bytes=memory,
        log_path=str(call.service.home.session_log(session)),
        job_name=session.name,
    )
