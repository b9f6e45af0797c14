"""One pass over a disk: several threads read, hash, ask, compress and send; memory is bounded by reused slots.

A thread takes a batch of blocks and a slot of buffers, reads and hashes them, and asks the target about those that are
news. It does not wait for the answer but goes on with the next batch; answered batches come first. So reading, the
target's answers, compressing and sending overlap, and a slow stage holds up the others because slots run out.
"""

import itertools
import mmap
import queue
import threading
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from vbrcore.backupfile.codec import CODEC_NONE, ZERO_DIGEST, checksum
from vbrcore.backupfile.maps import Page
from vbrcore.backupfile.rows import KIND_BLOCK, KIND_PAGE, Row
from vbrcore.model.errors import ProtocolError, SourceReadFailed, VbrError
from vbrcore.mover.frames import HAVE, MAX_ASK_DIGESTS, SEND, WAIT
from vbrcore.mover.link import TargetLink
from vbrcore.mover.meter import Counters, Meter
from vbrcore.mover.newmap import NewMap
from vbrcore.mover.plan import Batch, Run, batches
from vbrcore.mover.previous import PreviousMap
from vbrcore.mover.storing import Storing
from vbrcore.mover.workers import run_threads, stopped
from vbrcore.plugins.mover import Reader

POOL_BYTES: Final = 48 * 1024 * 1024
# Small enough that a batch is still in the processor's caches when the answer comes and it is compressed.
MAX_BATCH_BYTES: Final = 2 * 1024 * 1024
MAX_RECENT: Final = 64 * 1024
MAX_DEFERRED: Final = 4096
_WAIT_STEP_S: Final = 0.05


class Settings(msgspec.Struct, frozen=True):
    """What stays the same over all passes of a task."""

    size_bytes: int
    block_size_bytes: int
    level: int
    damaged: frozenset[bytes]
    threads: int
    storing: Storing

    def batch_blocks(self) -> int:
        """As many blocks as leave each thread at least three batches: one in hand and two being asked about."""
        share = POOL_BYTES // (3 * self.threads)
        return max(1, min(share, MAX_BATCH_BYTES) // self.block_size_bytes)


class _Block(msgspec.Struct, gc=False):
    """A block that the target is asked about. `raw` is None where it must be read again: it had to wait."""

    index: int
    name: bytes
    raw: memoryview | None


class _Asked(msgspec.Struct, gc=False):
    """A question that is on its way, with the slot that holds its blocks."""

    slot: list[memoryview]
    blocks: list[_Block]
    status: bytes = b""


class Pass:
    """Reads what `runs` say and sends what the target lacks; `run` returns the root of the new map."""

    def __init__(
        self,
        settings: Settings,
        *,
        reader: Reader,
        link: TargetLink,
        meter: Meter,
        slots: list[list[memoryview]],
        previous: PreviousMap | None,
        runs: Iterable[Run],
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._link = link
        self._meter = meter
        self._previous = previous
        self._batches = batches(runs, settings.batch_blocks())
        self.new_map = NewMap(settings.size_bytes, settings.block_size_bytes, previous, self._send_page)
        self._pages = meter.counters()
        self._zeros = bytearray(settings.block_size_bytes)
        self._recent: dict[bytes, int] = {}
        self._deferred: list[_Block] = []
        self._answered: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of everything below
        self._slots = list(slots)
        self._open = 0
        self._exhausted = False
        self._error: VbrError | None = None

    def run(self) -> bytes:
        """Do the pass. Raises what the reader, the target or `stop` say."""
        run_threads(self._settings.threads, self._work, lambda: self.stop(stopped()))
        if self._error is not None:
            raise self._error
        return self.new_map.finish()

    def stop(self, error: VbrError) -> None:
        """Make `run` raise `error` at the next block. May be called from any thread, more than once."""
        self._error = self._error or error
        self._wake_all()

    # --- threads ----------------------------------------------------------------------------------

    def _work(self) -> None:
        counters = self._meter.counters()
        while self._error is None:
            asked = self._next_answered()
            if asked is not None:
                self._finish(asked, counters)
            elif not self._begin(counters):
                return

    def _begin(self, counters: Counters) -> bool:
        """Take new work, or wait for an answer. False when there is nothing left to do at all."""
        with self._lock:
            batch, waiting = self._take()
            slot = self._slots.pop() if batch or waiting else None
            if slot is None and not self._open and self._exhausted:
                return False
            self._open += slot is not None
        if slot is None:
            started = time.perf_counter()
            asked = self._answered.get()
            counters.target_s += time.perf_counter() - started
            if asked is not None:
                self._finish(asked, counters)
        elif batch is not None:
            self._read(batch, slot, counters)
        else:
            time.sleep(_WAIT_STEP_S)  # another task is sending these; to ask at once would only load the target
            self._ask(slot, waiting)
        return True

    def _take(self) -> tuple[Batch | None, list[_Block]]:
        """Return the next batch, or blocks that had to wait; neither if there is no slot or no work. Under the lock."""
        if not self._slots:
            return None, []
        if not self._exhausted and len(self._deferred) < MAX_DEFERRED:
            batch = next(self._batches, None)
            if batch is not None:
                return batch, []
            self._exhausted = True
        waiting, self._deferred = self._deferred[:MAX_ASK_DIGESTS], self._deferred[MAX_ASK_DIGESTS:]
        return None, waiting

    def _next_answered(self) -> _Asked | None:
        try:
            return self._answered.get_nowait()
        except queue.Empty:
            return None

    def _wake_all(self) -> None:
        for _ in range(self._settings.threads):
            self._answered.put(None)

    def _give_back(self, slot: list[memoryview]) -> None:
        with self._lock:
            self._slots.append(slot)
            self._open -= 1
            last = self._exhausted and not self._open
        if last:
            self._wake_all()

    # --- stages -----------------------------------------------------------------------------------

    def _read(self, batch: Batch, slot: list[memoryview], counters: Counters) -> None:
        positions = batch.positions()
        before = self._before(batch)
        names: list[bytes] = []
        news: list[_Block] = []
        for buffer, index, old in zip(slot, positions, before, strict=False):
            if self._error is not None:
                return
            raw = self._read_block(index, buffer, counters)
            started = time.perf_counter()
            name = self._settings.storing.name_of(raw, self._zeros)
            counters.compress_s += time.perf_counter() - started
            names.append(name)
            if name != ZERO_DIGEST and (name != old or name in self._settings.damaged) and self._is_new(name, index):
                news.append(_Block(index, name, raw))
        self.new_map.add(batch, names)
        if news:
            self._ask(slot, news)
        else:
            self._give_back(slot)

    def _read_block(self, index: int, buffer: memoryview, counters: Counters) -> memoryview:
        block_size = self._settings.block_size_bytes
        offset = index * block_size
        length = min(block_size, self._settings.size_bytes - offset)
        raw = buffer if length == block_size else buffer[:length]
        started = time.perf_counter()
        self._reader.read_into(offset, raw)
        counters.source_s += time.perf_counter() - started
        counters.read_bytes += length
        return raw

    def _before(self, batch: Batch) -> list[bytes | None]:
        """Return what the previous map says of the blocks to read; None where it cannot be the same."""
        before: list[bytes | None] = []
        for run in batch.runs:
            if run.state == "data":
                before += [None] * run.count if self._previous is None else self._previous.leaves(run.first, run.count)
        return before

    def _is_new(self, name: bytes, index: int) -> bool:
        """Whether this disk's blocks of late had no such digest; at once so that only one thread asks."""
        first = self._recent.setdefault(name, index) == index
        if len(self._recent) > MAX_RECENT:
            with self._lock:
                for old in list(self._recent)[: MAX_RECENT // 8]:
                    self._recent.pop(old, None)
        return first

    def _ask(self, slot: list[memoryview], blocks: list[_Block]) -> None:
        asked = _Asked(slot, blocks)

        def on_answer(status: bytes) -> None:
            asked.status = status
            self._answered.put(asked)

        self._link.ask([block.name for block in blocks], on_answer)

    def _finish(self, asked: _Asked, counters: Counters) -> None:
        """Send what the target wants and give the slot back."""
        if len(asked.status) != len(asked.blocks):
            raise ProtocolError("the target mover did not answer for every digest")
        waiting: list[_Block] = []
        # Blocks that had to wait may be more than buffers: they are read only now, one after the other.
        for block, status, buffer in zip(asked.blocks, asked.status, itertools.cycle(asked.slot), strict=False):
            if self._error is not None:
                return
            if status == SEND:
                self._send_block(block, buffer, counters)
            elif status == WAIT:
                waiting.append(_Block(block.index, block.name, None))
            elif status != HAVE:
                raise ProtocolError(f"the target mover answered {status} for a digest")
        if waiting:
            with self._lock:
                self._deferred += waiting
        self._give_back(asked.slot)

    def _send_block(self, block: _Block, buffer: memoryview, counters: Counters) -> None:
        raw = block.raw
        if raw is None:
            raw = self._read_block(block.index, buffer, counters)
            if self._settings.storing.digest(raw) != block.name:
                raise SourceReadFailed(f"block {block.index} changed while it was read: the source is not one moment")
        started = time.perf_counter()
        row, stored = self._settings.storing.store(block.name, raw, KIND_BLOCK, self._settings.level)
        compressed = time.perf_counter()
        counters.transferred_bytes += self._link.send_block(row, stored)
        counters.compress_s += compressed - started
        counters.network_s += time.perf_counter() - compressed

    def _send_page(self, page: Page) -> None:
        """Pages are sent unasked: 8 KiB for 256 blocks cost less than a question; the target drops what it has."""
        name, content = page
        row = Row(name, len(content), len(content), CODEC_NONE, KIND_PAGE, checksum(content))
        self._pages.transferred_bytes += self._link.send_block(row, content)


def make_slots(settings: Settings) -> list[list[memoryview]]:
    """Map the buffers, page-aligned for readers with direct I/O; the kernel gives memory when they are used."""
    block_size, count = settings.block_size_bytes, settings.batch_blocks()
    slots = []
    for _ in range(max(1, POOL_BYTES // (block_size * count))):
        area = memoryview(mmap.mmap(-1, block_size * count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        slots.append([area[i * block_size : (i + 1) * block_size] for i in range(count)])
    return slots
