"""What one disk of a point needs, from chain to chain: its map is walked, the target asked, what it lacks is sent.

Nothing is decompressed, decrypted or hashed anew. Several threads take batches of digests from one walk: while one
waits for the target's answer, others read and send.
"""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Final

from vbrcore.backupfile.maps import FANOUT, MapCursor, walk
from vbrcore.chain.closure import same_as
from vbrcore.chain.reader import ChainReader, Location
from vbrcore.model.errors import BlocksMissing, DataCorrupt, ProtocolError, VbrError
from vbrcore.model.point import Point, PointDisk
from vbrcore.mover.extents import StoredExtents
from vbrcore.mover.frames import HAVE, SEND, WAIT
from vbrcore.mover.link import TargetLink
from vbrcore.mover.messages import CopyWork, DiskDone
from vbrcore.mover.meter import Counters, Meter
from vbrcore.mover.workers import run_threads, stopped

BATCH_DIGESTS: Final = 64  # of the largest usual blocks, not more than a source may have outstanding (DESIGN 4.5)
MAX_RECENT: Final = 64 * 1024
_WAIT_STEP_S: Final = 0.05

_Place = tuple[int, bytes]  # how far into the disk, and a digest


class CopyPass:
    """Copies one disk (and the configuration, where that is asked for); `run` may be stopped from another thread."""

    def __init__(self, work: CopyWork, reader: ChainReader, point: Point, link: TargetLink, threads: int) -> None:
        self.meter = Meter()
        self.done_bytes = 0
        self._work = work
        self._reader = reader
        self._point = point
        self._disk = None if work.disk_number < 0 else point.disks[work.disk_number]
        self._link = link
        self._threads = threads
        self._lock = threading.Lock()  # of what follows
        self._walked = StoredExtents(reader)
        self._places = self._needed()
        self._recent: dict[bytes, None] = {}
        self._deferred: list[bytes] = []
        self._answers: list[queue.SimpleQueue[bytes]] = []
        self._error: VbrError | None = None

    @property
    def size_bytes(self) -> int:
        """Of the disk: what `done_bytes` goes up to."""
        return 0 if self._disk is None else self._disk.size_bytes

    def stop(self, error: VbrError) -> None:
        """Make `run` raise `error` at the next extent. May be called from any thread, more than once."""
        self._error = self._error or error
        for answers in tuple(self._answers):
            answers.put(b"")

    def run(self) -> DiskDone:
        """Send what the target lacks; return when it has confirmed that everything arrived.

        Raises `DataCorrupt`, which names what the source's chain has no intact extent of.
        """
        run_threads(self._threads, self._copy, lambda: self.stop(stopped()))
        if self._error is not None:
            raise self._error
        self._link.done()
        return DiskDone(
            task_id=self._work.task_id,
            root=self._point.configuration if self._disk is None else self._disk.root,
            size_bytes=self.size_bytes,
            totals=self.meter.totals(),
            compared=False,
        )

    # --- which digests: under the lock --------------------------------------------------------------

    def _needed(self) -> Iterator[_Place]:
        if self._disk is not None:
            yield from self._of_disk(self._disk)
        if self._work.configuration and self._point.configuration:
            yield self.size_bytes, self._point.configuration

    def _of_disk(self, disk: PointDisk) -> Iterator[_Place]:
        block_size = self._point.block_size_bytes
        skip = None
        if self._work.base_root:
            skip = same_as(MapCursor(self._work.base_root, self._work.base_size_bytes, block_size, self._base_page))
        for level, index, name in walk(disk.root, disk.size_bytes, block_size, self._walked.page, skip):
            yield min(disk.size_bytes, index * FANOUT**level * block_size), name

    def _base_page(self, name: bytes) -> bytes:
        """Return a page of the map that is known to the target; the source may have given it back since."""
        try:
            return self._walked.page(name)
        except DataCorrupt:
            page = self._link.page(name)
        if page is None:
            raise BlocksMissing(f"neither side has the page {name.hex()}")
        return page

    def _take(self) -> tuple[list[bytes], bool]:
        """Return the next digests to ask for, and whether the target was asked for them before."""
        with self._lock:
            batch: list[bytes] = []
            for position, name in self._places:
                self.done_bytes = max(self.done_bytes, position)
                if name not in self._recent:
                    self._recent[name] = None
                    batch.append(name)
                    if len(batch) == BATCH_DIGESTS:
                        break
            self._forget_old()
            if batch:
                return batch, False
            batch, self._deferred = self._deferred[:BATCH_DIGESTS], self._deferred[BATCH_DIGESTS:]
            return batch, True

    def _forget_old(self) -> None:
        if len(self._recent) > MAX_RECENT:
            for old in list(self._recent)[: MAX_RECENT // 8]:
                del self._recent[old]

    # --- threads ------------------------------------------------------------------------------------

    def _copy(self) -> None:
        counters, extents = self.meter.counters(), StoredExtents(self._reader)
        answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._answers.append(answers)  # before the error is looked at, so that `stop` wakes this thread or ends it
        while self._error is None:
            batch, again = self._take()
            if not batch:
                return
            if again:
                time.sleep(_WAIT_STEP_S)  # another task is sending these
            started = time.perf_counter()
            self._link.ask(batch, answers.put)
            status = answers.get()
            counters.target_s += time.perf_counter() - started
            if self._error is None:
                self._answered(batch, status, extents, counters)

    def _answered(self, batch: list[bytes], status: bytes, extents: StoredExtents, counters: Counters) -> None:
        if len(status) != len(batch) or not set(status) <= {HAVE, WAIT, SEND}:
            raise ProtocolError("the target mover did not answer for every digest")
        wanted = [(self._reader.find(name), name) for name, answer in zip(batch, status, strict=True) if answer == SEND]
        for location, name in sorted(wanted, key=_in_file_order):
            if self._error is not None:
                return
            self._send(name, location, extents, counters)
        waiting = [name for name, answer in zip(batch, status, strict=True) if answer == WAIT]
        with self._lock:
            self._deferred += waiting

    def _send(self, name: bytes, location: Location | None, extents: StoredExtents, counters: Counters) -> None:
        started = time.perf_counter()
        row, stored = extents.read(name, location)
        read = time.perf_counter()
        counters.read_bytes += row.stored_length
        counters.transferred_bytes += self._link.send_block(row, stored)
        counters.source_s += read - started
        counters.network_s += time.perf_counter() - read


def _in_file_order(wanted: tuple[Location | None, bytes]) -> tuple[int, int]:
    location = wanted[0]
    return (-1, 0) if location is None else (location.file, location.offset)
