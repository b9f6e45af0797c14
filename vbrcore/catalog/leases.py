"""Who holds what until when, and who waits for it. Leases are these rows and nothing else."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from vbrcore.balancer.demand import Decisions, Demand, Grant, Pending, units_taken
from vbrcore.catalog.base import Rows
from vbrcore.catalog.database import NOW, Database
from vbrcore.catalog.requests import Requests, put_request
from vbrcore.model.errors import LeaseLost
from vbrcore.model.times import LEASE_S
from vbrcore.secrets.deployment import DeploymentKey

Decide = Callable[[Mapping[str, int], Sequence[Pending], float], Decisions]
_OF_SESSION = ("holders", "leases", "requests", "grants")


class Waiting(msgspec.Struct, frozen=True):
    """Why a demand is not granted yet, as last decided. An empty reason: not looked at yet."""

    demand_id: str
    reason: str
    detail: str
    place: int


class Held(msgspec.Struct, frozen=True):
    """Units of one resource that a session holds under one scope: its own ("session"), a machine's or a task's id."""

    session_id: str
    scope: str
    resource: str
    demand_id: str
    units: int


class LeaseRows(Rows):
    """A session holds units under scopes; all of them end with its lease, 60 s after it was last renewed."""

    def __init__(self, database: Database, key: DeploymentKey) -> None:
        super().__init__(database, key)
        self._requests = Requests()

    # --- asked by managers ----------------------------------------------------------------------

    def request_lease(self, demand: Demand) -> None:
        """Ask for everything in a demand at once. Raises `LeaseLost` if the session holds no lease any more."""
        with self._database.write() as connection:
            _held(connection, demand.session_id)
            connection.execute("DELETE FROM grants WHERE demand_id = ?", (demand.demand_id,))
            put_request(connection, demand)

    def granted(self, demand_id: str) -> Grant | None:
        """Return the grant of a demand, or None while it waits."""
        row = self._database.row("SELECT demand_id, server, mode FROM grants WHERE demand_id = ?", (demand_id,))
        return None if row is None else Grant(**dict(row))

    def cancel_request(self, demand: Demand) -> None:
        """Ask no longer; what was granted meanwhile is given back.

        A machine that an earlier demand of the same task has taken stays taken: its snapshot is open.
        """
        with self._database.write() as connection:
            connection.execute("DELETE FROM requests WHERE demand_id = ?", (demand.demand_id,))
            for table in ("grants", "leases"):
                connection.execute(
                    f"DELETE FROM {table} WHERE demand_id = ? AND scope IN (?, ?)",  # noqa: S608
                    (demand.demand_id, demand.scope, demand.machine_scope or demand.scope),
                )

    def release(self, session_id: str, scope: str) -> None:
        """Give back everything held under a scope; what is not held is no error."""
        with self._database.write() as connection:
            for table in ("grants", "leases"):
                connection.execute(
                    f"DELETE FROM {table} WHERE session_id = ? AND scope = ?",  # noqa: S608
                    (session_id, scope),
                )

    def release_session(self, session_id: str) -> None:
        """End a session's lease: give back all it holds and asks for."""
        with self._database.write() as connection:
            _forget(connection, session_id)

    def renew(self, session_id: str) -> bool:
        """Renew a session's lease for another `LEASE_S`; False if it was ended: then nothing is held any more.

        A late renewal succeeds as long as nobody has given the lease away.
        """
        with self._database.write() as connection:
            done = connection.execute(
                f"UPDATE holders SET expires = {NOW} + ? WHERE session_id = ?",  # noqa: S608
                (LEASE_S, session_id),
            )
            return done.rowcount == 1

    # --- asked by the service -------------------------------------------------------------------

    def holders(self) -> dict[str, float]:
        """Return the seconds that are left of each session's lease (negative: over), by session id."""
        rows = self._database.rows(f"SELECT session_id, expires - {NOW} AS left FROM holders")  # noqa: S608
        return {row["session_id"]: row["left"] for row in rows}

    def stalled_sessions(self) -> tuple[str, ...]:
        """Return the ids of the sessions whose leases are over."""
        rows = self._database.rows(f"SELECT session_id FROM holders WHERE expires < {NOW}")  # noqa: S608
        return tuple(row["session_id"] for row in rows)

    def grant_grace(self) -> None:
        """Let no lease end before a whole `LEASE_S` from now: its holder may have had nobody to tell that it lives."""
        with self._database.write() as connection:
            connection.execute(f"UPDATE holders SET expires = max(expires, {NOW} + ?)", (LEASE_S,))  # noqa: S608

    def extend_leases(self, seconds: float) -> None:
        """Move all ends of leases, also of roles: the clock jumped, and nobody is to lose a lease by that."""
        with self._database.write() as connection:
            connection.execute("UPDATE holders SET expires = expires + ?", (seconds,))
            connection.execute("UPDATE roles SET expires = expires + ?", (seconds,))

    def end_expired(self, session_id: str) -> bool:
        """End the lease of a session if nobody renewed it in time; return whether it was ended."""
        with self._database.write() as connection:
            sql = f"SELECT 1 FROM holders WHERE session_id = ? AND expires < {NOW}"  # noqa: S608
            expired = connection.execute(sql, (session_id,)).fetchone() is not None
            if expired:
                _forget(connection, session_id)
        return expired

    def usage(self) -> Counter[str]:
        """Return the units held of each resource."""
        rows = self._database.rows("SELECT resource, count(*) AS units FROM leases GROUP BY resource")
        return Counter({row["resource"]: row["units"] for row in rows})

    def waiting(self, session_id: str = "") -> tuple[Waiting, ...]:
        """Return what waits (of one session), by its place in the queue."""
        rows = self._database.rows(
            "SELECT demand_id, reason, detail, place FROM requests WHERE ?1 = '' OR session_id = ?1 ORDER BY place",
            (session_id,),
        )
        return tuple(Waiting(**dict(row)) for row in rows)

    def held(self) -> tuple[Held, ...]:
        """Return who holds what."""
        rows = self._database.rows(
            "SELECT session_id, scope, resource, demand_id, count(*) AS units FROM leases"
            " GROUP BY session_id, scope, resource, demand_id ORDER BY min(lease_id)"
        )
        return tuple(Held(**dict(row)) for row in rows)

    def pending(self) -> tuple[Pending, ...]:
        """Return what was asked for and is not granted yet."""
        return tuple(pending for _, pending in self._requests.read(self._database.rows))

    def is_asked(self) -> bool:
        """Return whether anything waits."""
        return self._database.row("SELECT 1 FROM requests LIMIT 1") is not None

    def balance(self, decide: Decide) -> int:
        """Let `decide(held, pending, now)` grant in one transaction; return how many grants were made."""
        if not self.is_asked():
            return 0
        with self._database.write() as connection:
            requests = list(self._requests.read(connection.execute))
            pending = {one.demand.demand_id: one for _, one in requests}
            held = {
                row["resource"]: row["units"]
                for row in connection.execute("SELECT resource, count(*) AS units FROM leases GROUP BY resource")
            }
            now: float = connection.execute(f"SELECT {NOW}").fetchone()[0]
            decisions = decide(held, list(pending.values()), now)
            for grant in decisions.grants:
                _grant(connection, pending[grant.demand_id].demand, grant)
            before = {row["demand_id"]: (row["reason"], row["detail"], row["place"]) for row, _ in requests}
            connection.executemany(
                "UPDATE requests SET reason = ?, detail = ?, place = ? WHERE demand_id = ?",
                [
                    (wait.reason, wait.detail, wait.place, wait.demand_id)
                    for wait in decisions.waits
                    if before[wait.demand_id] != (wait.reason, wait.detail, wait.place)
                ],
            )
            connection.executemany(
                "UPDATE requests SET passed_since = ? WHERE demand_id = ? AND passed_since IS NULL",
                [(now, demand_id) for demand_id in decisions.passed],
            )
        return len(decisions.grants)


def _held(connection: sqlite3.Connection, session_id: str) -> None:
    if connection.execute("SELECT 1 FROM holders WHERE session_id = ?", (session_id,)).fetchone() is None:
        raise LeaseLost(f"session {session_id} holds no lease any more")


def _forget(connection: sqlite3.Connection, session_id: str) -> None:
    for table in _OF_SESSION:
        connection.execute(f"DELETE FROM {table} WHERE session_id = ?", (session_id,))  # noqa: S608


def _grant(connection: sqlite3.Connection, demand: Demand, grant: Grant) -> None:
    connection.execute("DELETE FROM requests WHERE demand_id = ?", (demand.demand_id,))
    connection.execute(
        "INSERT INTO grants (demand_id, session_id, scope, server, mode) VALUES (?, ?, ?, ?, ?)",
        (demand.demand_id, demand.session_id, demand.scope, grant.server, grant.mode),
    )
    connection.executemany(
        "INSERT INTO leases (session_id, scope, resource, demand_id) VALUES (?, ?, ?, ?)",
        [(demand.session_id, scope, resource, demand.demand_id) for scope, resource in units_taken(demand, grant)],
    )
