"""A backup copy: points of another repository as they are stored there, one chain after the other."""

import asyncio
import time
from collections.abc import Sequence
from itertools import groupby

import msgspec

from vbrcore.catalog.catalog import StoredPoint
from vbrcore.chain.identity import ChainIdentity
from vbrcore.chain.reader import ChainReader
from vbrcore.manager.chains import Chain
from vbrcore.manager.context import Context, Warnings, pause
from vbrcore.manager.copyplan import (
    check_same_encryption,
    chosen_points,
    comes_from,
    copy_selection,
    wanted_points,
)
from vbrcore.manager.demands import chain_demand, class_of
from vbrcore.manager.gate import Gate
from vbrcore.manager.jobchain import JobChain, Owner, Plan
from vbrcore.manager.keys import CopyKeys, OpenChain, RepositoryKeys
from vbrcore.manager.machine import RETRY_WAITS_S
from vbrcore.manager.machinecopy import CopyParts, MachineCopy, PointTask, point_tasks
from vbrcore.manager.report import Outcome
from vbrcore.manager.sidebyside import side_by_side
from vbrcore.manager.target import TargetRun
from vbrcore.model.errors import (
    LeaseLost,
    MachineNotFound,
    NotFound,
    OutsideWindow,
    RepositoryNotMounted,
    SessionStopped,
    VbrError,
)
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Repository
from vbrcore.model.job import Job
from vbrcore.model.point import Point
from vbrcore.model.session import Task, Totals

# After these no other chain can be copied either.
_ENDING = (SessionStopped, OutsideWindow, LeaseLost, RepositoryNotMounted)


async def run_copy(context: Context) -> Outcome:
    """Run a session of kind `copy`. Raises what keeps the session as a whole from running."""
    job = context.catalog.job(context.session.job_id)
    gate = Gate(job.schedule, context.session, context.stop, context.log, ends_session=True)
    gate.start()
    try:
        return await _copy_all(context, job)
    finally:
        await gate.close()


async def _copy_all(context: Context, job: Job) -> Outcome:
    catalog, session = context.catalog, context.session
    encrypted = catalog.is_encrypted(job.repository_id)
    place = job.chain_directory(encrypted=encrypted)
    repository = await context.gateways.repository(job.repository_id, place)
    source = await context.gateways.repository(job.source_repository_id)
    check_same_encryption(source, repository, (catalog.is_encrypted(source.repository_id), encrypted))
    warnings = Warnings(context.log)
    stored = catalog.points()
    here = [one for one in stored if one.repository_id == job.source_repository_id]
    errors: list[VbrError] = list(_missing_machines(context, job, here, warnings))
    # The place of all its chains, for the whole session: none begins while e.g. the passphrase is being changed.
    await context.leases.acquire(chain_demand(session, repository, place, class_rank=class_of(job)))
    catalog.update_session(session.session_id, state="running")
    known = {one.point.point_id: one for one in stored}
    totals = Totals()
    report: dict[str, object] = {}
    for directory, points in _by_directory(here).items():
        if not chosen_points(job, [one.point for one in points]):
            continue
        if any(comes_from(one, known, repository.repository_id) for one in points):
            context.log.info(f"{directory} is a copy of a chain of {repository.name}: it is not copied back")
            continue
        chain = ChainCopy(context, job, directory, warnings, between=(source, repository))
        try:
            context.stop.check()
            await chain.run()
        except VbrError as error:
            context.log.error(f"{directory}: {error.code}: {error}")
            errors.append(error)
            if isinstance(error, _ENDING):
                break
        finally:
            totals = totals.plus(chain.totals)
            errors += chain.errors
            if chain.report:
                report[chain.copy_directory] = chain.report
    stopped = next((error for error in errors if isinstance(error, SessionStopped)), None)
    return Outcome(
        totals=totals,
        warnings=warnings.all(),
        error=(stopped or errors[0]).info() if errors else None,
        failures=len(errors),
        report={"upkeep": report},
    )


def _by_directory(stored: Sequence[StoredPoint]) -> dict[str, list[StoredPoint]]:
    ordered = sorted(stored, key=lambda one: one.directory)
    return {directory: list(points) for directory, points in groupby(ordered, key=lambda one: one.directory)}


def _missing_machines(
    context: Context, job: Job, here: Sequence[StoredPoint], warnings: Warnings
) -> list[MachineNotFound]:
    """A machine named in the job that has no point is a failed task, a pattern that matches none a warning."""
    selection = copy_selection(job, [one.point for one in here], context.catalog.machines_of(job.job_id))
    for pattern in selection.unmatched:
        warnings.add(f"the pattern {pattern} matches no machine with a point in the source")
    names = (*selection.missing, *selection.vanished)
    errors = [MachineNotFound(f"the source has no point of {name}") for name in names]
    now = time.time()
    context.catalog.add_tasks(
        [
            Task(
                task_id=new_id(),
                session_id=context.session.session_id,
                machine=name,
                disk="",
                state="failed",
                created=now,
                ended=now,
                error=error.info(),
            )
            for name, error in zip(names, errors, strict=True)
        ]
    )
    for error in errors:
        context.log.error(str(error))
    return errors


class _Original(msgspec.Struct, frozen=True):
    """A chain of the source as its files say it is, points opened, those of the job's machines only."""

    chain_id: bytes
    chain: OpenChain
    points: list[Point]


class ChainCopy:
    """One chain of the source, and its copy: `errors` are those of single machines and points."""

    def __init__(
        self,
        context: Context,
        job: Job,
        directory: str,
        warnings: Warnings,
        *,
        between: tuple[Repository, Repository],
    ) -> None:
        catalog = context.catalog
        self.errors: list[VbrError] = []
        self.report: dict[str, object] = {}
        self._context = context
        self._job = job
        self._directory = directory
        self._warnings = warnings
        self._source, self._repository = between
        self._encrypted = catalog.is_encrypted(self._repository.repository_id)
        self.copy_directory = f"{job.chain_directory(encrypted=self._encrypted)}/{directory}"
        self._chains: list[JobChain] = []
        self._moved = Totals()
        self._committed = 0

    @property
    def totals(self) -> Totals:
        """What was read and sent, and what all target movers have stored."""
        stored = sum(chain.target.stored_bytes for chain in self._chains)
        return msgspec.structs.replace(self._moved, stored_bytes=stored)

    async def run(self) -> None:
        """Copy what is lacking; then what any job's chain has done to it: retention by the copy's own policy, space.

        Raises what keeps the chain as a whole from being copied, e.g. `ChainDiffers`, `WrongPassphrase`.
        """
        original = await self._original()
        if original is None or not original.points:
            return
        try:
            await self._copy(original)
        finally:
            for chain in self._chains:
                await chain.kill()

    async def _original(self) -> _Original | None:
        """Return what is there to copy; None where the chain is gone."""
        try:
            identity, points, problems = await asyncio.to_thread(self._look)
        except NotFound as error:
            self._warnings.add(f"not copied: {error}")
            return None
        keys = RepositoryKeys(self._context.catalog, self._source.repository_id)
        chain = await keys.chain(identity)
        opened, spoilt = chain.all_opened(points)
        for warning in (*problems, *spoilt):
            self._warnings.add(f"source: {warning}")
        return _Original(identity.chain_id, chain, chosen_points(self._job, opened))

    async def _copy(self, original: _Original) -> None:
        size_bytes = original.points[-1].block_size_bytes
        chain = self._chain(original, size_bytes)
        await chain.acquire()
        run = await self._opened(chain)
        wanted = wanted_points(original.points, run.points, self._job, time.time())
        self._context.log.info(
            f"{self._directory}: {len(original.points)} points, {len(run.points)} in the copy,"
            f" {len(wanted)} are to be copied"
        )
        for block_size_bytes, points in groupby(wanted, key=lambda point: point.block_size_bytes):
            if block_size_bytes != size_bytes:  # a generation has blocks of one size
                await chain.target.seal()
                size_bytes = block_size_bytes
                chain = self._chain(original, size_bytes)
                await self._opened(chain)
            await self._copy_points(chain, list(points))
        await chain.finish(None, retain=self._committed > 0)
        self.report = chain.report

    def _chain(self, original: _Original, block_size_bytes: int) -> JobChain:
        job, catalog = self._job, self._context.catalog
        keys = CopyKeys(catalog, self._repository.repository_id, original.chain)
        place = Chain(self.copy_directory, job.job_id, job.name, block_size_bytes, chain_id=original.chain_id)
        chain = JobChain(self._context, Owner(job, self._repository, keys, self._warnings), place, Plan())
        self._chains.append(chain)
        return chain

    async def _opened(self, chain: JobChain) -> TargetRun:
        """Start the target mover; a chain that a lost writer still holds, and a mover that dies, are tried again."""
        context = self._context
        for wait_s in RETRY_WAITS_S:
            try:
                return await chain.ready()
            except VbrError as error:
                if not error.retryable or isinstance(error, RepositoryNotMounted):
                    raise
                context.log.warning(f"{error.code}: {error}; tried again in {wait_s:.0f} s")
            await pause(wait_s, context.stop)
            context.stop.check()
        return await chain.ready()

    async def _copy_points(self, chain: JobChain, points: Sequence[Point]) -> None:
        context = self._context
        parts = CopyParts(
            job=self._job,
            source=self._source,
            source_server=context.catalog.server_by_name(self._source.server),
            repository=self._repository,
            repository_server=context.catalog.server_by_name(self._repository.server),
            directory=self._directory,
            target_directory=self.copy_directory,
            encrypted=self._encrypted,
            target=chain.target,
            warnings=self._warnings,
        )
        work: dict[tuple[str, str], list[tuple[Point, tuple[PointTask, ...]]]] = {}
        for point in points:
            work.setdefault((point.plugin, point.machine_id), []).append((point, point_tasks(context, point)))
        context.catalog.add_tasks([one.task for mine in work.values() for _, tasks in mine for one in tasks])
        copies = {
            f"{plugin}/{machine_id}": MachineCopy(context, parts, mine, mine[-1][0].machine)
            for (plugin, machine_id), mine in work.items()
        }
        failed = await side_by_side(context, {name: copy.run() for name, copy in copies.items()})
        for name, copy in copies.items():
            if name in failed:
                copy.end(failed[name])
            self._moved = self._moved.plus(copy.totals)
            self._committed += len(copy.committed)
            self.errors += copy.errors

    def _look(self) -> tuple[ChainIdentity, tuple[Point, ...], tuple[str, ...]]:
        """Return which chain it is, its points as they stand in its files, and what is wrong with these.

        Raises `NotFound`, `FormatInvalid`, and what the storage raises.
        """
        with ChainReader.open(self._context.storages.open(self._source), self._directory) as reader:
            identity = ChainIdentity(reader.chain_id, reader.encrypted, key_slots=reader.key_slots)
            return identity, reader.points, reader.warnings
