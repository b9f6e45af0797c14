"""One SQLite file in WAL mode: a connection, its lock, transactions, and errors in our own words."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vbrcore.model.errors import CatalogDamaged, CatalogUnavailable

Value = str | int | float | bytes | None

# A writer waits this long for another process's transaction; all of ours take milliseconds.
BUSY_TIMEOUT_S = 30.0

# Seconds since the epoch by the catalog's clock: the "now" of every lease.
NOW = "((julianday('now') - 2440587.5) * 86400.0)"

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE = 0xFF


class Database:
    """Safe from several threads: one connection, used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self.path = path
        with _errors(path):
            self._connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            self._connection.row_factory = sqlite3.Row
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute("PRAGMA synchronous=NORMAL")
            except sqlite3.Error:
                self._connection.close()
                raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Run a transaction that has the write lock from its start.

        It always survives a crash of the process; with `durable` it survives a loss of power too when this returns.
        """
        with self._lock, _errors(self.path):
            if durable:
                self._connection.execute("PRAGMA synchronous=FULL")
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
            finally:
                if durable:
                    self._connection.execute("PRAGMA synchronous=NORMAL")

    def rows(self, sql: str, values: Sequence[Value] = ()) -> list[sqlite3.Row]:
        with self._lock, _errors(self.path):
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[Value] = ()) -> sqlite3.Row | None:
        """Return the first row, or None."""
        with self._lock, _errors(self.path):
            found: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
            return found

    def number(self, sql: str, values: Sequence[Value] = ()) -> int:
        """Return the first column of the first row; 0 without one."""
        found = self.row(sql, values)
        return 0 if found is None or found[0] is None else int(found[0])

    def data_version(self) -> int:
        """Return a number that changes when another connection has committed."""
        return self.number("PRAGMA data_version")

    def change_counts(self) -> tuple[int, int]:
        """Return numbers of which one changes with every change of a row, by whomever."""
        with self._lock:
            return self.data_version(), self._connection.total_changes


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Raise `CatalogDamaged` or `CatalogUnavailable` for errors of SQLite; a broken constraint passes as it is."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
        if code in _DAMAGED:
            raise CatalogDamaged(f"{path}: {error}") from error
        raise CatalogUnavailable(f"{path}: {error}") from error
