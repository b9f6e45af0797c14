"""What the parts of the catalog share."""

from typing import TypeVar

import msgspec

from vbrcore.catalog.database import Database
from vbrcore.catalog.rows import RowType
from vbrcore.model.errors import NotFound
from vbrcore.secrets.deployment import DeploymentKey

T = TypeVar("T", bound=msgspec.Struct)


class Rows:
    """The database and the key that seals secrets in it."""

    def __init__(self, database: Database, key: DeploymentKey) -> None:
        self._database = database
        self._key = key

    def _get(self, rows: RowType[T], value: str, what: str, column: str = "") -> T:
        """Return the row whose key (or another column) has this value; raises `NotFound` naming it."""
        found = self._database.row(f"{rows.select_sql} WHERE {column or rows.key} = ?", (value,))
        if found is None:
            raise NotFound(f"there is no {what} {value}")
        return rows.struct(found)

    def _all(self, rows: RowType[T], order: str) -> tuple[T, ...]:
        return tuple(rows.struct(row) for row in self._database.rows(f"{rows.select_sql} ORDER BY {order}"))
