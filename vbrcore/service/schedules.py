"""Schedules as they are asked for and shown."""

import time

import msgspec

from vbrcore.api import operations, types
from vbrcore.model.errors import InvalidValue
from vbrcore.service.jobs import find_job, job_view
from vbrcore.service.routes import Call, Routes
from vbrcore.service.schedule import check, first_run, preview
from vbrcore.service.scheduler import followed_jobs
from vbrcore.service.starts import check_no_cycle
from vbrcore.service.upcoming import local_moment
from vbrcore.service.values import moment

_MOST_MOMENTS = 1000


def add_routes(routes: Routes) -> None:
    routes.add(operations.JOB_SCHEDULE, _schedule)
    routes.add(operations.SCHEDULE_PREVIEW, _preview)


def _schedule(call: Call, request: types.JobSchedule) -> types.JobView:
    catalog = call.service.catalog
    now = time.time()
    schedule = msgspec.structs.replace(request.schedule, since=now)
    check(schedule)
    job = find_job(call, request.name)
    if schedule.after:
        if schedule.kind != "after":
            raise InvalidValue(f"a schedule of kind {schedule.kind} follows no job")
        schedule = msgspec.structs.replace(schedule, after=find_job(call, schedule.after).job_id)
        check_no_cycle(job.job_id, job.name, schedule.after, followed_jobs(catalog))
    if request.priority is not None:
        catalog.update_job(job.job_id, priority=request.priority)
    catalog.set_schedule(job.job_id, schedule, first_run(schedule, now))
    return job_view(call, job.job_id)


def _preview(call: Call, request: types.SchedulePreview) -> tuple[types.ScheduledMoment, ...]:
    """Moments of the clock only: when another job or this one ends is not known beforehand."""
    if not 1 <= request.count <= _MOST_MOMENTS:
        raise InvalidValue(f"count must be 1 to {_MOST_MOMENTS}, not {request.count}")
    job = find_job(call, request.name)
    next_run = call.service.catalog.next_runs().get(job.job_id)
    return tuple(
        types.ScheduledMoment(moment(at) or "", local_moment(at, job.schedule))
        for at in preview(job.schedule, next_run, request.count)
    )
