"""Sessions for several service nodes with PostgreSQL alone: SKIP LOCKED to claim, NOTIFY to wake, rows as leases."""

from typing import Any, Final

import psycopg

CHANNEL: Final = "sessions"

SCHEMA: Final = """
CREATE TABLE sessions (
    session_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id text NOT NULL,
    priority integer NOT NULL,
    work_s double precision NOT NULL,
    state text NOT NULL DEFAULT 'waiting',
    node text NOT NULL DEFAULT '',
    epoch bigint NOT NULL DEFAULT 0,
    expires timestamptz
);
CREATE UNIQUE INDEX sessions_one_run ON sessions (job_id) WHERE state <> 'ended';
CREATE INDEX sessions_waiting ON sessions (priority DESC, session_id) WHERE state = 'waiting';
CREATE INDEX sessions_running ON sessions (expires) WHERE state = 'running';
"""
ROLES: Final = """
CREATE TABLE roles (
    name text PRIMARY KEY, holder text NOT NULL, epoch bigint NOT NULL, expires timestamptz NOT NULL
);
"""
TAKE_ROLE: Final = """
INSERT INTO roles AS r (name, holder, epoch, expires)
VALUES (%(name)s, %(holder)s, 1, clock_timestamp() + %(lease_s)s * interval '1 second')
ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder, expires = excluded.expires,
    epoch = r.epoch + CASE WHEN r.holder = excluded.holder THEN 0 ELSE 1 END
WHERE r.holder = excluded.holder OR r.expires < clock_timestamp()
RETURNING epoch
"""
# After a crash of the database nobody could renew a lease: all get one more lease's time from its start.
SETTLED: Final = "pg_postmaster_start_time() < clock_timestamp() - %(lease_s)s * interval '1 second'"
_STALLED: Final = f"""
UPDATE sessions SET state = 'waiting', node = ''
WHERE state = 'running' AND expires < clock_timestamp() AND {SETTLED}
"""  # noqa: S608 - our own text
_CLAIM: Final = """
WITH next AS (
    SELECT session_id FROM sessions WHERE state = 'waiting'
    ORDER BY priority DESC, session_id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE sessions s SET state = 'running', node = %s, epoch = s.epoch + 1,
    expires = clock_timestamp() + %s * interval '1 second'
FROM next WHERE s.session_id = next.session_id
RETURNING s.session_id, s.epoch, s.work_s
"""


class Claim:
    """A session that is a node's until its lease ends; `epoch` tells this claim from an earlier one."""

    def __init__(self, session_id: int, epoch: int, work_s: float) -> None:
        self.session_id = session_id
        self.epoch = epoch
        self.work_s = work_s


class PlainEngine:
    """One connection. "Now" is the database's clock everywhere."""

    def __init__(self, dsn: str, *, lease_s: float) -> None:
        self._lease_s = lease_s
        self._connection: psycopg.Connection[Any] = psycopg.connect(dsn, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def submit(self, job_id: str, *, priority: int = 0, work_s: float = 0.0) -> int | None:
        """Return the session's id; None while another run of its job waits or runs."""
        try:
            with self._connection.transaction():
                row = self._connection.execute(
                    "INSERT INTO sessions (job_id, priority, work_s) VALUES (%s, %s, %s) RETURNING session_id",
                    (job_id, priority, work_s),
                ).fetchone()
                self._connection.execute("NOTIFY sessions")
        except psycopg.errors.UniqueViolation:
            return None
        return None if row is None else int(row[0])

    def claim(self, node: str) -> Claim | None:
        row = self._connection.execute(_CLAIM, (node, self._lease_s)).fetchone()
        return None if row is None else Claim(*row)

    def heartbeat(self, claim: Claim) -> bool:
        """Renew a lease; False where the session is not this claim's any more."""
        done = self._connection.execute(
            "UPDATE sessions SET expires = clock_timestamp() + %s * interval '1 second'"
            " WHERE session_id = %s AND epoch = %s AND state = 'running'",
            (self._lease_s, claim.session_id, claim.epoch),
        )
        return bool(done.rowcount == 1)

    def finish(self, claim: Claim) -> bool:
        done = self._connection.execute(
            "UPDATE sessions SET state = 'ended' WHERE session_id = %s AND epoch = %s AND state = 'running'",
            (claim.session_id, claim.epoch),
        )
        return bool(done.rowcount == 1)

    def stalled(self) -> int:
        """Give away the sessions whose leases are over; return how many."""
        done = self._connection.execute(_STALLED, {"lease_s": self._lease_s})
        if done.rowcount:
            self._connection.execute("NOTIFY sessions")
        return int(done.rowcount)

    def take_role(self, name: str, holder: str) -> bool:
        """Take or keep a role; False while another node holds it."""
        values = {"name": name, "holder": holder, "lease_s": self._lease_s}
        return self._connection.execute(TAKE_ROLE, values).fetchone() is not None

    def listen(self) -> None:
        self._connection.execute("LISTEN sessions")

    def wait(self, timeout_s: float) -> None:
        """Wait until something was submitted, not longer than `timeout_s`."""
        for _ in self._connection.notifies(timeout=timeout_s, stop_after=1):
            return
