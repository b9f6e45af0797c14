"""What restore points exist, as far as is known here: a cache of what the files of the chains say."""

import sqlite3
from collections.abc import Iterable

import msgspec

from vbrcore.catalog.base import Rows
from vbrcore.model.errors import NotFound
from vbrcore.model.point import Point


class StoredPoint(msgspec.Struct, frozen=True):
    """A point and the chain directory that holds it."""

    repository_id: str
    directory: str
    point: Point


_INSERT = (
    "INSERT OR REPLACE INTO points (point_id, repository_id, directory, job_id, machine, created, sequence, point)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT = "SELECT repository_id, directory, point FROM points"


class PointRows(Rows):
    """Managers reconcile it with the files when a session starts, and add what they commit."""

    def replace_points(self, repository_id: str, job_id: str, directory: str, points: Iterable[Point]) -> None:
        """Make the points known of one chain equal to these; `job_id` is the job that the chain belongs to."""
        rows = [_values(repository_id, directory, job_id, point) for point in points]
        with self._database.write() as connection:
            connection.execute(
                "DELETE FROM points WHERE repository_id = ? AND directory = ?",
                (repository_id, directory),
            )
            connection.executemany(_INSERT, rows)

    def add_point(self, repository_id: str, directory: str, point: Point) -> None:
        with self._database.write() as connection:
            connection.execute(_INSERT, _values(repository_id, directory, point.job_id, point))

    def point(self, point_id: str) -> StoredPoint:
        found = self._database.row(f"{_SELECT} WHERE point_id = ?", (point_id,))
        if found is None:
            raise NotFound(f"there is no point {point_id}")
        return _stored(found)

    def points(self, job_id: str = "", machine: str = "") -> tuple[StoredPoint, ...]:
        """Return points of a job and of a machine's name, oldest first; a chain's own order is its sequence."""
        rows = self._database.rows(
            f"{_SELECT} WHERE (?1 = '' OR job_id = ?1) AND (?2 = '' OR machine = ?2)"
            f" ORDER BY {'sequence' if job_id else 'created, sequence'}",
            (job_id, machine),
        )
        return tuple(_stored(row) for row in rows)

    def machines_of(self, job_id: str) -> frozenset[str]:
        """Return the names of the machines that a job has points of."""
        rows = self._database.rows("SELECT DISTINCT machine FROM points WHERE job_id = ?", (job_id,))
        return frozenset(row["machine"] for row in rows)

    def chains_of(self, job_id: str) -> frozenset[tuple[str, str]]:
        """Return the chains that hold points of a job, as (repository id, directory)."""
        rows = self._database.rows("SELECT DISTINCT repository_id, directory FROM points WHERE job_id = ?", (job_id,))
        return frozenset((row["repository_id"], row["directory"]) for row in rows)


def _values(repository_id: str, directory: str, job_id: str, point: Point) -> tuple[str | float | int, ...]:
    encoded = msgspec.json.encode(point).decode()
    return (point.point_id, repository_id, directory, job_id, point.machine, point.created, point.sequence, encoded)


def _stored(row: sqlite3.Row) -> StoredPoint:
    return StoredPoint(row["repository_id"], row["directory"], msgspec.json.decode(row["point"], type=Point))
