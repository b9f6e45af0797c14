"""Health checks that are due: after a job's session, when a day of the job's rule has begun since the last check."""

import logging
import time
from collections.abc import Callable
from zoneinfo import ZoneInfo

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.days import is_due
from vbrcore.model.errors import VbrError
from vbrcore.model.job import Job
from vbrcore.model.session import JOB_RUNS

_log = logging.getLogger(__name__)

_PATIENCE_S = 60.0  # a check that could not be started is tried again after so long


class Checks:
    """`start_due` is called again and again by one thread."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._not_before: dict[str, float] = {}

    def start_due(self, start: Callable[[Job], object]) -> bool:
        """Start the checks that are due; return whether any was."""
        started = False
        for job in self._catalog.jobs_with_checks():
            if time.monotonic() < self._not_before.get(job.job_id, 0.0) or not self._is_due(job):
                continue
            try:
                start(job)
            except VbrError as error:
                _log.error(
                    "the health check of %s is due but could not be started: %s: %s", job.name, error.code, error
                )
                self._not_before[job.job_id] = time.monotonic() + _PATIENCE_S
            else:
                started = True
        return started

    def _is_due(self, job: Job) -> bool:
        run = self._catalog.last_session(job.job_id, JOB_RUNS)
        if run is None or run.ended is None:
            return False
        check = self._catalog.last_session(job.job_id, ("health",))
        since = None if check is None else check.created
        if since is not None and run.ended <= since:
            return False
        return is_due(job.health.days, since, run.ended, ZoneInfo(job.health.zone))
