"""What sessions are about to make on hypervisors, written before they make it, so that anyone can undo it."""

import time

import msgspec

from vbrcore.catalog.base import Rows


class JournalRow(msgspec.Struct, frozen=True):
    """One entry that is not done. `payload` belongs to the manager."""

    entry_id: int
    session_id: str
    hypervisor_id: str
    action: str
    payload: bytes


_SELECT = "SELECT entry_id, session_id, hypervisor_id, action, payload FROM journal"
# Of sessions that have ended and hold nothing any more: whoever made it is gone.
_ORPHANS = (
    " WHERE session_id NOT IN (SELECT session_id FROM sessions WHERE state != 'ended')"
    " AND session_id NOT IN (SELECT session_id FROM holders)"
)
_UNSETTLED = (
    " WHERE session_id IN (SELECT session_id FROM sessions WHERE state = 'ended')"
    " AND session_id IN (SELECT session_id FROM holders)"
)


class JournalRows(Rows):
    """Entries stand from before a thing is made until it is gone again."""

    def journal_add(self, session_id: str, hypervisor_id: str, action: str, payload: bytes) -> int:
        """Write an entry; it survives a loss of power when this returns."""
        with self._database.write(durable=True) as connection:
            row = connection.execute(
                "INSERT INTO journal (session_id, hypervisor_id, action, payload, created) VALUES (?, ?, ?, ?, ?)"
                " RETURNING entry_id",
                (session_id, hypervisor_id, action, payload, time.time()),
            ).fetchone()
        return int(row["entry_id"])

    def journal_done(self, entry_id: int) -> None:
        """Strike an entry out: what it names is gone."""
        with self._database.write() as connection:
            connection.execute("DELETE FROM journal WHERE entry_id = ?", (entry_id,))

    def journal_open(self, session_id: str) -> tuple[JournalRow, ...]:
        """Return the open entries of a session, oldest first."""
        return self._journal(" WHERE session_id = ?", (session_id,))

    def journal_orphans(self) -> tuple[JournalRow, ...]:
        """Return the open entries whose sessions are over, oldest first: what a clean-up undoes."""
        return self._journal(_ORPHANS, ())

    def has_unsettled_journal(self) -> bool:
        """Tell whether there is an entry of a session that has ended but may still have living processes."""
        return self._database.row(f"SELECT 1 FROM journal {_UNSETTLED} LIMIT 1") is not None  # noqa: S608

    def _journal(self, where: str, values: tuple[str, ...]) -> tuple[JournalRow, ...]:
        rows = self._database.rows(f"{_SELECT}{where} ORDER BY entry_id", values)
        return tuple(JournalRow(**dict(row)) for row in rows)
