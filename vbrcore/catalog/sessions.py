"""Sessions and their tasks."""

import time
from collections.abc import Iterable

from vbrcore.catalog.base import Rows
from vbrcore.catalog.database import NOW
from vbrcore.catalog.rows import RowType
from vbrcore.model.errors import ErrorInfo, JobAlreadyRunning, LeaseLost, NotFound
from vbrcore.model.session import JOB_RUNS, Result, Session, SessionKind, Task, Totals
from vbrcore.model.times import LEASE_S

_SESSIONS = RowType("sessions", Session, "session_id", nested=("totals", "warnings", "error", "request", "report"))
_TASKS = RowType("tasks", Task, "task_id", nested=("totals", "warnings", "error", "needs"))
_LIVE = f"{_SESSIONS.select_sql} WHERE state != 'ended'"
_IS_JOB_RUN = f"kind IN ({', '.join(repr(kind) for kind in JOB_RUNS)})"

_RUNS_LOOKED_AT = 5  # for how long a disk took: one that was not read so long is taken by its size


class SessionRows(Rows):
    """One run of a job, or a restore, verify, delete or clean-up."""

    # --- sessions -------------------------------------------------------------------------------

    def add_session(self, session: Session) -> None:
        """Write a session that is about to start; raises `JobAlreadyRunning` if it is a second run of its job."""
        with self._database.write() as connection:
            if session.kind in JOB_RUNS:
                sql = f"SELECT session_id FROM sessions WHERE job_id = ? AND {_IS_JOB_RUN} AND state != 'ended'"  # noqa: S608 - our own kinds
                if live := connection.execute(sql, (session.job_id,)).fetchone():
                    raise JobAlreadyRunning(f"session {live['session_id']} of job {session.name} still runs")
            connection.execute(_SESSIONS.insert_sql, _SESSIONS.values(session))

    def session(self, session_id: str) -> Session:
        return self._get(_SESSIONS, session_id, "session")

    def live_sessions(self) -> tuple[Session, ...]:
        """Return the sessions that have not ended, oldest first."""
        return tuple(_SESSIONS.struct(row) for row in self._database.rows(f"{_LIVE} ORDER BY created"))

    def points_being_read(self) -> frozenset[str]:
        """Return the ids of the points that living sessions restore or verify."""
        named = (session.request.get("point") for session in self.live_sessions())
        return frozenset(point_id for point_id in named if isinstance(point_id, str))

    def live_session_of(self, job_id: str) -> Session | None:
        """Return the living run of a job, if any."""
        found = self._database.row(f"{_LIVE} AND job_id = ? AND {_IS_JOB_RUN} LIMIT 1", (job_id,))
        return None if found is None else _SESSIONS.struct(found)

    def sessions(self, *, job_id: str = "", before: float | None = None, limit: int = 100) -> tuple[Session, ...]:
        """Return sessions, newest first: of one job, created before a time."""
        clauses, values = ["1"], list[str | float | int]()
        if job_id:
            clauses.append("job_id = ?")
            values.append(job_id)
        if before is not None:
            clauses.append("created < ?")
            values.append(before)
        sql = f"{_SESSIONS.select_sql} WHERE {' AND '.join(clauses)} ORDER BY created DESC LIMIT ?"
        return tuple(_SESSIONS.struct(row) for row in self._database.rows(sql, (*values, limit)))

    def last_run(self, job_id: str, *, ended: bool = False) -> Session | None:
        """Return the newest run of a job, if any; or the newest that has ended."""
        state = " AND state = 'ended'" if ended else ""
        sql = f"{_SESSIONS.select_sql} WHERE job_id = ? AND {_IS_JOB_RUN}{state} ORDER BY created DESC LIMIT 1"
        found = self._database.row(sql, (job_id,))
        return None if found is None else _SESSIONS.struct(found)

    def last_session(self, job_id: str, kinds: Iterable[SessionKind]) -> Session | None:
        """Return the newest session of these kinds of a job, be it over or not."""
        kinds = tuple(kinds)
        places = ", ".join("?" * len(kinds))
        sql = f"{_SESSIONS.select_sql} WHERE job_id = ? AND kind IN ({places}) ORDER BY created DESC LIMIT 1"
        found = self._database.row(sql, (job_id, *kinds))
        return None if found is None else _SESSIONS.struct(found)

    def last_results(self) -> dict[str, Result]:
        """Return how the newest ended run of each job went, by job id."""
        rows = self._database.rows(
            f"SELECT job_id, result, max(created) FROM sessions WHERE {_IS_JOB_RUN} AND state = 'ended'"  # noqa: S608
            " GROUP BY job_id"
        )
        return {row["job_id"]: row["result"] for row in rows}

    def note_manager(self, session_id: str, pid: int, pid_started: float) -> None:
        """Note which process was started for a session that has not begun yet."""
        with self._database.write() as connection:
            connection.execute(
                "UPDATE sessions SET pid = ?, pid_started = ? WHERE session_id = ? AND state = 'starting'",
                (pid, pid_started, session_id),
            )

    def begin_session(self, session_id: str, pid: int, pid_started: float) -> int:
        """Note that its manager runs, and begin its lease of `LEASE_S`; return its epoch, higher with each session.

        Raises `LeaseLost` if the session was ended meanwhile: its manager must do nothing.
        """
        with self._database.write() as connection:
            done = connection.execute(
                "UPDATE sessions SET pid = ?, pid_started = ?, started = ?, state = 'running'"
                " WHERE session_id = ? AND state = 'starting'",
                (pid, pid_started, time.time(), session_id),
            )
            if done.rowcount == 0:
                raise LeaseLost(f"session {session_id} was given up before its manager began")
            epoch: int = connection.execute(
                "UPDATE counters SET value = value + 1 WHERE name = 'epoch' RETURNING value"
            ).fetchone()[0]
            connection.execute(
                f"INSERT INTO holders (session_id, epoch, expires) VALUES (?, ?, {NOW} + ?)",  # noqa: S608
                (session_id, epoch, LEASE_S),
            )
        return epoch

    def update_session(self, session_id: str, **changes: object) -> None:
        """Change fields of a session, named as in `Session`."""
        sql, values = _SESSIONS.update_sql(changes)
        with self._database.write() as connection:
            if connection.execute(sql, (*values, session_id)).rowcount == 0:
                raise NotFound(f"there is no session {session_id}")

    def finish_session(
        self,
        session_id: str,
        *,
        result: Result,
        ended: float,
        totals: Totals,
        warnings: tuple[str, ...],
        error: ErrorInfo | None,
        report: dict[str, object] | None = None,
    ) -> bool:
        """End a session; the first result stays. Returns whether this was the first."""
        sql, values = _SESSIONS.update_sql(
            {
                "state": "ended",
                "result": result,
                "ended": ended,
                "totals": totals,
                "warnings": warnings,
                "error": error,
                "report": report or {},
            }
        )
        with self._database.write() as connection:
            return connection.execute(f"{sql} AND state != 'ended'", (*values, session_id)).rowcount == 1

    def request_stop(self, session_id: str, *, now: bool) -> None:
        """Ask a session to stop; a request for `now` is never taken back."""
        with self._database.write() as connection:
            connection.execute(
                "UPDATE sessions SET stop_requested = CASE WHEN stop_requested = 'now' THEN 'now' ELSE ? END"
                " WHERE session_id = ? AND state != 'ended'",
                ("now" if now else "graceful", session_id),
            )

    def stop_requested(self, session_id: str) -> str:
        """Return "", "graceful" or "now"."""
        found = self._database.row("SELECT stop_requested FROM sessions WHERE session_id = ?", (session_id,))
        return "" if found is None else str(found["stop_requested"])

    # --- tasks ----------------------------------------------------------------------------------

    def add_tasks(self, tasks: Iterable[Task]) -> None:
        with self._database.write() as connection:
            connection.executemany(_TASKS.insert_sql, [_TASKS.values(task) for task in tasks])

    def tasks(self, session_id: str) -> tuple[Task, ...]:
        """Return the tasks of a session, in the order in which they were added."""
        rows = self._database.rows(f"{_TASKS.select_sql} WHERE session_id = ? ORDER BY rowid", (session_id,))
        return tuple(_TASKS.struct(row) for row in rows)

    def update_task(self, task_id: str, **changes: object) -> None:
        """Change fields of a task, named as in `Task`."""
        sql, values = _TASKS.update_sql(changes)
        with self._database.write() as connection:
            if connection.execute(sql, (*values, task_id)).rowcount == 0:
                raise NotFound(f"there is no task {task_id}")

    def task_times_s(self, job_id: str) -> dict[tuple[str, str], float]:
        """Return how long each (machine, disk) took in the newest run of a job that read it to its end, in seconds."""
        runs = (
            f"SELECT session_id FROM sessions WHERE job_id = ? AND {_IS_JOB_RUN} AND state = 'ended'"  # noqa: S608
            " ORDER BY created DESC LIMIT ?"
        )
        rows = self._database.rows(
            f"SELECT machine, disk, ended - started AS length_s, max(created) FROM tasks WHERE session_id IN ({runs})"  # noqa: S608
            " AND state = 'done' AND started IS NOT NULL AND ended >= started GROUP BY machine, disk",
            (job_id, _RUNS_LOOKED_AT),
        )
        return {(row["machine"], row["disk"]): row["length_s"] for row in rows}

    def fail_open_tasks(self, session_id: str, error: ErrorInfo) -> None:
        """Give the tasks of a dead session that are neither done nor failed its error."""
        sql, values = _TASKS.update_sql({"state": "failed", "reason": "", "error": error, "ended": time.time()})
        sql = sql.replace("WHERE task_id", "WHERE state NOT IN ('done', 'failed', 'skipped') AND session_id")
        with self._database.write() as connection:
            connection.execute(sql, (*values, session_id))
