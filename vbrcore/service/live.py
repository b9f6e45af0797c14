"""What running sessions last said of themselves: progress and processes. In memory only."""

import threading
import time

from vbrcore.api.types import LiveStatus, LiveTask, ProcessView


class LiveStore:
    """The newest status of each session; safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status: dict[str, LiveStatus] = {}
        self._heard: dict[str, float] = {}

    def put(self, status: LiveStatus) -> None:
        with self._lock:
            self._status[status.session_id] = status
            self._heard[status.session_id] = time.monotonic()

    def keep_only(self, session_ids: frozenset[str]) -> None:
        """Forget all other sessions: they are over."""
        with self._lock:
            for session_id in self._status.keys() - session_ids:
                del self._status[session_id]
                del self._heard[session_id]

    def heard(self, session_id: str) -> float:
        """Return when a session's manager last said anything, by the monotonic clock; 0: never."""
        with self._lock:
            return self._heard.get(session_id, 0.0)

    def tasks(self, session_id: str) -> dict[str, LiveTask]:
        with self._lock:
            status = self._status.get(session_id)
        return {} if status is None else {task.task_id: task for task in status.tasks}

    def processes(self) -> tuple[ProcessView, ...]:
        """Return what managers reported: their transports and movers."""
        with self._lock:
            return tuple(process for status in self._status.values() for process in status.processes)
