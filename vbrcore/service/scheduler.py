"""Starts jobs by themselves: gathers what is known of each, has it decided, and does it."""

import logging
from collections.abc import Callable, Mapping

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import NotFound
from vbrcore.model.job import Job
from vbrcore.service.starts import Facts, Start, decide, next_start, retry_follows

_log = logging.getLogger(__name__)

StartJob = Callable[[Job, dict[str, object]], None]


class Scheduler:
    """`run_due` is called every second. It looks at the jobs only when the catalog changed or a moment has come."""

    def __init__(self, catalog: Catalog, start: StartJob, service_started: float) -> None:
        self._catalog = catalog
        self._start = start
        self._service_started = service_started
        self._version = (-1, -1)
        self._next = 0.0

    def run_due(self, now: float) -> bool:
        """Start the jobs that are due; return whether any moment was acted on."""
        version = self._catalog.change_counts()
        if version == self._version and now < self._next:
            return False
        acted = [self._run(job, next_run, now) for job, next_run in self._scheduled()]
        self._version = version  # as it was before: what was done just now is looked at again
        self._next = self._earliest(now)
        return any(acted)

    def _scheduled(self) -> list[tuple[Job, float | None]]:
        moments = self._catalog.next_runs()
        return [(job, moments.get(job.job_id)) for job in self._catalog.jobs() if job.schedule.kind != "none"]

    def _run(self, job: Job, next_run: float | None, now: float) -> bool:
        facts = facts_of(self._catalog, job, next_run, self._service_started)
        decision = decide(facts, now)
        moves = decision.next_run != next_run
        if moves and not self._catalog.move_next_run(job.job_id, next_run, decision.next_run):
            return False  # it was scheduled anew meanwhile
        if decision.start is not None:
            _log.info("job %s is due: %s", job.name, decision.start.why)
            self._start(job, _request(self._catalog, facts, decision.start))
        return decision.start is not None or moves

    def _earliest(self, now: float) -> float:
        """A moment that has come and is not acted on waits for a window, or is looked at with the next change."""
        found = (
            next_start(facts_of(self._catalog, job, next_run, self._service_started))
            for job, next_run in self._scheduled()
        )
        return min((start.at for start in found if start is not None and start.at > now), default=float("inf"))


def facts_of(catalog: Catalog, job: Job, next_run: float | None, service_started: float) -> Facts:
    """Gather what `vbrcore.service.starts` decides by."""
    own = catalog.last_run(job.job_id)
    other, name, retried = None, "", False
    if job.schedule.after:
        try:
            followed = catalog.job(job.schedule.after)
        except NotFound:
            _log.warning("job %s follows a job that is gone", job.name)
        else:
            name, other = followed.name, catalog.last_run(followed.job_id, ended=True)
            retried = other is not None and retry_follows(followed.schedule, other)
    return Facts(
        schedule=job.schedule,
        next_run=next_run,
        own=own,
        other=other,
        other_name=name,
        other_retried=retried,
        service_started=service_started,
    )


def followed_jobs(catalog: Catalog) -> Mapping[str, str]:
    """Return whom each job follows, by id; "": nobody."""
    return {job.job_id: job.schedule.after for job in catalog.jobs()}


def _request(catalog: Catalog, facts: Facts, start: Start) -> dict[str, object]:
    """A retry leaves out the machines that have their point from an earlier run of the series."""
    if not start.retry or facts.own is None:
        return {}
    before = facts.own.request.get("without", ())
    done = set(before) if isinstance(before, list | tuple) else set()
    for stored in catalog.points(facts.own.job_id):
        if stored.point.session_id == facts.own.session_id:
            done.add(stored.point.machine_id)
    return {"retry": start.retry, "without": sorted(map(str, done))}
