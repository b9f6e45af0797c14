"""What opens the chains of encrypted repositories, sealed with the deployment key."""

import sqlite3
from typing import Final

from vbrcore.catalog.base import Rows
from vbrcore.secrets.repositorykey import RepositoryKey

_CURRENT: Final = "current"
_NEXT: Final = "next"
_INSERT: Final = "INSERT OR REPLACE INTO secrets (owner_id, name, sealed) VALUES (?, ?, ?)"
_DELETE: Final = "DELETE FROM secrets WHERE owner_id = ?"


class KeyRows(Rows):
    """A repository is encrypted if it has a key. While that is being changed there are two, and either may open."""

    def is_encrypted(self, repository_id: str) -> bool:
        """Say so without unsealing anything."""
        sql = "SELECT 1 FROM secrets WHERE owner_id = ? LIMIT 1"
        return self._database.row(sql, (_owner(repository_id, _CURRENT),)) is not None

    def repository_key(self, repository_id: str) -> RepositoryKey | None:
        return self._repository_key(_owner(repository_id, _CURRENT))

    def next_repository_key(self, repository_id: str) -> RepositoryKey | None:
        """Return what chains are being changed to, and new ones are made with; None where nothing is being changed."""
        return self._repository_key(_owner(repository_id, _NEXT))

    def set_repository_key(self, repository_id: str, key: RepositoryKey) -> None:
        """Make a repository an encrypted one, or say what opens the chains that it has."""
        with self._database.write(durable=True) as connection:
            self._put(connection, _owner(repository_id, _CURRENT), key)
            connection.execute(_DELETE, (_owner(repository_id, _NEXT),))

    def begin_key_change(self, repository_id: str, key: RepositoryKey) -> None:
        with self._database.write(durable=True) as connection:
            self._put(connection, _owner(repository_id, _NEXT), key)

    def end_key_change(self, repository_id: str) -> None:
        """All chains open with the next key: it is the only one from now on."""
        key = self.next_repository_key(repository_id)
        if key is not None:
            self.set_repository_key(repository_id, key)

    def forget_repository_key(self, repository_id: str) -> None:
        with self._database.write(durable=True) as connection:
            for which in (_CURRENT, _NEXT):
                connection.execute(_DELETE, (_owner(repository_id, which),))

    def _put(self, connection: sqlite3.Connection, owner: str, key: RepositoryKey) -> None:
        connection.execute(_DELETE, (owner,))
        for name, part in key.parts().items():
            connection.execute(_INSERT, (owner, name, self._key.seal(part, f"{owner}/{name}")))

    def _repository_key(self, owner: str) -> RepositoryKey | None:
        rows = self._database.rows("SELECT name, sealed FROM secrets WHERE owner_id = ?", (owner,))
        return RepositoryKey.of_parts(
            {row["name"]: self._key.unseal(row["sealed"], f"{owner}/{row['name']}") for row in rows}
        )


def _owner(repository_id: str, which: str) -> str:
    return repository_id if which == _CURRENT else f"{repository_id}/{which}"
