"""A mover half for tests: raw files, with change tracking and faults told by files beside them."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from vbrcore.model.errors import SourceReadFailed, TrackingLost
from vbrcore.plugins.api import SinkSpec, SourceSpec
from vbrcore.plugins.mover import Extent


class FileReader:
    """Settings: `path`; `changes` (offset, length pairs as text) is what tracking says since any change id."""

    def __init__(self, spec: SourceSpec) -> None:
        self._fd = os.open(str(spec.settings["path"]), os.O_RDONLY)
        self.size_bytes = os.fstat(self._fd).st_size
        changes = spec.settings.get("changes", [])
        assert isinstance(changes, list)
        self._changes = [tuple(map(int, change.split(","))) for change in changes]
        self._lost = bool(spec.settings.get("tracking_lost"))
        self._pause_s = int(str(spec.settings.get("pause_ms", 0))) / 1000
        self._bad_offset = int(str(spec.settings.get("bad_offset", -1)))
        self._log = Path(str(spec.settings["log"])) if "log" in spec.settings else None
        self._reads: list[int] = []
        if spec.settings.get("prints"):
            print("a stray print")  # noqa: T201 - the fault
            os.write(1, b"\x00\x00\x00\x05stray\n")

    def extents(self, since: str) -> Iterator[Extent]:
        if since and self._lost:
            raise TrackingLost("the bitmap is gone")
        position = 0
        if since:
            for offset, length in self._changes:
                if offset > position:
                    yield Extent(position, offset - position, "unchanged")
                yield Extent(offset, length, "data")
                position = offset + length
            if position < self.size_bytes:
                yield Extent(position, self.size_bytes - position, "unchanged")
            return
        while position < self.size_bytes:
            try:
                data = os.lseek(self._fd, position, os.SEEK_DATA)
            except OSError:
                data = self.size_bytes
            if data > position:
                yield Extent(position, data - position, "zero")
            position = data
            if position < self.size_bytes:
                hole = os.lseek(self._fd, position, os.SEEK_HOLE)
                yield Extent(position, hole - position, "data")
                position = hole

    def read_into(self, offset: int, buffer: memoryview) -> None:
        time.sleep(self._pause_s)
        self._reads.append(offset)
        if offset == self._bad_offset:
            raise SourceReadFailed(f"cannot read at {offset}")
        assert os.preadv(self._fd, [buffer], offset) == len(buffer)

    def close(self) -> None:
        os.close(self._fd)
        if self._log:
            self._log.write_text(json.dumps(sorted(self._reads)))


class FileConfiguration:
    size_bytes = 0

    def __init__(self, spec: SourceSpec) -> None:
        self._path = Path(str(spec.settings["path"]))

    def read(self) -> bytes:
        return self._path.read_bytes()


class FileWriter:
    def __init__(self, spec: SinkSpec) -> None:
        self._fd = os.open(str(spec.settings["path"]), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.ftruncate(self._fd, spec.size_bytes)

    def write_from(self, offset: int, buffer: memoryview) -> None:
        assert os.pwritev(self._fd, [buffer], offset) == len(buffer)

    def zero(self, offset: int, length: int) -> None:
        pass

    def finish(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


READERS = {"file": FileReader, "configuration": FileConfiguration}
WRITERS = {"file": FileWriter}
