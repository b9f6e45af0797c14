"""All SQL stays behind the catalog's port: another database takes the place of SQLite there, and nowhere else."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.test_files import CHECKOUT, files

DATABASES = {"sqlite3", "sqlite_utils", "psycopg", "asyncpg", "aiosqlite", "sqlalchemy", "procrastinate"}
STATEMENT = re.compile(
    r"\s*(SELECT\s.+\sFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM|CREATE\s+(TABLE|INDEX|UNIQUE)"
    r"|ALTER\s+TABLE|PRAGMA\s+\w+|BEGIN\s+IMMEDIATE)\b",
    re.DOTALL,
)
PROGRAM = ("vbrcore", "tui", "plugins", "extras")


def findings(source: str) -> list[str]:
    """Return the databases that are imported and the statements in strings."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.match(node.value):
            found.append(node.value)
            continue
        else:
            continue
        found += [name for name in names if name.partition(".")[0] in DATABASES]
    return found


def test_nothing_outside_the_catalog_knows_a_database() -> None:
    catalog = Path("vbrcore/catalog")
    sources = [path for path in files(".py") if path.parts[0] in PROGRAM and "tests" not in path.parts]
    inside = [path for path in sources if path.is_relative_to(catalog)]
    found = {str(path): findings((CHECKOUT / path).read_text()) for path in sources if path not in inside}
    assert {path: what for path, what in found.items() if what} == {}
    assert any(findings((CHECKOUT / path).read_text()) for path in inside)


@pytest.mark.parametrize(
    "source",
    [
        "import sqlite3",
        "from sqlite_utils import Database",
        "def f():\n    import psycopg.sql",
        "x = 'SELECT name FROM jobs'",
        "x = f'UPDATE {table} SET y = 1 WHERE z'; y = 'INSERT OR REPLACE INTO jobs VALUES (1)'",
        "x = 'delete from'.upper(); y = 'DELETE FROM jobs'",
        "x = '''\n  CREATE TABLE jobs (name text)'''",
    ],
)
def test_what_would_be_found(source: str) -> None:
    assert len(findings(source)) == 1


@pytest.mark.parametrize("source", ["import msgspec", "x = 'Select a disk from the list'", "x = 'update the catalog'"])
def test_what_is_no_sql(source: str) -> None:
    assert findings(source) == []
