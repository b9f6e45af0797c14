"""Who changed what."""

import time

import msgspec

from vbrcore.catalog.base import Rows


class Change(msgspec.Struct, frozen=True):
    """One change that was asked of the service. `outcome` is "ok" or an error's code."""

    time: float
    uid: int
    operation: str
    subject: str
    outcome: str


class AuditRows(Rows):
    """Every operation that changes something, also one that was refused."""

    def audit(self, *, uid: int, operation: str, subject: str, outcome: str) -> None:
        with self._database.write() as connection:
            connection.execute(
                "INSERT INTO audit (time, uid, operation, subject, outcome) VALUES (?, ?, ?, ?, ?)",
                (time.time(), uid, operation, subject, outcome),
            )

    def changes(self, limit: int = 100) -> tuple[Change, ...]:
        """Return the newest changes first."""
        rows = self._database.rows(
            "SELECT time, uid, operation, subject, outcome FROM audit ORDER BY audit_id DESC LIMIT ?", (limit,)
        )
        return tuple(Change(**dict(row)) for row in rows)
