"""When and why a job is started next, and its schedule as people know it."""

from datetime import datetime

import msgspec

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import InUse, NotFound
from vbrcore.model.job import Job, Schedule
from vbrcore.model.zones import zone_named
from vbrcore.service.scheduler import facts_of
from vbrcore.service.starts import Start, next_start


def upcoming(catalog: Catalog, job: Job, service_started: float) -> Start | None:
    """Return the next start that can be foreseen."""
    next_run = catalog.next_runs().get(job.job_id)
    return next_start(facts_of(catalog, job, next_run, service_started)) if job.schedule.kind != "none" else None


def reason(start: Start | None, schedule: Schedule) -> str:
    """Say why it is started next, or what it waits for."""
    if start is not None:
        return start.why
    waits = {"after": f"after job {schedule.after}", "continuous": "continuous"}
    return waits.get(schedule.kind, "")


def shown_schedule(catalog: Catalog, schedule: Schedule) -> Schedule:
    """Return a schedule that names the job it follows; where that is gone, its id stays."""
    if not schedule.after:
        return schedule
    try:
        return msgspec.structs.replace(schedule, after=catalog.job(schedule.after).name)
    except NotFound:
        return schedule


def check_not_followed(catalog: Catalog, job: Job) -> None:
    """Raise `InUse` where another job runs after this one."""
    for other in catalog.jobs():
        if other.schedule.after == job.job_id:
            raise InUse(f"job {other.name} runs after job {job.name}: change its schedule first")


def local_moment(at: float, schedule: Schedule) -> str:
    """Return a moment as the clock in the schedule's zone shows it, with its distance from UTC."""
    return datetime.fromtimestamp(at, zone_named(schedule.zone)).isoformat()
