"""Reading a disk of a running domain from its backup job."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from vbr_kvm.places import ended_reason
from vbrcore.model.errors import ScratchFull, SourceReadFailed, TrackingLost
from vbrcore.plugins.api import SourceSpec
from vbrcore.plugins.mover import Extent
from vbrcore.plugins.nbd import ALLOCATION, Connect, NbdClient, unix


class BackupReader:
    """A disk of a running domain, as it was when its backup job began.

    Settings: `socket`, `export`, and `bitmap` where the job exports the changes since the
    checkpoint `since`.
    """

    def __init__(
        self, spec: SourceSpec, connect: Connect | None = None, ended: Callable[[], str] | None = None
    ) -> None:
        """`connect` and `ended`: how the socket and the note beside it are reached, where not on this machine."""
        path = str(spec.settings["socket"])
        bitmap = str(spec.settings.get("bitmap", ""))
        self._ended = ended or partial(ended_reason, Path(path).parent)
        self._since = str(spec.settings.get("since", ""))
        self._bitmap = f"qemu:dirty-bitmap:{bitmap}" if bitmap else ""
        contexts = (ALLOCATION, self._bitmap) if bitmap else (ALLOCATION,)
        try:
            self._client = NbdClient(connect or unix(path), str(spec.settings["export"]), contexts=contexts)
        except SourceReadFailed as error:
            raise self._reason(error) from error
        self.size_bytes = self._client.size_bytes

    def extents(self, since: str) -> Iterator[Extent]:
        """Everything can be read, what is unchanged too: the export is the whole disk."""
        if since and (since != self._since or not self._bitmap):
            raise TrackingLost(f"the backup job exports no changes since {since}")
        return self._explained(self._client.extents(self._bitmap if since else ""))

    def _explained(self, extents: Iterator[Extent]) -> Iterator[Extent]:
        try:
            yield from extents
        except SourceReadFailed as error:
            raise self._reason(error) from error

    def read_into(self, offset: int, buffer: memoryview) -> None:
        try:
            self._client.read_into(offset, buffer)
        except SourceReadFailed as error:
            raise self._reason(error) from error

    def close(self) -> None:
        self._client.close()

    def _reason(self, error: SourceReadFailed) -> ScratchFull | SourceReadFailed:
        """Say that the backup was ended for want of scratch space, where that is why the source is gone."""
        ended = self._ended()
        return ScratchFull(ended) if ended else error
