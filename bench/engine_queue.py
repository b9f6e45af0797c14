"""The same with procrastinate: its worker, tasks, locks and heartbeats, and what has to be added to them."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import procrastinate
import psycopg

from bench.engine_plain import SETTLED, TAKE_ROLE

QUEUE: Final = "sessions"
TASK: Final = "session"
_LOOK_S: Final = 0.2

Tell = Callable[..., None]


class QueueSubmitter:
    """Submits sessions as any client of the service would: with a lock, and a lock in the queue, per job."""

    def __init__(self, dsn: str) -> None:
        self._app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=dsn, min_size=1))
        self._app.open()

    def make_schema(self) -> None:
        self._app.schema_manager.apply_schema()

    def close(self) -> None:
        self._app.close()

    def submit(self, job_id: str, *, priority: int = 0, work_s: float = 0.0) -> int | None:
        """Return the session's id; None while another run of its job waits (one that runs refuses nothing)."""
        deferrer = self._app.configure_task(TASK, queue=QUEUE, lock=job_id, queueing_lock=job_id, priority=priority)
        try:
            return int(deferrer.defer(work_s=work_s))
        except procrastinate.exceptions.AlreadyEnqueued:
            return None


async def run_node(dsn: str, node: str, tell: Tell, *, lease_s: float, heartbeat_s: float, poll_s: float) -> None:
    """Work until this process is ended; a worker that ended by itself is started again."""
    while True:
        try:
            await _run_worker(dsn, node, tell, lease_s=lease_s, heartbeat_s=heartbeat_s, poll_s=poll_s)
            tell("worker_ended", reason="")
        except Exception as error:  # noqa: BLE001 - by what it ends is what is asked
            tell("worker_ended", reason=f"{type(error).__name__}: {error}"[:200])
        await asyncio.sleep(_LOOK_S)


async def _run_worker(dsn: str, node: str, tell: Tell, *, lease_s: float, heartbeat_s: float, poll_s: float) -> None:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=dsn, min_size=1))

    async def session(context: Any, work_s: float) -> None:
        tell("claimed", session=context.job.id)
        if work_s:
            await asyncio.sleep(work_s)
        tell("worked", session=context.job.id)

    app.task(name=TASK, queue=QUEUE, pass_context=True)(session)
    async with app.open_async():
        giving_away = asyncio.create_task(_give_away(app, dsn, node, lease_s))
        try:
            await app.run_worker_async(
                queues=[QUEUE],
                name=node,
                concurrency=1,
                fetch_job_polling_interval=poll_s,
                update_heartbeat_interval=heartbeat_s,
                stalled_worker_timeout=lease_s,
            )
        finally:
            giving_away.cancel()
            await asyncio.gather(giving_away, return_exceptions=True)


async def _give_away(app: Any, dsn: str, node: str, lease_s: float) -> None:
    """Nothing in procrastinate runs what a dead worker left; its guide asks for a task of one's own that does.

    One node at a time, which needs a lease row: two that do it at once can give away what a third has just begun.
    """
    while True:
        with contextlib.suppress(psycopg.Error, procrastinate.exceptions.ConnectorException):
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                while True:
                    await _look(app, connection, node, lease_s)
                    await asyncio.sleep(_LOOK_S)
        await asyncio.sleep(_LOOK_S)


async def _look(app: Any, connection: Any, node: str, lease_s: float) -> None:
    values = {"name": "supervisor", "holder": node, "lease_s": lease_s}
    taken = await (await connection.execute(TAKE_ROLE, values)).fetchone()
    settled = await (await connection.execute(f"SELECT {SETTLED}", {"lease_s": lease_s})).fetchone()
    if taken is not None and settled[0]:
        for job in await app.job_manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=lease_s):
            # Of a retry no worker is told: it is found when somebody looks next.
            await app.job_manager.retry_job(job)
