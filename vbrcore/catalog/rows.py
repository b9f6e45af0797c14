"""Rows of tables as structs and back. Nested fields are JSON text, so that a report can read them too."""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

import msgspec

from vbrcore.catalog.database import Value

T = TypeVar("T", bound=msgspec.Struct)


class RowType(Generic[T]):
    """How a struct lies in its table: one column a field; `nested` ones as JSON."""

    def __init__(self, table: str, struct: type[T], key: str, nested: Iterable[str] = ()) -> None:
        self.table = table
        self.key = key
        self._struct = struct
        self._fields = struct.__struct_fields__
        self._nested = frozenset(nested)
        columns = ", ".join(self._fields)
        places = ", ".join("?" * len(self._fields))
        self.insert_sql = f"INSERT INTO {table} ({columns}) VALUES ({places})"  # noqa: S608 - names of our own structs
        self.select_sql = f"SELECT {columns} FROM {table}"  # noqa: S608

    def values(self, struct: T) -> list[Value]:
        """Return the columns of one struct, in the order of its fields."""
        return [self._column(name, getattr(struct, name)) for name in self._fields]

    def struct(self, row: sqlite3.Row) -> T:
        """Return a row as a struct. The row may have further columns."""
        values = {
            name: msgspec.json.decode(row[name]) if name in self._nested and row[name] is not None else row[name]
            for name in self._fields
        }
        return msgspec.convert(values, self._struct, strict=False)

    def update_sql(self, changes: Mapping[str, object]) -> tuple[str, list[Value]]:
        """Return the statement that changes fields of one row, without the value of its key."""
        if unknown := changes.keys() - set(self._fields):
            raise ValueError(f"{self.table} has no {', '.join(sorted(unknown))}")
        names = ", ".join(f"{name} = ?" for name in changes)
        sql = f"UPDATE {self.table} SET {names} WHERE {self.key} = ?"  # noqa: S608 - names were checked above
        return sql, [self._column(name, value) for name, value in changes.items()]

    def _column(self, name: str, value: object) -> Value:
        if name in self._nested:
            return None if value is None else msgspec.json.encode(value).decode()
        if isinstance(value, bool):
            return int(value)
        if value is None or isinstance(value, str | int | float | bytes):
            return value
        raise TypeError(f"{self.table}.{name} cannot hold a {type(value).__name__}")
