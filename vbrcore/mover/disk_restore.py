"""One disk of a point, read in file order by several threads, checked, and written to a sink (or only checked)."""

import mmap
import threading
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from vbrcore.backupfile.codec import CODEC_NONE, decompress_into, digest
from vbrcore.backupfile.maps import FANOUT, ZERO_PAGE, walk
from vbrcore.chain.reader import ChainReader, Location
from vbrcore.model.errors import BlocksMissing, DataCorrupt, FormatInvalid, SessionStopped, VbrError
from vbrcore.model.point import PointDisk
from vbrcore.model.session import Totals
from vbrcore.mover.workers import run_threads
from vbrcore.plugins.mover import Writer

# How much longer than a block its extent may be: by salt, nonce and tag where it is encrypted.
_ENCRYPTION_BYTES: Final = 44
WINDOW_BLOCKS: Final = 1024  # within so many blocks, reads follow the order of the files
_DAMAGE: Final = (DataCorrupt, BlocksMissing, FormatInvalid)


class _Item(msgspec.Struct, frozen=True, gc=False):
    """One extent and all places of the disk that it goes to; or, without a location, a hole of `length` bytes."""

    offsets: tuple[int, ...]
    length: int
    location: Location | None


class _Counters:
    """Of one thread, which alone changes them."""

    def __init__(self) -> None:
        self.read_bytes = 0
        self.written_bytes = 0
        self.source_s = 0.0
        self.compress_s = 0.0
        self.target_s = 0.0


class DiskRestore:
    """Without sink, damage is collected and not raised; `deep` then also recomputes digests."""

    def __init__(
        self,
        reader: ChainReader,
        disk: PointDisk,
        block_size_bytes: int,
        sink: Writer | None,
        *,
        deep: bool,
        threads: int,
    ) -> None:
        self.size_bytes = disk.size_bytes
        self.done_bytes = 0
        self._reader = reader
        self._disk = disk
        self._block_size = block_size_bytes
        self._sink = sink
        self._ordered = bool(getattr(sink, "ordered", False))
        self._deep = deep
        self._threads = threads
        self._items = self._ordered_items() if self._ordered else self._grouped_items()
        self._lock = threading.Lock()
        self._damaged: list[tuple[int, int]] = []
        self._counters: list[_Counters] = []
        self._busy_s = dict.fromkeys(("source", "compress", "target"), 0.0)
        self._asked = time.monotonic()
        self._error: VbrError | None = None

    def run(self) -> None:
        """Do it all. Raises `DataCorrupt` (with a sink), and what the sink says."""
        run_threads(self._threads, self._work, self._on_failure)
        if self._error is not None:
            raise self._error
        self.done_bytes = self.size_bytes

    def stop(self, error: VbrError) -> None:
        """Make `run` raise `error` at the next block."""
        self._error = self._error or error

    def totals(self) -> Totals:
        """Bytes read from backup files, and bytes written to the sink."""
        counters = tuple(self._counters)
        return Totals(
            read_bytes=sum(c.read_bytes for c in counters), transferred_bytes=sum(c.written_bytes for c in counters)
        )

    def busy(self) -> dict[str, float]:
        now = time.monotonic()
        span_s = max(1e-6, now - self._asked) * self._threads
        self._asked, before = now, self._busy_s
        self._busy_s = {stage: sum(getattr(c, f"{stage}_s") for c in tuple(self._counters)) for stage in before}
        return {stage: min(1.0, (self._busy_s[stage] - before[stage]) / span_s) for stage in before}

    def damaged(self) -> tuple[tuple[int, int], ...]:
        """Return the damaged ranges as (offset, length), in order, neighbours joined."""
        joined: list[tuple[int, int]] = []
        for offset, length in sorted(self._damaged):
            if joined and joined[-1][0] + joined[-1][1] >= offset:
                start = joined[-1][0]
                joined[-1] = start, max(joined[-1][1], offset + length - start)
            else:
                joined.append((offset, length))
        return tuple(joined)

    # --- threads ----------------------------------------------------------------------------------

    def _work(self) -> None:
        counters = _Counters()
        self._counters.append(counters)
        # Two buffers for good, aligned to pages (so that a sink can write directly): memory that is taken anew for each
        # block costs more than its decompression.
        stored = memoryview(mmap.mmap(-1, self._block_size + _ENCRYPTION_BYTES))
        raw_buffer = memoryview(mmap.mmap(-1, self._block_size))
        opened = memoryview(mmap.mmap(-1, self._block_size)) if self._reader.opener is not None else stored
        while self._error is None:
            with self._lock:
                item = next(self._items, None)
            if item is None:
                return
            if item.location is None:
                self._write_hole(item)
                continue
            try:
                raw = self._load(item, item.location, (stored, opened, raw_buffer), counters)
            except _DAMAGE as error:
                self._on_damage(item, error)
                continue
            if raw is not None and self._sink is not None:
                self._write(item, raw, counters)

    def _load(
        self, item: _Item, location: Location, buffers: tuple[memoryview, memoryview, memoryview], counters: _Counters
    ) -> memoryview | None:
        """Return the verified content; None where only the stored bytes were to be checked."""
        row = location.row
        started = time.perf_counter()
        if row.stored_length > self._block_size + (_ENCRYPTION_BYTES if row.encrypted else 0):
            raise DataCorrupt(f"a block is stored in {row.stored_length} bytes")
        if row.raw_length != item.length:
            raise DataCorrupt(f"a block has {row.raw_length} bytes instead of {item.length}")
        stored, raw = buffers[0][: row.stored_length], buffers[2][: row.raw_length]
        self._reader.read_stored(location, stored)
        counters.read_bytes += row.stored_length
        read = time.perf_counter()
        counters.source_s += read - started
        if self._sink is None and not self._deep:
            return None
        opener = self._reader.opener
        packed = stored if opener is None else opener.open_row(row, stored, buffers[1])
        if row.codec == CODEC_NONE and len(packed) == len(raw):
            raw = packed
        else:
            decompress_into(packed, raw, row.codec)
        if (digest(raw) if opener is None else opener.digest(raw)) != row.digest:
            raise DataCorrupt(f"the block {row.digest.hex()[:16]} does not have this digest")
        counters.compress_s += time.perf_counter() - read
        return raw

    def _write(self, item: _Item, raw: memoryview, counters: _Counters) -> None:
        if self._sink is None:
            return
        started = time.perf_counter()
        for offset in item.offsets:
            self._sink.write_from(offset, raw)
            counters.written_bytes += len(raw)
        counters.target_s += time.perf_counter() - started

    def _write_hole(self, item: _Item) -> None:
        if self._sink is not None:
            self._sink.zero(item.offsets[0], item.length)

    def _on_damage(self, item: _Item, error: VbrError) -> None:
        if self._sink is not None:
            raise DataCorrupt(f"disk {self._disk.name} at offset {item.offsets[0]}: {error}") from error
        with self._lock:
            self._damaged += [(offset, item.length) for offset in item.offsets]

    def _on_failure(self) -> None:
        """One thread failed: the others stop, also those that wait for their turn in a stream."""
        self._error = self._error or SessionStopped("another thread failed")
        if self._ordered and self._sink is not None:
            self._sink.close()

    # --- what is to be done; under the lock -------------------------------------------------------

    def _leaves(self) -> Iterator[tuple[int, bytes]]:
        """Yield (block index, digest). Without sink a page that cannot be read becomes a damaged range."""
        level, index = 0, 0

        def fetch(name: bytes) -> bytes:
            try:
                return self._reader.block(name)
            except _DAMAGE as error:
                span = FANOUT**level * self._block_size
                length = min(span, self.size_bytes - index * span)
                if self._sink is not None:
                    raise DataCorrupt(
                        f"disk {self._disk.name}: the map of {length} bytes from offset {index * span}: {error}"
                    ) from error
                self._damaged.append((index * span, length))
                return ZERO_PAGE

        for level, index, name in walk(self._disk.root, self.size_bytes, self._block_size, fetch):
            if level == 0:
                yield index, name

    def _length(self, offset: int) -> int:
        return min(self._block_size, self.size_bytes - offset)

    def _grouped_items(self) -> Iterator[_Item]:
        window: dict[tuple[bytes, int], list[int]] = {}
        for count, (index, name) in enumerate(self._leaves(), 1):
            offset = index * self._block_size
            window.setdefault((name, self._length(offset)), []).append(offset)
            if count % WINDOW_BLOCKS == 0:
                yield from self._in_file_order(window)
                self.done_bytes = offset
                window = {}
        yield from self._in_file_order(window)

    def _in_file_order(self, window: dict[tuple[bytes, int], list[int]]) -> Iterator[_Item]:
        found = []
        for (name, length), offsets in window.items():
            location = self._reader.find(name)
            if location is None:
                self._on_missing(offsets, length, name)
            else:
                found.append(_Item(tuple(offsets), length, location))
        return iter(sorted(found, key=_place))

    def _ordered_items(self) -> Iterator[_Item]:
        position = 0
        for index, name in self._leaves():
            offset = index * self._block_size
            if offset > position:
                yield _Item((position,), offset - position, None)
            location = self._reader.find(name)
            if location is None:
                self._on_missing([offset], self._length(offset), name)
            yield _Item((offset,), self._length(offset), location)
            position = offset + self._length(offset)
            self.done_bytes = position
        if position < self.size_bytes:
            yield _Item((position,), self.size_bytes - position, None)

    def _on_missing(self, offsets: list[int], length: int, name: bytes) -> None:
        if self._sink is not None:
            raise DataCorrupt(f"disk {self._disk.name} at offset {offsets[0]}: no file has block {name.hex()[:16]}")
        self._damaged += [(offset, length) for offset in offsets]


def _place(item: _Item) -> tuple[int, int]:
    return (item.location.file, item.location.offset) if item.location else (0, 0)
