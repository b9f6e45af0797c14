"""The health check of one chain: several threads read what it stores, each extent once."""

import threading
import time

from vbrcore.chain.checkup import Checkup, look_at_maps
from vbrcore.chain.diagnosis import Diagnosis
from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import SessionStopped, VbrError
from vbrcore.model.session import Totals
from vbrcore.mover.control import Control
from vbrcore.mover.messages import Examined, ExamineWork, Ready
from vbrcore.mover.reading import follow, reading_threads, unlock
from vbrcore.mover.workers import run_threads
from vbrcore.storage.places import open_place


def examine(control: Control, work: ExamineWork) -> Examined:
    """Do it all and say what was found. Raises what keeps a chain as a whole from being read."""
    storage = open_place(work.place, work.repository_id)
    with ChainReader.open(storage, work.directory) as reader:
        unlock(control, reader, wanted=work.deep, encrypted=work.encrypted)
        control.send(Ready())
        if work.maps_only:
            return Examined(work.task_id, Totals(), Diagnosis(look_at_maps(reader)))
        reading = ChainReading(Checkup(storage, reader, deep=work.deep, points=work.point_ids), reading_threads())
        follow(control, reading)
        return Examined(work.task_id, reading.totals(), reading.checkup.diagnose())


class ChainReading:
    """Reads all extents of a checkup; `run` may be stopped from another thread."""

    def __init__(self, checkup: Checkup, threads: int) -> None:
        self.checkup = checkup
        self.size_bytes = checkup.size_bytes
        self._extents = checkup.extents()
        self._threads = threads
        self._lock = threading.Lock()
        self._read_bytes: list[list[int]] = []  # a cell for each thread, which alone changes it
        self._busy_s: list[list[float]] = []
        self._asked = time.monotonic()
        self._busy_before_s = 0.0
        self._error: VbrError | None = None

    @property
    def done_bytes(self) -> int:
        return self.totals().read_bytes

    def run(self) -> None:
        run_threads(self._threads, self._work, self._on_failure)
        if self._error is not None:
            raise self._error

    def stop(self, error: VbrError) -> None:
        """Make `run` raise `error` at the next extent."""
        self._error = self._error or error

    def totals(self) -> Totals:
        return Totals(read_bytes=sum(cell[0] for cell in tuple(self._read_bytes)))

    def busy(self) -> dict[str, float]:
        now = time.monotonic()
        span_s = max(1e-6, now - self._asked) * self._threads
        busy_s = sum(cell[0] for cell in tuple(self._busy_s))
        share = min(1.0, (busy_s - self._busy_before_s) / span_s)
        self._asked, self._busy_before_s = now, busy_s
        return {"source": share}

    def _work(self) -> None:
        read_bytes, busy_s, buffer = [0], [0.0], bytearray()
        self._read_bytes.append(read_bytes)
        self._busy_s.append(busy_s)
        while self._error is None:
            with self._lock:
                extent = next(self._extents, None)
            if extent is None:
                return
            started = time.perf_counter()
            read_bytes[0] += self.checkup.check(extent, buffer)
            busy_s[0] += time.perf_counter() - started

    def _on_failure(self) -> None:
        self._error = self._error or SessionStopped("another thread failed")
