"""CPU and memory of a transport and its movers, as `ps` and the dashboard show them."""

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vbrcore.transport.children import Child
from vbrcore.transport.messages import ProcessStats

if TYPE_CHECKING:
    import psutil


class StatsSampler:
    """Keeps what CPU shares are measured against; loads psutil with the first sample, not at start-up."""

    def __init__(self) -> None:
        self._processes: dict[int, psutil.Process] = {}

    def sample(self, children: Iterable[Child]) -> tuple[ProcessStats, ...]:
        """Return this process first, then the movers that still live."""
        import psutil  # noqa: PLC0415

        own = self._processes.setdefault(0, psutil.Process())
        specs = {0: ("transport", "", "", "")}
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.pid not in self._processes:
                    self._processes[child.pid] = psutil.Process(child.pid)
                specs[child.pid] = (
                    *(child.spec.role, child.spec.task_id, child.spec.disk),
                    str(child.log.path) if child.log is not None else "",
                )
        self._processes = {pid: process for pid, process in self._processes.items() if pid in specs}
        parent_pid = own.ppid()
        found = []
        for pid, process in self._processes.items():
            with contextlib.suppress(psutil.Error), process.oneshot():
                role, task_id, disk, log_path = specs[pid]
                found.append(
                    ProcessStats(
                        pid=process.pid,
                        parent_pid=own.pid if pid else parent_pid,
                        role=role,
                        task_id=task_id,
                        disk=disk,
                        cpu_percent=process.cpu_percent(),
                        memory_bytes=process.memory_info().rss,
                        log_path=log_path,
                    )
                )
        return tuple(found)
