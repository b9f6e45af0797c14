"""All processes of a deployment: the service, its managers, and the transports and movers that these report."""

import os
import threading
from typing import TYPE_CHECKING, Literal

from vbrcore.api import operations, types
from vbrcore.catalog.processes import is_alive, process_started
from vbrcore.model.inventory import LOCAL_SERVER
from vbrcore.model.session import Session
from vbrcore.service.routes import Call, Routes

if TYPE_CHECKING:
    import psutil


def add_routes(routes: Routes) -> None:
    routes.add(operations.PROCESS_LIST, _list)


class _Meter:
    """CPU shares are counted between two looks at the same process, so the objects are kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[int, psutil.Process] = {}

    def look(self, pid: int) -> tuple[int, float, int] | None:
        """Return parent pid, CPU percent since the last look and resident bytes; None if the process is gone."""
        import psutil  # noqa: PLC0415 - its import is a tenth of the service's start

        with self._lock:
            try:
                process = self._known.get(pid)
                if process is None or not process.is_running():
                    process = self._known[pid] = psutil.Process(pid)
                with process.oneshot():
                    return process.ppid(), process.cpu_percent(), process.memory_info().rss
            except psutil.NoSuchProcess:
                self._known.pop(pid, None)
                return None


_meter = _Meter()


def _list(call: Call, _request: types.Nothing) -> tuple[types.ProcessView, ...]:
    home = call.service.home
    found = [
        _view("service", os.getpid(), str(home.service_log)),
        *(
            _view("job-manager", session.pid, str(home.session_log(session)), session)
            for session in call.service.catalog.live_sessions()
            if is_alive(session.pid, session.pid_started)
        ),
        *(
            one
            for one in call.service.live.processes()
            if one.server != LOCAL_SERVER or process_started(one.pid) is not None
        ),
    ]
    return tuple(one for one in found if one is not None)


def _view(
    kind: Literal["service", "job-manager"], pid: int, log_path: str, session: Session | None = None
) -> types.ProcessView | None:
    looked = _meter.look(pid)
    if looked is None:
        return None
    parent_pid, cpu_percent, memory_bytes = looked
    return types.ProcessView(
        kind=kind,
        pid=pid,
        parent_pid=parent_pid,
        server=LOCAL_SERVER,
        role="",
        job_id=session.job_id if session else "",
        session_id=session.session_id if session else "",
        task_id="",
        disk="",
        cpu_percent=cpu_percent,
        memory_bytes=memory_bytes,
        log_path=log_path,
        job_name=session.name if session else "",
    )
