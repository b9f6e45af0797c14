"""Tells the service, once a second, what runs: for the dashboard, `ps` and progress bars. Never waits for it."""

import asyncio
import time

from vbrcore.api.client import Client
from vbrcore.api.operations import LIVE_STATUS, POKE
from vbrcore.api.types import LiveStatus, LiveTask, Poke
from vbrcore.manager.crew import Crew
from vbrcore.model.errors import VbrError
from vbrcore.mover.messages import Progress

_INTERVAL_S = 1.0


class LiveReporter:
    """Keeps the newest progress of each task and sends it on; a service that is away misses it, no more."""

    def __init__(self, client: Client, session_id: str) -> None:
        self._client = client
        self._session_id = session_id
        self._tasks: dict[str, tuple[float, Progress, float]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, crew: Crew) -> None:
        self._task = asyncio.create_task(self._run(crew), name="live-status")

    def update(self, task_id: str, progress: Progress) -> None:
        now = time.monotonic()
        before = self._tasks.get(task_id)
        rate = 0.0
        if before is not None and now > before[0]:
            rate = max(0.0, (progress.done_bytes - before[1].done_bytes) / (now - before[0]))
        self._tasks[task_id] = (now, progress, rate)

    def forget(self, task_id: str) -> None:
        self._tasks.pop(task_id, None)

    def poke(self) -> None:
        """Wake the service's balancer; without a service the rows wait for the next one."""
        try:
            self._client.call(POKE, Poke(self._session_id))
        except VbrError:
            return

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, crew: Crew) -> None:
        while True:
            status = LiveStatus(self._session_id, self._live_tasks(), crew.processes())
            await asyncio.to_thread(self._send, status)
            await asyncio.sleep(_INTERVAL_S)

    def _live_tasks(self) -> tuple[LiveTask, ...]:
        return tuple(
            LiveTask(
                task_id=task_id,
                done_bytes=progress.done_bytes,
                total_bytes=progress.total_bytes,
                rate_bytes_s=rate,
                busy=progress.busy,
                totals=progress.totals,
            )
            for task_id, (_, progress, rate) in self._tasks.items()
        )

    def _send(self, status: LiveStatus) -> None:
        try:
            self._client.call(LIVE_STATUS, status)
        except VbrError:
            return
