"""What bench/engine.py puts an engine through, each time in a database of its own."""

import contextlib
import signal
import time
import uuid
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import psycopg

from bench.engine_nodes import Nodes
from bench.engine_plain import ROLES, SCHEMA, PlainEngine
from bench.engine_queue import QueueSubmitter
from bench.engine_server import PostgresServer

_PAUSE_S: Final = 0.03
_SOON_S: Final = 3.0
_KINDS: Final = {
    "tables": "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    "indexes": "SELECT count(*) FROM pg_class WHERE relkind = 'i' AND relnamespace = 'public'::regnamespace",
    "functions": "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    "triggers": "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal",
    "enums": "SELECT count(*) FROM pg_type WHERE typtype = 'e' AND typnamespace = 'public'::regnamespace",
}

Submitter = PlainEngine | QueueSubmitter


class Load(msgspec.Struct, frozen=True):
    per_s: float
    submits_per_s: float
    wal_bytes: float


class Order(msgspec.Struct, frozen=True):
    """Whether higher priorities are claimed first, and what a second run of a job meets: refused, queued, runs."""

    by_priority: bool
    second_run_while_first_waits: str
    second_run_while_first_runs: str


class Failures(msgspec.Struct, frozen=True):
    """Seconds; None: not within a minute.

    `killed_s`, `hung_s`: from SIGKILL or SIGSTOP of the node that runs a session to its claim by another node.
    `both_run`: the node that hung worked on when it was continued, while the other one did.
    `late_end_refused`: its end of the session was not accepted. `second_run_meanwhile`: after that another run of the
    same job began while the other node still worked. `restart_s`: from the moment the database takes connections
    again after a crash to the claim of a session submitted then. `workers_ended`: by that crash.
    `runs_over_restart`: how often a session was begun that ran when the database crashed.
    """

    killed_s: float | None
    hung_s: float | None
    both_run: bool
    late_end_refused: bool
    second_run_meanwhile: bool
    restart_s: float | None
    workers_ended: int
    runs_over_restart: int


class Trial:
    """One engine over one server."""

    def __init__(
        self,
        engine: str,
        server: PostgresServer,
        *,
        sessions: int,
        wakes: int,
        nodes: int,
        lease_s: float,
        poll_s: float,
        outage_s: float,
    ) -> None:
        self._engine = engine
        self._server = server
        self._sessions = sessions
        self._wakes = wakes
        self._nodes = nodes
        self._outage_s = outage_s
        self._times = {"lease": lease_s, "heartbeat": lease_s / 3, "poll": poll_s}

    def version(self) -> str:
        with psycopg.connect(self._server.dsn("postgres"), autocommit=True) as connection:
            return "PostgreSQL " + str(_one(connection, "SHOW server_version"))

    def schema(self) -> dict[str, int]:
        """Count what the engine's schema has, the roles left out, which both need."""
        with self._database(roles=False) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
            return {kind: int(_one(connection, sql)) for kind, sql in _KINDS.items()}

    # --- how fast -------------------------------------------------------------------------------

    def load(self) -> Load:
        """Submit sessions of as many jobs, then have the nodes claim and end them all."""
        with self._database() as dsn, self._submitter(dsn) as submitter:
            wal = self._wal_bytes(dsn)
            began = time.monotonic()
            for number in range(self._sessions):
                submitter.submit(f"job{number}")
            submitted_s = time.monotonic() - began
            with self._started(dsn) as nodes:
                worked = nodes.wait("worked", self._sessions, patience_s=300.0)
                claimed = nodes.events("claimed")
            written = self._wal_bytes(dsn) - wal
        if len(worked) != self._sessions:
            raise RuntimeError(f"{self._engine}: {len(worked)} of {self._sessions} sessions were run")
        seconds = worked[-1].at - claimed[0].at
        return Load(self._sessions / seconds, self._sessions / submitted_s, written / self._sessions)

    def wakes(self) -> list[float]:
        """Return the milliseconds from each submit to its claim, the nodes being idle."""
        found: list[float] = []
        with self._database() as dsn, self._submitter(dsn) as submitter, self._started(dsn) as nodes:
            self._warm_up(submitter, nodes)
            for number in range(self._wakes):
                time.sleep(_PAUSE_S)
                began = time.monotonic()
                session = submitter.submit(f"job{number}")
                found.append((nodes.wait("claimed", session=session)[0].at - began) * 1000)
        return found

    def connections(self) -> float:
        """Return how many connections an idle node holds."""
        with self._database() as dsn, self._started(dsn) as nodes:
            with self._submitter(dsn) as submitter:
                self._warm_up(submitter, nodes)
            with psycopg.connect(dsn, autocommit=True) as connection:
                sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                return (int(_one(connection, sql)) - 1) / self._nodes

    def role_s(self) -> float | None:
        """Return the seconds from SIGKILL of the node that holds a role until another one does. Both need this row."""
        with self._database() as dsn, self._started(dsn) as nodes:
            first = nodes.wait("leads")[0]
            nodes.wait("ready", self._nodes)
            killed = nodes.signal(first.node, signal.SIGKILL)
            holders = nodes.wait("leads", 2)
        return holders[1].at - killed if len(holders) > 1 else None

    # --- in which order -------------------------------------------------------------------------

    def order(self) -> Order:
        with self._database() as dsn, self._submitter(dsn) as submitter:
            sessions = {submitter.submit(f"job{priority}", priority=priority): priority for priority in (1, 3, 2, 4)}
            waits = "refused" if submitter.submit("job1") is None else "queued"
            with self._started(dsn, count=1) as nodes:
                claimed = [sessions[event.session] for event in nodes.wait("claimed", 4)[:4]]
            by_priority = claimed == sorted(claimed, reverse=True)
        with self._database() as dsn, self._submitter(dsn) as submitter, self._started(dsn) as nodes:
            first = submitter.submit("job", work_s=_SOON_S)
            nodes.wait("claimed", session=first)
            second = submitter.submit("job")
            runs = "refused" if second is None else "queued"
            if second is not None and nodes.wait("claimed", patience_s=_SOON_S / 2, session=second):
                runs = "runs"
        return Order(by_priority, waits, runs)

    # --- what fails -----------------------------------------------------------------------------

    def failures(self) -> Failures:
        killed_s = self._killed()
        hung_s, both_run, refused, meanwhile = self._hung()
        restart_s, ended, runs = self._restarted()
        return Failures(killed_s, hung_s, both_run, refused, meanwhile, restart_s, ended, runs)

    def _killed(self) -> float | None:
        with self._database() as dsn, self._submitter(dsn) as submitter, self._started(dsn) as nodes:
            self._warm_up(submitter, nodes)
            session = submitter.submit("job", work_s=20.0)
            first = nodes.wait("claimed", session=session)[0]
            killed = nodes.signal(first.node, signal.SIGKILL)
            claims = nodes.wait("claimed", 2, session=session)
        return claims[1].at - killed if len(claims) > 1 else None

    def _hung(self) -> tuple[float | None, bool, bool, bool]:
        """Stop a node, and continue it when another one has its session."""
        with self._database() as dsn, self._submitter(dsn) as submitter, self._started(dsn) as nodes:
            self._warm_up(submitter, nodes)
            session = submitter.submit("job", work_s=4.0 + self._times["lease"])
            first = nodes.wait("claimed", session=session)[0]
            stopped = nodes.signal(first.node, signal.SIGSTOP)
            claims = nodes.wait("claimed", 2, session=session)
            if len(claims) < 2:
                return None, False, False, False
            nodes.signal(first.node, signal.SIGCONT)
            own: dict[str, Any] = {"session": session, "node": first.node}
            nodes.until(lambda: bool(nodes.events("refused", **own) or nodes.events("worked", **own)), 60.0)
            time.sleep(1.0)  # what it says of its end is heeded, or refused, by then
            refused, late = bool(nodes.events("refused", **own)), nodes.events("worked", **own)
            next_run = submitter.submit("job")
            patience_s = self._times["lease"]
            meanwhile = nodes.wait("claimed", patience_s=patience_s, session=next_run) if next_run is not None else []
            ends = nodes.wait("worked", session=session, node=claims[1].node)
        both = bool(late and ends) and late[0].at < ends[0].at
        begun_before = bool(meanwhile and ends) and meanwhile[0].at < ends[0].at
        return claims[1].at - stopped, both, refused, begun_before

    def _restarted(self) -> tuple[float | None, int, int]:
        """Crash the database while one node works and the others wait."""
        with self._database() as dsn, self._started(dsn) as nodes:
            with self._submitter(dsn) as submitter:
                self._warm_up(submitter, nodes)
                running = submitter.submit("long", work_s=8.0 + self._outage_s)
                nodes.wait("claimed", session=running)
            self._server.stop()
            time.sleep(self._outage_s)
            self._server.start()
            with self._submitter(dsn) as submitter:
                began = time.monotonic()
                session = submitter.submit("after")
                claims = nodes.wait("claimed", session=session)
            nodes.wait("worked", session=running)
            time.sleep(2 * self._times["lease"] + self._times["poll"])  # whoever would begin it again has by now
            runs = len(nodes.events("claimed", session=running))
            ended = len(nodes.events("worker_ended"))
        return claims[0].at - began if claims else None, ended, runs

    # --- parts of these -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _database(self, *, roles: bool = True) -> Iterator[str]:
        name = f"bench_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self._server.dsn("postgres"), autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        dsn = self._server.dsn(name)
        if self._engine == "plain":
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(SCHEMA)
        else:
            submitter = QueueSubmitter(dsn)
            with contextlib.closing(submitter):
                submitter.make_schema()
        if roles:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(ROLES)
        yield dsn

    @contextlib.contextmanager
    def _submitter(self, dsn: str) -> Iterator[Submitter]:
        plain = self._engine == "plain"
        made: Submitter = PlainEngine(dsn, lease_s=self._times["lease"]) if plain else QueueSubmitter(dsn)
        with contextlib.closing(made):
            yield made

    def _started(self, dsn: str, count: int = 0) -> Nodes:
        return Nodes(self._engine, dsn, count or self._nodes, **self._times)

    def _warm_up(self, submitter: Submitter, nodes: Nodes) -> None:
        """Wait until every node has run something: from then on it listens."""
        number = 0
        while len({event.node for event in nodes.events("claimed")}) < self._nodes:
            session = submitter.submit(f"warm{number}", work_s=0.3)
            number += 1
            if number % self._nodes == 0:
                nodes.wait("worked", session=session)
        nodes.wait("worked", number)
        time.sleep(0.5)

    @staticmethod
    def _wal_bytes(dsn: str) -> float:
        with psycopg.connect(dsn, autocommit=True) as connection:
            return float(_one(connection, "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))


def _one(connection: Any, sql: str) -> Any:
    return connection.execute(sql).fetchone()[0]
