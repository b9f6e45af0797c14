"""Jobs: made, shown, started, stopped, scheduled, deleted."""

import msgspec

from vbrcore.api import jobs, operations, types
from vbrcore.catalog.catalog import Catalog
from vbrcore.chain.listing import delete_chain_files
from vbrcore.model.days import check_days
from vbrcore.model.errors import InvalidValue, JobAlreadyRunning, KeyNeeded, NotFound
from vbrcore.model.ids import new_id
from vbrcore.model.job import BLOCK_SIZES_BYTES, Fulls, Job, Schedule
from vbrcore.model.retention import check as check_retention
from vbrcore.model.session import JOB_CARE
from vbrcore.model.window import check_window
from vbrcore.model.zones import zone_named
from vbrcore.service.balancing import check_can_run
from vbrcore.service.copies import copy_source
from vbrcore.service.repositories import check_confirmed, find_repository
from vbrcore.service.routes import Call, Routes
from vbrcore.service.upcoming import check_not_followed, reason, shown_schedule, upcoming
from vbrcore.service.values import check_name, moment

_NOT_INSTALLED = (
    "no installed service runs, so nothing starts this job while nobody uses vbrcore: 'service install' changes that"
)


def add_routes(routes: Routes) -> None:
    routes.add(operations.JOB_CREATE, _create)
    routes.add(operations.JOB_LIST, _list)
    routes.add(operations.JOB_SHOW, _show)
    routes.add(operations.JOB_EDIT, _edit)
    routes.add(operations.JOB_RUN, _run)
    routes.add(operations.JOB_FULL, _full)
    routes.add(operations.JOB_STOP, _stop)
    routes.add(operations.JOB_RETENTION, _retention)
    routes.add(operations.JOB_FULLS, _fulls)
    routes.add(operations.JOB_UPKEEP, _upkeep)
    routes.add(operations.JOB_COMPACT, _compact)
    routes.add(operations.JOB_DELETE, _delete)


def find_job(call: Call, name: str) -> Job:
    """Return a job by name or id."""
    catalog = call.service.catalog
    try:
        return catalog.job_by_name(name)
    except NotFound as error:
        try:
            return catalog.job(name)
        except NotFound:
            raise error from None


def _create(call: Call, request: types.JobCreate) -> types.JobView:
    catalog = call.service.catalog
    check_name(request.name)
    if not request.machines or not all(request.machines):
        raise InvalidValue("a job needs at least one machine or pattern")
    if request.block_size_bytes not in BLOCK_SIZES_BYTES:
        allowed = ", ".join(map(str, BLOCK_SIZES_BYTES))
        raise InvalidValue(f"a block size of {request.block_size_bytes} bytes is not one of {allowed}")
    check_retention(request.retention)
    _check_fulls(request.fulls)
    repository = find_repository(call, request.repository)
    hypervisor_id = source_id = ""
    if request.from_repository:
        _check_copy_placement(request)
        source_id = copy_source(call, request, repository).repository_id
    else:
        if not request.hypervisor:
            raise InvalidValue("a job needs a hypervisor, or (a backup copy) another repository, to take machines from")
        check_can_run(repository, catalog.servers(), request.proxies)
        hypervisor_id = catalog.hypervisor_by_name(request.hypervisor).hypervisor_id
    if catalog.has_sealed_points(repository.repository_id):
        raise KeyNeeded(f"repository {repository.name} has encrypted chains: 'repository rescan' takes the passphrase")
    job = Job(
        job_id=new_id(),
        name=request.name,
        hypervisor_id=hypervisor_id,
        repository_id=repository.repository_id,
        machines=request.machines,
        exclude=request.exclude,
        block_size_bytes=request.block_size_bytes,
        compression=request.compression,
        quiesce=request.quiesce,
        retention=request.retention,
        per_machine=request.per_machine,
        fulls=request.fulls,
        source_repository_id=source_id,
        priority=request.priority,
        proxies=_proxies(catalog, request.proxies),
        wait_for_best=request.wait_for_best,
    )
    mapped = None
    if request.map_chain:
        from vbrcore.service.mapping import check_mapping  # noqa: PLC0415 - which stands on this module

        mapped = check_mapping(call, repository, job, request.map_chain)
        job = msgspec.structs.replace(job, directory=mapped.directory)
    catalog.add_job(job)
    if mapped is not None:
        mapped.adopt(catalog, job.job_id)
    return _view(call, job)


def _proxies(catalog: Catalog, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of servers, each once. Raises `NotFound`."""
    return tuple(dict.fromkeys(catalog.server_by_name(name).name for name in names))


def _check_copy_placement(request: types.JobCreate | jobs.JobEdit) -> None:
    if request.proxies or request.wait_for_best:
        raise InvalidValue("a backup copy is read beside its source: it has no proxies and no transport mode")


def _edit(call: Call, request: jobs.JobEdit) -> types.JobView:
    """Change what was named. Raises `CanNeverRun` where no listed proxy could take a disk."""
    catalog = call.service.catalog
    job = find_job(call, request.name)
    asked = {"priority": request.priority, "proxies": request.proxies, "wait_for_best": request.wait_for_best}
    changes = {name: value for name, value in asked.items() if value is not None}
    if not changes:
        raise InvalidValue("nothing is to be changed")
    if job.is_copy:
        _check_copy_placement(request)
    elif request.proxies is not None:
        changes["proxies"] = _proxies(catalog, request.proxies)
        check_can_run(catalog.repository(job.repository_id), catalog.servers(), request.proxies)
    catalog.update_job(job.job_id, **changes)
    return _view(call, find_job(call, job.job_id))


def _list(call: Call, _request: types.Nothing) -> tuple[types.JobView, ...]:
    return tuple(_view(call, job) for job in call.service.catalog.jobs())


def _show(call: Call, request: types.ByName) -> types.JobView:
    return _view(call, find_job(call, request.name))


def _run(call: Call, request: types.ByName) -> types.SessionStarted:
    job = find_job(call, request.name)
    asked: dict[str, object] = {"quick": True} if isinstance(request, jobs.JobRun) and request.quick else {}
    session = call.service.start_session(job.run_kind, job_id=job.job_id, name=job.name, request=asked)
    return types.SessionStarted(session.session_id, job.job_id)


def _full(call: Call, request: types.JobFull) -> types.SessionStarted:
    job = find_job(call, request.name)
    if job.is_copy:
        raise InvalidValue(f"job {job.name} is a backup copy: its source's points are what it has, and no machines")
    session = call.service.start_session("backup", job_id=job.job_id, name=job.name, request={"full": request.kind})
    return types.SessionStarted(session.session_id, job.job_id)


def _stop(call: Call, request: types.JobStop) -> types.Nothing:
    """The name is a job's or a session's id: sessions of any kind are stopped by it. Of a job it is the run, else the
    oldest session that looks after its chains (upkeep, retention, health check); never one that reads for somebody.
    """
    catalog = call.service.catalog
    try:
        job = find_job(call, request.name)
    except NotFound:
        session_id = catalog.session(request.name).session_id
    else:
        session = catalog.live_session_of(job.job_id) or next(
            (one for one in catalog.live_sessions() if one.job_id == job.job_id and one.kind in JOB_CARE), None
        )
        if session is None:
            raise NotFound(f"no session of job {job.name} runs")
        session_id = session.session_id
    catalog.request_stop(session_id, now=request.now)
    return types.Nothing()


def _retention(call: Call, request: types.JobRetention) -> types.JobView:
    check_retention(request.retention)
    job = find_job(call, request.name)
    call.service.catalog.update_job(job.job_id, retention=request.retention)
    return _view(call, find_job(call, job.job_id))


def _fulls(call: Call, request: types.JobFulls) -> types.JobView:
    _check_fulls(request.fulls)
    job = find_job(call, request.name)
    call.service.catalog.update_job(job.job_id, fulls=request.fulls)
    return _view(call, find_job(call, job.job_id))


def _check_fulls(fulls: Fulls) -> None:
    check_days(fulls.active)
    check_days(fulls.synthetic)
    zone_named(fulls.zone)


def _upkeep(call: Call, request: types.JobUpkeep) -> types.JobView:
    check_window(request.window)
    zone_named(request.window.zone)
    job = find_job(call, request.name)
    call.service.catalog.update_job(job.job_id, upkeep=request.window)
    return _view(call, find_job(call, job.job_id))


def _compact(call: Call, request: types.JobCompact) -> types.SessionStarted:
    job = find_job(call, request.name)
    work = "rewrite" if request.rewrite else "compact"
    session = call.service.start_session("upkeep", job_id=job.job_id, name=job.name, request={"work": work})
    return types.SessionStarted(session.session_id, job.job_id)


def _delete(call: Call, request: types.Remove) -> types.Nothing:
    check_confirmed(request)
    catalog = call.service.catalog
    job = find_job(call, request.name)
    check_not_followed(catalog, job)
    chains = catalog.chains_of(job.job_id) if request.with_backups else frozenset()
    repositories = {one: catalog.repository(one) for one, _ in chains}
    storages = {one: call.service.elsewhere.open(found) for one, found in repositories.items()}
    if (live := catalog.live_session_of(job.job_id)) is not None:
        raise JobAlreadyRunning(f"session {live.session_id} of job {job.name} still runs")
    # The job last: where its files cannot be deleted, nothing is forgotten.
    for repository_id, directory in sorted(chains):
        delete_chain_files(storages[repository_id], directory)
        catalog.replace_points(repository_id, job.job_id, directory, ())
    catalog.remove_job(job.job_id)
    return types.Nothing()


def job_view(call: Call, name: str) -> types.JobView:
    """Return a job, by name or id, as its users see it."""
    return _view(call, find_job(call, name))


def _view(call: Call, job: Job) -> types.JobView:
    catalog = call.service.catalog
    live = catalog.live_session_of(job.job_id)
    start, schedule = upcoming(catalog, job, call.service.started), shown_schedule(catalog, job.schedule)
    return types.JobView(
        job_id=job.job_id,
        name=job.name,
        hypervisor="" if job.is_copy else catalog.hypervisor(job.hypervisor_id).name,
        repository=catalog.repository(job.repository_id).name,
        machines=job.machines,
        exclude=job.exclude,
        block_size_bytes=job.block_size_bytes,
        compression=job.compression,
        quiesce=job.quiesce,
        schedule=schedule,
        retention=job.retention,
        per_machine=job.per_machine,
        fulls=job.fulls,
        upkeep=job.upkeep,
        last_result=catalog.last_results().get(job.job_id),
        next_run=moment(start.at if start else None),
        next_reason=reason(start, schedule),
        priority=job.priority,
        running=live.session_id if live else None,
        warnings=_warnings(call, job.schedule),
        from_repository=catalog.repository(job.source_repository_id).name if job.is_copy else "",
        health=job.health,
        directory=job.directory,
        proxies=job.proxies,
        wait_for_best=job.wait_for_best,
    )


def _warnings(call: Call, when: Schedule) -> tuple[str, ...]:
    if when.kind == "none" or not call.service.on_demand:
        return ()
    return (_NOT_INSTALLED,)
