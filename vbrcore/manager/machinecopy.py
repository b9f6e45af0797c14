"""One machine of a chain that is copied: its points, oldest first, each a commit of its own."""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from vbrcore.manager.context import Context, Warnings, pause
from vbrcore.manager.copyplan import copy_of
from vbrcore.manager.demands import class_of, copy_demand
from vbrcore.manager.machine import RETRY_WAITS_S
from vbrcore.manager.sending import send_disk
from vbrcore.manager.target import Target, TargetRun
from vbrcore.model.errors import (
    BlocksMissing,
    DataCorrupt,
    FormatInvalid,
    NotFound,
    OutsideWindow,
    SessionStopped,
    VbrError,
)
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Repository, Server
from vbrcore.model.job import Job
from vbrcore.model.point import Point, PointDisk
from vbrcore.model.session import Task, TaskState, Totals
from vbrcore.mover.messages import NO_ENDPOINT, CopyWork

# With these it is one point that cannot be copied; others can.
_OF_ONE_POINT = (BlocksMissing, DataCorrupt, FormatInvalid)


class CopyParts(msgspec.Struct, frozen=True):
    """What all machines of a chain share. `directory` is the source's, `encrypted`: both repositories are."""

    job: Job
    source: Repository
    source_server: Server
    repository: Repository
    repository_server: Server
    directory: str
    target_directory: str
    encrypted: bool
    target: Target
    warnings: Warnings


class PointTask(msgspec.Struct, frozen=True):
    """One mover's work for a point: a disk by its number (-1: none), and the configuration with the first."""

    task: Task
    disk_number: int
    configuration: bool


def point_tasks(context: Context, point: Point) -> tuple[PointTask, ...]:
    """Make the tasks of a point: one for each disk; one for the configuration where there is no disk."""
    names = [(disk.name, disk.size_bytes) for disk in point.disks] or [("configuration", 0)]
    return tuple(
        PointTask(
            Task(
                task_id=new_id(),
                session_id=context.session.session_id,
                machine=point.machine,
                disk=name,
                size_bytes=size_bytes,
                created=time.time(),
            ),
            number if point.disks else -1,
            number == 0 and bool(point.configuration),
        )
        for number, (name, size_bytes) in enumerate(names)
    )


class MachineCopy:
    """`errors` are those of points that could not be copied; `committed` are the new ones."""

    def __init__(
        self, context: Context, parts: CopyParts, work: Sequence[tuple[Point, tuple[PointTask, ...]]], name: str
    ) -> None:
        self.name = name
        self.errors: list[VbrError] = []
        self.committed: list[Point] = []
        self.totals = Totals()
        self._context = context
        self._parts = parts
        self._work = list(work)
        self._attempts: dict[str, int] = {}

    async def run(self) -> None:
        """Copy the points; raises what keeps the others from being copied as well."""
        while self._work:
            original, tasks = self._work[0]
            self._context.stop.check()
            try:
                await self._tried_again(original, tasks)
            except NotFound as error:
                self._parts.warnings.add(
                    f"point {original.point_id} went from the source meanwhile and is not copied: {error}",
                    machine=self.name,
                )
                self._close(tasks, "skipped", error)
            except _OF_ONE_POINT as error:
                self.errors.append(error)
                self._close(tasks, "failed", error)
            self._work.pop(0)

    def end(self, error: VbrError) -> None:
        """What is left of the work is not done, because of this."""
        self.errors.append(error)
        state: TaskState = "skipped" if isinstance(error, SessionStopped | OutsideWindow) else "failed"
        for _, tasks in self._work:
            self._close(tasks, state, error)

    def _close(self, tasks: Sequence[PointTask], state: TaskState, error: VbrError) -> None:
        for one in tasks:
            self._context.catalog.update_task(
                one.task.task_id,
                state=state,
                reason=error.code if state == "skipped" else "",
                error=error.info() if state == "failed" else None,
                ended=time.time(),
            )

    # --- one point ----------------------------------------------------------------------------------

    async def _tried_again(self, original: Point, tasks: Sequence[PointTask]) -> None:
        for attempt in range(1 + len(RETRY_WAITS_S)):
            try:
                await self._attempt(original, tasks, attempt)
            except VbrError as error:
                self._context.log.error(f"attempt {attempt + 1}: {error.code}: {error}", machine=self.name)
                stopped = self._context.stop.requested.is_set() or self._context.leases.lost.is_set()
                if not error.retryable or stopped or attempt == len(RETRY_WAITS_S):
                    raise
                self._context.log.info(f"tried again in {RETRY_WAITS_S[attempt]:.0f} s", machine=self.name)
                await pause(RETRY_WAITS_S[attempt], self._context.stop)
            else:
                return

    async def _attempt(self, original: Point, tasks: Sequence[PointTask], attempt: int) -> None:
        run = await self._parts.target.ready()
        committed = next((point for point in run.points if point.source_point_id == original.point_id), None)
        if committed is None:
            # A second attempt trusts nothing: what the target was thought to have may be what it lacks.
            base = None if attempt else self._base(run, original)
            results = await asyncio.gather(
                *(self._copy_disk(run, original, base, one) for one in tasks), return_exceptions=True
            )
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            committed = await run.commit(copy_of(original, self._parts.job, self._context.session))
        else:  # the target mover died when it had committed it, and its successor knows
            self._mark_done(tasks)
        self._note(committed)

    def _note(self, committed: Point) -> None:
        context = self._context
        self.committed.append(committed)
        context.catalog.add_point(self._parts.repository.repository_id, self._parts.target_directory, committed)
        context.events.point_committed(committed)
        context.log.info(
            f"restore point {committed.point_id}, a copy of {committed.source_point_id}, committed ({committed.kind})",
            machine=self.name,
        )

    def _base(self, run: TargetRun, original: Point) -> Point | None:
        """Return the copied point whose map is the nearest; None where something of the copy has to be sent anew."""
        if run.ready.damaged or run.warnings:
            return None
        points = [
            point
            for point in run.points
            if (point.plugin, point.machine_id) == (original.plugin, original.machine_id)
            and point.point_id in run.base_point_ids
        ]
        before = [point for point in points if point.sequence < original.sequence]
        return max(before or points, key=lambda point: point.sequence, default=None)

    # --- one disk -----------------------------------------------------------------------------------

    async def _copy_disk(self, run: TargetRun, original: Point, base: Point | None, one: PointTask) -> None:
        context, parts, task = self._context, self._parts, one.task
        known = _known_disk(original, base, one)
        if known is not None and base is not None and _is_known(original, base, known, one):
            self._mark_done([one])
            return
        demand = copy_demand(
            context.session,
            task,
            source=(parts.source, parts.source_server),
            target=(parts.repository, parts.repository_server),
            class_rank=class_of(parts.job),
        )
        grant = await context.leases.acquire(demand)
        try:
            self._attempts[task.task_id] = self._attempts.get(task.task_id, 0) + 1
            work = CopyWork(
                task_id=task.task_id,
                place=self._context.catalog.place(parts.source),
                repository_id=parts.source.repository_id,
                directory=parts.directory,
                point_id=original.point_id,
                endpoint=NO_ENDPOINT,
                disk_number=one.disk_number,
                configuration=one.configuration,
                base_root=known.root if known is not None else b"",
                base_size_bytes=known.size_bytes if known is not None else 0,
                encrypted=parts.encrypted,
            )
            await self._moved(run, work, task, server=grant.server)
        finally:
            context.leases.release(task.task_id)

    async def _moved(self, run: TargetRun, work: CopyWork, task: Task, *, server: str) -> None:
        context = self._context
        context.catalog.update_task(
            task.task_id,
            state="running",
            reason="",
            server=server,
            attempt=self._attempts[task.task_id],
            started=time.time(),
        )
        try:
            done = await send_disk(
                context,
                run,
                work,
                between=(self._parts.source_server, self._parts.repository_server),
                attempt=self._attempts[task.task_id],
                machine=self.name,
                disk=task.disk,
            )
        except VbrError as error:
            context.log.error(f"{error.code}: {error}", machine=self.name, disk=task.disk, task_id=task.task_id)
            context.catalog.update_task(task.task_id, state="pending", reason=error.code, error=error.info())
            raise error from error.__cause__
        self.totals = self.totals.plus(done.totals)
        context.catalog.update_task(
            task.task_id, state="done", reason="", error=None, totals=done.totals, ended=time.time()
        )

    def _mark_done(self, tasks: Sequence[PointTask]) -> None:
        """Nothing had to be moved for these."""
        for one in tasks:
            self._context.catalog.update_task(one.task.task_id, state="done", reason="", error=None, ended=time.time())


def _known_disk(original: Point, base: Point | None, one: PointTask) -> PointDisk | None:
    if base is None or one.disk_number < 0:
        return None
    wanted = original.disks[one.disk_number].disk_id
    return next((disk for disk in base.disks if disk.disk_id == wanted), None)


def _is_known(original: Point, base: Point, known: PointDisk, one: PointTask) -> bool:
    """Tell whether the copied point has all that the task would move: then no mover is started."""
    disk = original.disks[one.disk_number]
    same = (disk.root, disk.size_bytes) == (known.root, known.size_bytes)
    return same and (not one.configuration or original.configuration == base.configuration)
