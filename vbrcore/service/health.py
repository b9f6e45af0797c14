"""Health checks: asked for, and scheduled."""

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from vbrcore.api import operations, types
from vbrcore.model.days import check_days
from vbrcore.model.errors import InvalidValue
from vbrcore.service.jobs import find_job, job_view
from vbrcore.service.routes import Call, Routes


def add_routes(routes: Routes) -> None:
    routes.add(operations.HEALTH_CHECK, _check)
    routes.add(operations.JOB_HEALTH, _schedule)


def _check(call: Call, request: types.HealthCheck) -> types.SessionStarted:
    job = find_job(call, request.name)
    if request.point:
        stored = call.service.catalog.point(request.point)
        if (stored.repository_id, stored.directory) not in call.service.catalog.chains_of(job.job_id):
            raise InvalidValue(f"point {request.point} is not one of job {job.name}")
    session = call.service.start_check(job, deep=request.deep, point=request.point)
    return types.SessionStarted(session.session_id, job.job_id)


def _schedule(call: Call, request: types.JobHealth) -> types.JobView:
    check_days(request.health.days)
    try:
        ZoneInfo(request.health.zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InvalidValue(f"there is no time zone {request.health.zone!r}") from error
    job = find_job(call, request.name)
    call.service.catalog.update_job(job.job_id, health=request.health)
    return job_view(call, job.job_id)
