"""One disk from its reader to the target: which pass is made, the audit, and what is reported."""

import threading
from collections.abc import Iterator

from vbrcore.model.errors import DataCorrupt, TrackingLost, VbrError
from vbrcore.mover.audit import Tally, sample
from vbrcore.mover.link import TargetLink
from vbrcore.mover.messages import DiskDone, SourceWork
from vbrcore.mover.meter import Meter
from vbrcore.mover.pipeline import Pass, Settings, make_slots
from vbrcore.mover.plan import Run, block_runs, joined
from vbrcore.mover.previous import PreviousMap
from vbrcore.mover.storing import LEVELS, storing_for
from vbrcore.mover.workers import run_threads
from vbrcore.plugins.mover import Reader


class DiskBackup:
    """Backs up one disk; `run` may be stopped from another thread."""

    def __init__(self, work: SourceWork, reader: Reader, link: TargetLink, threads: int) -> None:
        self.meter = Meter()
        self.warnings: list[str] = []
        self._work = work
        self._reader = reader
        self._link = link
        self._settings = Settings(
            size_bytes=reader.size_bytes,
            block_size_bytes=work.block_size_bytes,
            level=LEVELS[work.compression],
            damaged=frozenset(work.damaged),
            threads=threads,
            storing=storing_for(work.secret),
        )
        self._slots = make_slots(self._settings)  # one set for all passes
        self._previous = self._open_previous()
        self._pass: Pass | None = None
        self._error: VbrError | None = None

    @property
    def done_bytes(self) -> int:
        """How far the pass is, in bytes of the disk."""
        if self._pass is None:
            return 0
        return min(self._settings.size_bytes, self._pass.new_map.done_blocks * self._settings.block_size_bytes)

    @property
    def size_bytes(self) -> int:
        return self._settings.size_bytes

    def stop(self, error: VbrError) -> None:
        """Make `run` raise `error` at the next block."""
        self._error = self._error or error
        if self._pass is not None:
            self._pass.stop(error)

    def run(self) -> DiskDone:
        """Send what the target lacks; return when it has confirmed that everything arrived."""
        root, compared = self._read()
        self._check()
        self._link.done()
        return DiskDone(
            task_id=self._work.task_id,
            root=root,
            size_bytes=self._settings.size_bytes,
            totals=self.meter.totals(),
            compared=compared,
            warnings=tuple(self.warnings),
        )

    def _read(self) -> tuple[bytes, bool]:
        """Return (the root, whether digests of the whole disk were compared)."""
        since = "" if self._work.distrust or self._previous is None else self._work.since
        if since:
            try:
                return self._read_changes(since), False
            except TrackingLost as error:
                self.warnings.append(f"change tracking is lost, the disk is compared in full: {error}")
            except _TrackingLied as error:
                self.warnings.append(f"change tracking called changed blocks unchanged ({error}): compared in full")
            except DataCorrupt as error:
                self.warnings.append(f"the last point's map is damaged, the disk is compared in full: {error}")
        return self._make_pass(self._runs("")), self._previous is not None

    def _read_changes(self, since: str) -> bytes:
        tally = Tally()
        root = self._make_pass(tally.watch(self._runs(since)))
        self._check()
        self._audit(sample(self._runs(since), tally, self._work.audit_seed))
        return root

    def _make_pass(self, runs: Iterator[Run]) -> bytes:
        self._pass = Pass(
            self._settings,
            reader=self._reader,
            link=self._link,
            meter=self.meter,
            slots=self._slots,
            previous=self._previous,
            runs=runs,
        )
        self._check()  # a stop between the two lines above found no pass
        return self._pass.run()

    def _runs(self, since: str) -> Iterator[Run]:
        extents = self._reader.extents(since)
        runs = joined(block_runs(extents, self._settings.size_bytes, self._settings.block_size_bytes))
        if self._previous is None:
            return runs
        return joined(self._usable(runs, self._previous))

    def _usable(self, runs: Iterator[Run], previous: PreviousMap) -> Iterator[Run]:
        comparable = previous.comparable_blocks(self._settings.size_bytes)
        for run in runs:
            if run.state == "unchanged":
                yield from previous.known(run, comparable)
            else:
                yield run

    def _open_previous(self) -> PreviousMap | None:
        if not self._work.previous_root:
            return None
        return PreviousMap(
            self._work.previous_root,
            self._work.previous_size_bytes,
            self._work.block_size_bytes,
            self._settings.damaged,
            self._link.page,
        )

    def _audit(self, blocks: list[int]) -> None:
        """Read the sample and compare. Raises `_TrackingLied`."""
        if not blocks or self._previous is None:
            return
        previous, size, block_size = self._previous, self._settings.size_bytes, self._settings.block_size_bytes
        todo, lock, done = iter(blocks), threading.Lock(), threading.Event()

        def work() -> None:
            counters, buffer, zeros = self.meter.counters(), bytearray(block_size), bytearray(block_size)
            while not done.is_set():
                self._check()
                with lock:
                    index = next(todo, None)
                if index is None:
                    return
                raw = memoryview(buffer)[: min(block_size, size - index * block_size)]
                self._reader.read_into(index * block_size, raw)
                counters.audit_bytes += len(raw)
                name = self._settings.storing.name_of(raw, zeros)
                if name != previous.leaves(index, 1)[0]:
                    raise _TrackingLied(f"block {index}")

        run_threads(min(self._settings.threads, len(blocks)), work, done.set)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


class _TrackingLied(Exception):
    """A block that was called unchanged is not what it was."""
