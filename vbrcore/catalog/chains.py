"""What was found out about chains when their dead was last looked for. A cache: a chain without a row counts whole."""

from vbrcore.catalog.base import Rows


class ChainRows(Rows):
    """A chain is known by its repository and its directory there."""

    def live_bytes(self, repository_id: str) -> dict[str, int]:
        """Return what kept points need, by the directories of the chains for which that is known."""
        rows = self._database.rows("SELECT directory, live_bytes FROM chains WHERE repository_id = ?", (repository_id,))
        return {row["directory"]: row["live_bytes"] for row in rows}

    def note_live_bytes(self, repository_id: str, directory: str, live_bytes: int) -> None:
        """Note what a mark has found."""
        with self._database.write() as connection:
            sql = "INSERT OR REPLACE INTO chains (repository_id, directory, live_bytes) VALUES (?, ?, ?)"
            connection.execute(sql, (repository_id, directory, live_bytes))

    def note_appended(self, repository_id: str, directory: str, stored_bytes: int) -> None:
        """Count what a session appended as live, where anything is known of the chain."""
        with self._database.write() as connection:
            sql = "UPDATE chains SET live_bytes = live_bytes + ? WHERE repository_id = ? AND directory = ?"
            connection.execute(sql, (stored_bytes, repository_id, directory))
