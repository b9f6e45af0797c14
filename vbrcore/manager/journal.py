"""What a session makes on a hypervisor, written down before it is made, so that anyone can undo it."""

from typing import Literal

import msgspec

from vbrcore.manager.context import Context
from vbrcore.plugins.api import RestorePlan, SnapshotPlan

SNAPSHOT = "snapshot"
RESTORE = "restore"


class SnapshotEntry(msgspec.Struct, frozen=True):
    """Payload of a `snapshot` entry: enough to release it and to ask the files whether its point was committed."""

    plan: SnapshotPlan
    point_id: str
    repository_id: str
    directory: str


class RestoreEntry(msgspec.Struct, frozen=True):
    """Payload of a `restore` entry: a machine that was being made."""

    plan: RestorePlan


class SnapshotJournal:
    """One entry, from before the snapshot until it is released."""

    def __init__(self, context: Context, entry_id: int) -> None:
        self._catalog = context.catalog
        self._entry_id = entry_id
        self._state: Literal["open", "committing", "committed", "refused"] = "open"

    @classmethod
    def open(cls, context: Context, hypervisor_id: str, entry: SnapshotEntry) -> "SnapshotJournal":
        """Write the entry durably; only then may the snapshot be taken."""
        payload = msgspec.msgpack.encode(entry)
        entry_id = context.catalog.journal_add(context.session.session_id, hypervisor_id, SNAPSHOT, payload)
        return cls(context, entry_id)

    def committing(self) -> None:
        self._state = "committing"

    def committed(self) -> None:
        self._state = "committed"

    def refused(self) -> None:
        """The target said that it did not commit the point."""
        self._state = "refused"

    def outcome(self) -> bool | None:
        """Tell whether the point is committed; None when the target was lost before it answered."""
        return {"open": False, "refused": False, "committing": None, "committed": True}[self._state]

    def done(self) -> None:
        self._catalog.journal_done(self._entry_id)
