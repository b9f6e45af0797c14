"""The tables, and how an older catalog becomes one of this version. sqlite-utils is loaded only when one does."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from vbrcore.catalog.database import Database
from vbrcore.model.errors import CatalogNewer

if TYPE_CHECKING:
    import sqlite_utils

Columns = dict[str, type]


def prepare(database: Database) -> bool:
    """Bring the schema up to date; return whether the catalog was new. Raises `CatalogNewer`."""
    if database.number("PRAGMA user_version") == len(MIGRATIONS):
        return False
    import sqlite_utils  # noqa: PLC0415 - takes longer than everything else that a manager imports

    with database.write(durable=True) as connection:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise CatalogNewer(f"{database.path} has schema {version}, this version knows {len(MIGRATIONS)}")
        tables = sqlite_utils.Database(connection, execute_plugins=False)
        for migrate in MIGRATIONS[version:]:
            migrate(tables)
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
        return version == 0


def _table(
    tables: "sqlite_utils.Database",
    name: str,
    columns: Columns,
    *,
    key: str | tuple[str, ...],
    optional: tuple[str, ...] = (),
    indexes: tuple[tuple[str, ...], ...] = (),
    unique: tuple[tuple[str, ...], ...] = (),
) -> None:
    """Make a strict table: every column has its type and, unless optional, a value."""
    keys = {key} if isinstance(key, str) else set(key)
    table = tables.table(name, strict=True)
    table.create(columns, pk=key, not_null=columns.keys() - keys - set(optional))
    for index in indexes:
        table.create_index(index)
    for index in unique:
        table.create_index(index, unique=True)


def _create(tables: "sqlite_utils.Database") -> None:
    _create_inventory(tables)
    _create_sessions(tables)
    _create_leases(tables)
    _table(
        tables,
        "points",
        {
            "point_id": str,
            "repository_id": str,
            "directory": str,
            "job_id": str,
            "machine": str,
            "created": float,
            "sequence": int,
            "point": str,
        },
        key="point_id",
        indexes=(("job_id", "sequence"), ("repository_id", "directory"), ("created",)),
    )
    _table(
        tables,
        "audit",
        {"audit_id": int, "time": float, "uid": int, "operation": str, "subject": str, "outcome": str},
        key="audit_id",
        indexes=(("time",),),
    )


def _create_inventory(tables: "sqlite_utils.Database") -> None:
    _table(
        tables,
        "hypervisors",
        {"hypervisor_id": str, "name": str, "plugin": str, "settings": str, "secret_names": str, "server": str},
        key="hypervisor_id",
        unique=(("name",),),
    )
    _table(
        tables,
        "servers",
        {"server_id": str, "name": str, "roles": str, "proxy_slots": int, "host_budget": int, "site": str},
        key="server_id",
        unique=(("name",),),
    )
    _table(
        tables,
        "repositories",
        {"repository_id": str, "name": str, "server": str, "path": str, "slots": int, "reserve_bytes": int},
        key="repository_id",
        optional=("reserve_bytes",),
        unique=(("name",),),
    )
    _table(
        tables,
        "credentials",
        {"credential_id": str, "name": str, "username": str},
        key="credential_id",
        unique=(("name",),),
    )
    _table(tables, "secrets", {"owner_id": str, "name": str, "sealed": bytes}, key=("owner_id", "name"))
    _table(
        tables,
        "jobs",
        {
            "job_id": str,
            "name": str,
            "hypervisor_id": str,
            "repository_id": str,
            "machines": str,
            "exclude": str,
            "block_size_bytes": int,
            "compression": str,
            "quiesce": int,
            "machine_retries": int,
            "schedule": str,
            "next_run": float,
        },
        key="job_id",
        optional=("next_run",),
        unique=(("name",),),
    )


def _create_sessions(tables: "sqlite_utils.Database") -> None:
    _table(
        tables,
        "sessions",
        {
            "session_id": str,
            "job_id": str,
            "name": str,
            "kind": str,
            "state": str,
            "result": str,
            "manual": int,
            "created": float,
            "started": float,
            "ended": float,
            "pid": int,
            "pid_started": float,
            "stop_requested": str,
            "totals": str,
            "warnings": str,
            "error": str,
            "request": str,
        },
        key="session_id",
        optional=("started", "ended", "error"),
        indexes=(("job_id", "created"), ("created",)),
    )
    # Few of many sessions live; this index holds only those.
    tables.execute("CREATE INDEX sessions_live ON sessions (created) WHERE state != 'ended'")
    _table(
        tables,
        "tasks",
        {
            "task_id": str,
            "session_id": str,
            "machine": str,
            "disk": str,
            "state": str,
            "reason": str,
            "size_bytes": int,
            "server": str,
            "attempt": int,
            "created": float,
            "started": float,
            "ended": float,
            "totals": str,
            "warnings": str,
            "error": str,
            "needs": str,
        },
        key="task_id",
        optional=("started", "ended", "error"),
        indexes=(("session_id",),),
    )
    _table(
        tables,
        "journal",
        {
            "entry_id": int,
            "session_id": str,
            "hypervisor_id": str,
            "action": str,
            "payload": bytes,
            "created": float,
        },
        key="entry_id",
        indexes=(("session_id",),),
    )


def _create_leases(tables: "sqlite_utils.Database") -> None:
    # The lease of a session ends as a whole, so the time stands once per holder and not at every unit.
    _table(tables, "holders", {"session_id": str, "epoch": int, "expires": float}, key="session_id")
    _table(
        tables,
        "leases",
        {"lease_id": int, "session_id": str, "scope": str, "resource": str, "demand_id": str},
        key="lease_id",
        indexes=(("session_id", "scope"), ("demand_id",)),
    )
    _table(
        tables,
        "requests",
        {
            "demand_id": str,
            "session_id": str,
            "demand": str,
            "reason": str,
            "detail": str,
            "place": int,
            "passed_since": float,
        },
        key="demand_id",
        optional=("passed_since",),
        indexes=(("session_id",),),
    )
    _table(
        tables,
        "grants",
        {"demand_id": str, "session_id": str, "scope": str, "server": str, "mode": str},
        key="demand_id",
        indexes=(("session_id", "scope"),),
    )
    _table(tables, "counters", {"name": str, "value": int}, key="name")
    tables.execute("INSERT INTO counters (name, value) VALUES ('epoch', 0)")


def _add_retention(tables: "sqlite_utils.Database") -> None:
    """What a job keeps, and what the clock showed at the last session. Jobs of before keep what new ones do."""
    tables.execute("ALTER TABLE jobs ADD COLUMN retention TEXT NOT NULL DEFAULT '{}'")
    _table(tables, "clock", {"name": str, "seen": float, "uptime_s": float}, key="name")


def _add_upkeep(tables: "sqlite_utils.Database") -> None:
    """How chains are kept in order, what was found in them, and copies of them."""
    for table, column, kind in (
        ("jobs", "directory", "TEXT NOT NULL DEFAULT ''"),
        ("jobs", "per_machine", "INTEGER NOT NULL DEFAULT 0"),
        ("jobs", "fulls", "TEXT NOT NULL DEFAULT '{}'"),
        ("jobs", "health", "TEXT NOT NULL DEFAULT '{}'"),
        ("jobs", "upkeep", "TEXT NOT NULL DEFAULT '{}'"),
        ("jobs", "source_repository_id", "TEXT NOT NULL DEFAULT ''"),
        ("jobs", "priority", "TEXT NOT NULL DEFAULT 'regular'"),
        ("repositories", "rate_limit_bytes_s", "INTEGER NOT NULL DEFAULT 0"),
        ("repositories", "storage_class", "TEXT NOT NULL DEFAULT ''"),
        ("sessions", "report", "TEXT NOT NULL DEFAULT '{}'"),
        ("points", "damage", "TEXT NOT NULL DEFAULT ''"),
    ):
        tables.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    _table(
        tables,
        "chains",
        {"repository_id": str, "directory": str, "live_bytes": int},
        key=("repository_id", "directory"),
    )


def _add_servers(tables: "sqlite_utils.Database") -> None:
    """How servers other than this machine are reached and how they are, and what decides where a disk is read."""
    for table, column, kind in (
        ("servers", "ssh", "TEXT"),
        ("servers", "address", "TEXT NOT NULL DEFAULT ''"),
        ("servers", "ports", "TEXT NOT NULL DEFAULT '[46200,46299]'"),
        ("servers", "dials_only", "INTEGER NOT NULL DEFAULT 0"),
        ("repositories", "site", "TEXT NOT NULL DEFAULT ''"),
        ("repositories", "proxy_affinity", "TEXT NOT NULL DEFAULT '[]'"),
        ("repositories", "credential_id", "TEXT NOT NULL DEFAULT ''"),
        ("repositories", "gateways", "TEXT NOT NULL DEFAULT '[]'"),
        ("jobs", "proxies", "TEXT NOT NULL DEFAULT '[]'"),
        ("jobs", "wait_for_best", "INTEGER NOT NULL DEFAULT 0"),
        ("tasks", "mode", "TEXT NOT NULL DEFAULT ''"),
        ("tasks", "why", "TEXT NOT NULL DEFAULT ''"),
        ("requests", "choices_id", "TEXT NOT NULL DEFAULT ''"),
    ):
        tables.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
    _table(tables, "choices", {"choices_id": str, "choices": str}, key="choices_id")
    _table(
        tables,
        "server_states",
        {"server_id": str, "away": str, "failures": int, "next_try": float, "checked": float, "facts": str},
        key="server_id",
        optional=("checked", "facts"),
    )
    _table(
        tables,
        "network_rules",
        {"site_a": str, "site_b": str, "rate_limit_bytes_s": int},
        key=("site_a", "site_b"),
    )
    _table(
        tables,
        "network_shares",
        {"task_id": str, "site_a": str, "site_b": str, "bytes_s": int, "expires": float},
        key="task_id",
    )
    # Shares: how gateways fared there when it was last tried, and which one served a chain last.
    _table(
        tables,
        "gateways",
        {"repository_id": str, "server": str, "connect_s": float, "away": str, "checked": float},
        key=("repository_id", "server"),
        optional=("connect_s",),
    )
    _table(
        tables,
        "chain_gateways",
        {"repository_id": str, "directory": str, "server": str},
        key=("repository_id", "directory"),
    )


def _add_nodes(tables: "sqlite_utils.Database") -> None:
    """Which service node runs a session, and which does what one does for all."""
    tables.execute("ALTER TABLE sessions ADD COLUMN node TEXT NOT NULL DEFAULT ''")
    tables.execute("UPDATE sessions SET node = 'local'")  # so far there was one
    _table(tables, "roles", {"name": str, "node": str, "epoch": int, "expires": float}, key="name")


MIGRATIONS: tuple[Callable[["sqlite_utils.Database"], None], ...] = (
    _create,
    _add_retention,
    _add_upkeep,
    _add_servers,
    _add_nodes,
)
