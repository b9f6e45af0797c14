"""Jobs and when they are due."""

import sqlite3

from vbrcore.catalog.base import Rows
from vbrcore.catalog.rows import RowType
from vbrcore.model.errors import AlreadyExists, JobAlreadyRunning, NotFound
from vbrcore.model.job import Job, Schedule

_NESTED = ("machines", "exclude", "schedule", "retention", "fulls", "health", "upkeep", "proxies")
_JOBS = RowType("jobs", Job, "job_id", nested=_NESTED)


class JobRows(Rows):
    """What to back up, where to, and when."""

    def add_job(self, job: Job) -> None:
        """Raise `AlreadyExists` for a name that is taken."""
        try:
            with self._database.write(durable=True) as connection:
                connection.execute(_JOBS.insert_sql, _JOBS.values(job))
        except sqlite3.IntegrityError as error:
            raise AlreadyExists(f"there is a job {job.name} already") from error

    def job(self, job_id: str) -> Job:
        return self._get(_JOBS, job_id, "job")

    def job_by_name(self, name: str) -> Job:
        return self._get(_JOBS, name, "job", "name")

    def jobs(self) -> tuple[Job, ...]:
        return self._all(_JOBS, "name")

    def jobs_with_checks(self) -> tuple[Job, ...]:
        """Return the jobs whose health is checked by schedule."""
        sql = f"{_JOBS.select_sql} WHERE coalesce(json_extract(health, '$.days'), '') != '' ORDER BY name"
        return tuple(_JOBS.struct(row) for row in self._database.rows(sql))

    def jobs_with_windows(self) -> tuple[Job, ...]:
        """Return the jobs whose scheduled sessions begin machines at some times of a day only."""
        sql = f"{_JOBS.select_sql} WHERE coalesce(json_extract(schedule, '$.window.begin'), '') != ''"
        return tuple(_JOBS.struct(row) for row in self._database.rows(sql))

    def set_schedule(self, job_id: str, schedule: Schedule, next_run: float | None) -> None:
        sql, values = _JOBS.update_sql({"schedule": schedule})
        with self._database.write(durable=True) as connection:
            if connection.execute(sql, (*values, job_id)).rowcount == 0:
                raise NotFound(f"there is no job {job_id}")
            connection.execute("UPDATE jobs SET next_run = ? WHERE job_id = ?", (next_run, job_id))

    def update_job(self, job_id: str, **changes: object) -> None:
        """Change fields of a job, named as in `Job`; its schedule has a method of its own."""
        sql, values = _JOBS.update_sql(changes)
        with self._database.write(durable=True) as connection:
            if connection.execute(sql, (*values, job_id)).rowcount == 0:
                raise NotFound(f"there is no job {job_id}")

    def next_runs(self) -> dict[str, float]:
        """Return when each scheduled job is due, by job id; seconds since the epoch."""
        rows = self._database.rows("SELECT job_id, next_run FROM jobs WHERE next_run IS NOT NULL")
        return {row["job_id"]: row["next_run"] for row in rows}

    def move_next_run(self, job_id: str, was: float | None, next_run: float | None) -> bool:
        """Change when a job is due, unless somebody else did since it `was` so; return whether it was done."""
        with self._database.write() as connection:
            sql = "UPDATE jobs SET next_run = ? WHERE job_id = ? AND next_run IS ?"
            return connection.execute(sql, (next_run, job_id, was)).rowcount == 1

    def remove_job(self, job_id: str) -> None:
        """Remove a job; its sessions and points stay. Raises `JobAlreadyRunning` while a session of it lives."""
        with self._database.write(durable=True) as connection:
            sql = "SELECT session_id FROM sessions WHERE job_id = ? AND state != 'ended'"
            if live := connection.execute(sql, (job_id,)).fetchone():
                raise JobAlreadyRunning(f"session {live['session_id']} of the job still runs")
            connection.execute("DELETE FROM jobs WHERE job_id = ?", (job_id,))
