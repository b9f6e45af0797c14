"""A health check: movers read all that a job's chains store, and what is bad is named, marked and reported."""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from vbrcore.api.types import HealthCheck
from vbrcore.balancer.demand import CLASS_REGULAR
from vbrcore.chain.diagnosis import Diagnosis
from vbrcore.chain.files import file_names
from vbrcore.chain.listing import list_chains
from vbrcore.manager.chains import Chain
from vbrcore.manager.context import Context, Warnings
from vbrcore.manager.demands import read_demand
from vbrcore.manager.findings import ChainReport, damage_of, lost_report, report_of, sentences
from vbrcore.manager.keys import RepositoryKeys
from vbrcore.manager.marking import mark
from vbrcore.manager.reads import until_stopped
from vbrcore.manager.report import Outcome
from vbrcore.manager.target import TargetRun
from vbrcore.model.errors import DamageFound, FormatInvalid, InvalidValue, NotFound, ProtocolError, VbrError
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Repository
from vbrcore.model.job import Job
from vbrcore.model.session import Task, Totals
from vbrcore.mover.messages import Examined, ExamineWork

_MOST_WARNINGS = 20


class Place(msgspec.Struct, frozen=True):
    """A chain that is checked. `points`: only what these reach; `expected_bytes`: what its files take."""

    repository: Repository
    directory: str
    points: tuple[str, ...] = ()
    expected_bytes: int = 0


async def run_health(context: Context) -> Outcome:
    """Run a session of kind `health`. Damage is its error, and its report says what there is."""
    catalog, session = context.catalog, context.session
    request = msgspec.convert(session.request, HealthCheck)
    job = catalog.job(session.job_id)
    warnings = Warnings(context.log)
    places = await _places(context, job, request.point)
    catalog.update_session(session.session_id, state="running")
    results = await asyncio.gather(
        *(examine(context, job, place, deep=request.deep) for place in places), return_exceptions=True
    )
    errors, reports, totals = list[VbrError](), list[ChainReport](), Totals()
    for place, result in zip(places, results, strict=True):
        # Of what is known to be there nothing can be read; what was deleted meanwhile is not known any more.
        if isinstance(result, FormatInvalid | NotFound) and (lost := _lost(context, place, result)) is not None:
            reports.append(lost)
            continue
        if isinstance(result, VbrError):
            errors.append(result)
            continue
        if isinstance(result, BaseException):
            raise result
        totals = totals.plus(result.totals)
        marked = await _mark(context, job, place, result.diagnosis, warnings)
        reports.append(_report(context, place, result, marked))
    report = {"deep": request.deep, "chains": [msgspec.to_builtins(one) for one in reports]}
    catalog.update_session(session.session_id, report=catalog.session(session.session_id).report | report)
    damaged = [one for one in reports if not one.is_clean]
    for line in sentences(damaged):
        context.log.error(line)
    if damaged:
        errors.append(_damage_found(damaged))
    return Outcome(
        totals=totals, warnings=warnings.all(), error=errors[-1].info() if errors else None, failures=len(errors)
    )


async def examine(context: Context, job: Job, place: Place, *, deep: bool = False, maps_only: bool = False) -> Examined:
    """Have a mover examine one chain, under a repository slot. Raises what keeps it from being read."""
    catalog, repository = context.catalog, place.repository
    keys = RepositoryKeys(catalog, repository.repository_id)
    task = Task(
        task_id=new_id(),
        session_id=context.session.session_id,
        machine=job.name,
        disk=place.directory,
        size_bytes=place.expected_bytes,
        created=time.time(),
    )
    catalog.add_tasks([task])
    work = ExamineWork(
        task_id=task.task_id,
        place=catalog.place(repository),
        repository_id=repository.repository_id,
        directory=place.directory,
        point_ids=place.points,
        deep=deep,
        maps_only=maps_only,
        encrypted=keys.encrypted,
    )
    try:
        server = catalog.server_by_name(repository.server)
        demand = read_demand(context.session, task, repository, server, class_rank=CLASS_REGULAR)
        await context.leases.acquire(demand)
        catalog.update_task(
            task.task_id, state="running", reason="", server=server.name, attempt=1, started=time.time()
        )
        try:
            done = await until_stopped(context, task, work, keys, server=server.name)
        finally:
            context.leases.release(task.task_id)
        if not isinstance(done, Examined):
            raise ProtocolError(f"{place.directory}: the mover said {type(done).__name__} for an examination")
    except VbrError as error:
        catalog.update_task(task.task_id, state="failed", error=error.info(), reason="", ended=time.time())
        context.log.error(f"{error.code}: {error}", machine=task.machine, disk=task.disk, task_id=task.task_id)
        raise
    catalog.update_task(task.task_id, state="done", totals=done.totals, reason="", error=None, ended=time.time())
    return done


async def report_losses(context: Context, job: Job, place: Place, run: TargetRun | None, warnings: Warnings) -> None:
    """After a backup into a chain with damage: say what could not be read again, in warnings and in the report."""
    catalog = context.catalog
    known = [one for one in catalog.points_in(place.repository.repository_id, place.directory) if one.damage]
    if not known and (run is None or not (run.ready.damaged or run.ready.warnings)):
        return
    try:
        done = await examine(context, job, place, maps_only=True)
    except VbrError as error:
        warnings.add(f"which points are damaged is not known: {error}")
        return
    report = _report(context, place, done, 0)
    lines = [f"still damaged, and not to be had from the machines: {line}" for line in sentences([report], files=False)]
    for line in lines[:_MOST_WARNINGS]:
        warnings.add(line)
    if len(lines) > _MOST_WARNINGS:
        warnings.add(f"{len(lines) - _MOST_WARNINGS} more points or files are damaged: see the session's report")
    if not report.is_clean:
        before = catalog.session(context.session.session_id).report
        lost = [*before.get("chains", ()), msgspec.to_builtins(report)]  # type: ignore[misc]
        catalog.update_session(context.session.session_id, report=before | {"chains": lost})


async def _places(context: Context, job: Job, point_id: str) -> list[Place]:
    """Return the job's chains: those that hold points of it, and those whose files stand where it writes."""
    catalog = context.catalog
    found = set(catalog.chains_of(job.job_id))
    if point_id:
        stored = catalog.point(point_id)
        if (stored.repository_id, stored.directory) not in found:
            raise InvalidValue(f"point {point_id} is not one of job {job.name}")
        repository = await context.gateways.repository(stored.repository_id, stored.directory)
        return [Place(repository, stored.directory, (point_id,))]
    wanted = sorted({job.repository_id, *(one for one, _ in found)})
    repositories = {one: await context.gateways.repository(one) for one in wanted}
    return await asyncio.to_thread(_places_in, context, job, repositories, found)


def _places_in(
    context: Context, job: Job, repositories: dict[str, Repository], found: set[tuple[str, str]]
) -> list[Place]:
    catalog = context.catalog
    storages = {one: context.storages.open(row) for one, row in repositories.items()}
    base = job.chain_directory(encrypted=catalog.is_encrypted(job.repository_id))
    for directory in list_chains(storages[job.repository_id]):
        if directory == base or directory.startswith(f"{base}/"):
            found.add((job.repository_id, directory))
    if not found:
        raise NotFound(f"job {job.name} has no backups yet")
    places = []
    for repository_id, directory in sorted(found):
        storage = storages[repository_id]
        size_bytes = sum(storage.size(name) for name in file_names(storage, directory))
        places.append(Place(repositories[repository_id], directory, (), size_bytes))
    return places


async def _mark(context: Context, job: Job, place: Place, diagnosis: Diagnosis, warnings: Warnings) -> int:
    """Name what is bad in the files' lists; where that cannot be done the next session does not heal it."""
    if not diagnosis.marks and not diagnosis.bad_tables:
        return 0
    chain = Chain(place.directory, job.job_id, "", job.block_size_bytes)
    try:
        return await mark(context, place.repository, chain, diagnosis)
    except VbrError as error:
        warnings.add(
            f"{place.directory}: the damage could not be marked, so the next session will not heal it: {error}"
        )
        return 0


def _report(context: Context, place: Place, done: Examined, marked: int) -> ChainReport:
    """Put names to what was found, and let the catalog know which points are not whole."""
    catalog, repository = context.catalog, place.repository
    known = {one.point.point_id: one for one in catalog.points_in(repository.repository_id, place.directory)}
    report = report_of(repository.name, place.directory, done, known, marked)
    damage = damage_of(report)
    if place.points:  # what else is damaged was not looked for
        damage = {point_id: one.damage for point_id, one in known.items() if one.damage} | damage
    catalog.set_damage(repository.repository_id, place.directory, damage)
    return report


def _lost(context: Context, place: Place, error: VbrError) -> ChainReport | None:
    """Return the report of a chain, or of the one point to be checked, that is not there; None: nobody misses it."""
    known = context.catalog.points_in(place.repository.repository_id, place.directory)
    lost = [one.point for one in known if not place.points or one.point.point_id in place.points]
    if not lost:
        return None
    report = lost_report(place.repository.name, place.directory, str(error), lost)
    damage = {one.point.point_id: one.damage for one in known if one.damage} | damage_of(report)
    context.catalog.set_damage(place.repository.repository_id, place.directory, damage)
    return report


def _damage_found(damaged: Sequence[ChainReport]) -> DamageFound:
    lines = sentences(damaged)
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return DamageFound(f"{lines[0]}{more}")
