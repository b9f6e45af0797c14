"""One chain in a session that writes it: its lease, its target mover, and what is done to it in the end."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import msgspec

from vbrcore.catalog.clock import read_clock
from vbrcore.chain.givenback import GivenBack
from vbrcore.manager.chains import Chain, target_work
from vbrcore.manager.context import Context, Warnings
from vbrcore.manager.demands import chain_demand, class_of, upkeep_demand
from vbrcore.manager.keys import RepositoryKeys
from vbrcore.manager.retention import apply_retention, newest_of
from vbrcore.manager.target import Target, TargetRun
from vbrcore.model.days import last_begun
from vbrcore.model.errors import SessionStopped, VbrError
from vbrcore.model.inventory import Repository
from vbrcore.model.job import Job
from vbrcore.model.window import is_open
from vbrcore.model.zones import zone_named
from vbrcore.storage.capabilities import STORAGE_CLASSES

T = TypeVar("T")


class Plan(msgspec.Struct, frozen=True):
    """What a session does with a chain beside what its kind says. `full`: "active" or "synthetic", asked for by hand.

    `may_fill`: also into the repository's reserve. `any_time`: upkeep outside the job's window too; `force`: also where
    little can be dead. `trust_clock`: an administrator has confirmed it.
    """

    full: str = ""
    may_fill: bool = False
    any_time: bool = False
    force: bool = False
    trust_clock: bool = False


class Owner(msgspec.Struct, frozen=True):
    """Whose chains a session writes, and where."""

    job: Job
    repository: Repository
    keys: RepositoryKeys
    warnings: Warnings


class JobChain:
    """`acquire`, then `ready`; `finish` when no source sends any more; `kill` in any case."""

    def __init__(self, context: Context, owner: Owner, chain: Chain, plan: Plan) -> None:
        self.chain = chain
        self.report: dict[str, object] = {}
        self._context = context
        self._job = job = owner.job
        self._repository = repository = owner.repository
        self._warnings = owner.warnings
        self._plan = plan
        self._now = context.session.created
        active_s = last_begun(job.fulls.active, self._now, zone_named(job.fulls.zone))
        work = target_work(
            context,
            repository,
            chain,
            may_fill=plan.may_fill,
            new_generation=plan.full == "active",
            fresh_after=active_s,
        )
        self.target = Target(context.crew, work, context.log, owner.keys, server=repository.server)
        self._newest_before: float | None = None
        self._started: float | None = None  # when the generation was begun that the session found
        self._acquired = False
        self._live_bytes: int | None = None  # as a mark has found, in this session

    @property
    def directory(self) -> str:
        return self.chain.directory

    async def acquire(self) -> None:
        """Take the chain for the session. Idempotent."""
        if not self._acquired:
            rank = class_of(self._job)
            demand = chain_demand(self._context.session, self._repository, self.directory, class_rank=rank)
            await self._context.leases.acquire(demand)
            self._acquired = True

    async def ready(self) -> TargetRun:
        """Return the living target mover. What the files say is reconciled with the catalog when it first is."""
        run = await self.target.ready()
        if self._started is None:
            self._started = run.ready.generation_started
            self._newest_before = newest_of(run)
            for warning in run.warnings:  # files of the chain that are missing or unreadable
                self._warnings.add(warning)
            self._note_class(run.ready.storage_class)
            self._note_points(run)
        return run

    async def finish(self, present: frozenset[str] | None, *, retain: bool = True) -> None:
        """Full, retention, space, seal. What fails of the first three is a warning: the next session does it.

        `present`: ids of the machines of an inventory that was read in full. `retain`: whether points may go.
        """
        run = self.target.running
        if run is None:
            return
        if run.lost is None and not self._ending:
            try:
                await self._keep(run, present, retain=retain)
            except SessionStopped as error:
                self._context.log.info(f"upkeep of {self.directory} ends: {error}")
                if self._context.stop.now.is_set():
                    return  # the target is at work on it, and is killed: the next session goes on
            except VbrError as error:
                self._warnings.add(f"upkeep of {self.directory} was not completed, the next session goes on: {error}")
        if run.lost is None:
            self._note_points(run)
            await self.target.seal()
            self._context.log.info("backup file sealed")
        self._note_live()

    async def compact(self, *, rewrite: bool) -> None:
        """Have what lives moved into as few files as it needs."""
        run = await self.ready()
        async with self._slot():
            self._note_done("compacted", await self._unless_stopped(run.compact(rewrite=rewrite)))

    async def kill(self) -> None:
        await self.target.kill()

    # --- upkeep -----------------------------------------------------------------------------------

    @property
    def _ending(self) -> bool:
        return self._context.stop.requested.is_set() or self._context.leases.lost.is_set()

    async def _keep(self, run: TargetRun, present: frozenset[str] | None, *, retain: bool) -> None:
        window = self._job.upkeep
        may = self._plan.any_time or is_open(window, time.time(), zone_named(window.zone))
        if self._synthetic_full_due(in_window=may):
            async with self._slot():
                self._note_done("synthetic_full", await self._unless_stopped(run.make_full()))
            self._note_points(run)
        if retain:
            await self._retain(run, present)
        if not may:
            self.report["postponed"] = True
            self._context.log.info(f"upkeep waits for its window, {window.begin} to {window.end} {window.zone}")
            return
        async with self._slot():
            self._note_done("given_back", await self._unless_stopped(run.give_back(force=self._plan.force)))

    def _synthetic_full_due(self, *, in_window: bool) -> bool:
        """What was asked for by hand waits for no window. A generation that this session began is full as it is."""
        if not self._started:
            return False
        if self._plan.full == "synthetic":
            return True
        fulls = self._job.fulls
        return in_window and self._started < last_begun(fulls.synthetic, self._now, zone_named(fulls.zone))

    async def _retain(self, run: TargetRun, present: frozenset[str] | None) -> None:
        catalog = self._context.catalog
        clock = read_clock()
        doubt = "" if self._plan.trust_clock else catalog.clock_doubt(clock, self._newest_before)
        await apply_retention(self._context, self._job, run, self._warnings, present=present, doubt=doubt)
        if not doubt:
            catalog.set_clock_seen(clock)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work of the target. Raises `SessionStopped` where the session must end now: it can take hours."""
        doing = asyncio.create_task(work)
        stopping = asyncio.create_task(self._context.stop.now.wait())
        try:
            await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                self._context.stop.check()
            return await doing
        finally:
            stopping.cancel()
            doing.cancel()

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Hold a slot of the repository meanwhile."""
        context = self._context
        server = context.catalog.server_by_name(self._repository.server)
        rank = class_of(self._job)
        demand = upkeep_demand(context.session, self._repository, server, self.directory, class_rank=rank)
        await context.leases.acquire(demand)
        try:
            yield
        finally:
            context.leases.release(demand.scope)

    # --- what is noted ----------------------------------------------------------------------------

    def _note_points(self, run: TargetRun) -> None:
        self._context.catalog.replace_points(
            self._repository.repository_id, self._job.job_id, self.directory, run.points
        )

    def _note_class(self, found: str) -> None:
        """A storage that can do less than before is a warning, never silent."""
        before = self._context.catalog.repository(self._repository.repository_id).storage_class
        if not found or found == before:
            return
        if before and STORAGE_CLASSES.index(found) > STORAGE_CLASSES.index(before):
            self._warnings.add(
                f"repository {self._repository.name} has lost a capability of its storage: its class was {before}"
                f" and is {found} now"
            )
        self._context.catalog.update_repository(self._repository.repository_id, storage_class=found)

    def _note_done(self, what: str, done: GivenBack | None) -> None:
        if done is None:
            return
        for warning in done.warnings:
            self._warnings.add(warning)
        if what == "given_back" and not done.warnings:
            self._live_bytes = done.live_bytes
        self.report[what] = msgspec.to_builtins(done)
        self._context.log.info(
            f"{what.replace('_', ' ')}: {done.freed_bytes} bytes freed, {done.moved_bytes} moved,"
            f" {done.unlinked_files} files removed, {done.clone_calls} clone calls"
        )

    def _note_live(self) -> None:
        catalog, repository_id = self._context.catalog, self._repository.repository_id
        if self._live_bytes is not None:
            catalog.note_live_bytes(repository_id, self.directory, self._live_bytes)
        else:
            catalog.note_appended(repository_id, self.directory, self.target.stored_bytes)
