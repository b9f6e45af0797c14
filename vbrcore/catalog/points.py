"""What restore points exist, as far as is known here: a cache of what the files of the chains say."""

import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from vbrcore.catalog.base import Rows
from vbrcore.model.errors import NotFound
from vbrcore.model.point import Point


class StoredPoint(msgspec.Struct, frozen=True):
    """A point and the chain directory that holds it. `damage`: why it is not whole, as far as is known ("": it is)."""

    repository_id: str
    directory: str
    point: Point
    damage: str = ""


_INSERT = (
    "INSERT OR REPLACE INTO points"
    " (point_id, repository_id, directory, job_id, machine, created, sequence, point, damage)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SELECT = "SELECT repository_id, directory, point, damage FROM points"
_OF_CHAIN = "repository_id = ? AND directory = ?"


class PointRows(Rows):
    """Managers reconcile it with the files when a session starts, and add what they commit."""

    def replace_points(
        self,
        repository_id: str,
        job_id: str,
        directory: str,
        points: Iterable[Point],
        damage: Mapping[str, str] | None = None,
    ) -> None:
        """Make the points known of one chain equal to these; `job_id` is the job that the chain belongs to.

        `damage`: why points are not whole, by id; None: as it is known.
        """
        points = list(points)
        with self._database.write() as connection:
            if damage is None:
                known = f"SELECT point_id, damage FROM points WHERE {_OF_CHAIN}"  # noqa: S608
                damage = {
                    row["point_id"]: row["damage"] for row in connection.execute(known, (repository_id, directory))
                }
            rows = [
                _values(repository_id, directory, job_id, point, damage.get(point.point_id, "")) for point in points
            ]
            connection.execute(f"DELETE FROM points WHERE {_OF_CHAIN}", (repository_id, directory))  # noqa: S608
            connection.executemany(_INSERT, rows)

    def set_damage(self, repository_id: str, directory: str, damage: Mapping[str, str]) -> None:
        """Say which points of one chain are not whole, and why; the others are."""
        with self._database.write() as connection:
            clear = f"UPDATE points SET damage = '' WHERE {_OF_CHAIN}"  # noqa: S608
            connection.execute(clear, (repository_id, directory))
            note = f"UPDATE points SET damage = ? WHERE point_id = ? AND {_OF_CHAIN}"  # noqa: S608
            connection.executemany(
                note, [(text, point_id, repository_id, directory) for point_id, text in damage.items()]
            )

    def add_point(self, repository_id: str, directory: str, point: Point) -> None:
        with self._database.write() as connection:
            connection.execute(_INSERT, _values(repository_id, directory, point.job_id, point, ""))

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

    def points_in(self, repository_id: str, directory: str = "") -> tuple[StoredPoint, ...]:
        """Return the points of a repository, or of one chain of it, by chain and sequence."""
        rows = self._database.rows(
            f"{_SELECT} WHERE repository_id = ?1 AND (?2 = '' OR directory = ?2) ORDER BY directory, sequence",
            (repository_id, directory),
        )
        return tuple(_stored(row) for row in rows)

    def has_sealed_points(self, repository_id: str) -> bool:
        """Say whether a repository has points whose names could not be opened."""
        sql = "SELECT 1 FROM points WHERE repository_id = ? AND json_extract(point, '$.sealed') != '' LIMIT 1"
        return self._database.row(sql, (repository_id,)) is not None

    def chains_of(self, job_id: str) -> frozenset[tuple[str, str]]:
        """Return the chains that hold points of a job, as (repository id, directory)."""
        rows = self._database.rows("SELECT DISTINCT repository_id, directory FROM points WHERE job_id = ?", (job_id,))
        return frozenset((row["repository_id"], row["directory"]) for row in rows)


def _values(
    repository_id: str, directory: str, job_id: str, point: Point, damage: str
) -> tuple[str | float | int, ...]:
    encoded = msgspec.json.encode(point).decode()
    names = (point.point_id, repository_id, directory, job_id, point.machine)
    return (*names, point.created, point.sequence, encoded, damage)


def _stored(row: sqlite3.Row) -> StoredPoint:
    point = msgspec.json.decode(row["point"], type=Point)
    return StoredPoint(row["repository_id"], row["directory"], point, row["damage"])
