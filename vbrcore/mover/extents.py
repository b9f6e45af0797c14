"""Extents of a chain as they are stored: found, read and verified, wherever there is an intact one."""

from vbrcore.backupfile.file import content_of
from vbrcore.backupfile.rows import Row
from vbrcore.chain.reader import ChainReader, Location
from vbrcore.model.errors import DataCorrupt, NotFound


class StoredExtents:
    """Reads into one buffer that is kept: fresh memory for each extent would cost more than its reading.

    One for each thread; what `read` returned is good until the next call.
    """

    def __init__(self, reader: ChainReader) -> None:
        self._reader = reader
        self._buffer = memoryview(bytearray(64 * 1024))

    def read(self, digest: bytes, found: Location | None = None) -> tuple[Row, memoryview]:
        """Return an extent, verified by its checksum; `found`: where it was seen.

        One that is damaged is looked for in the chain's other files. Raises `DataCorrupt`, which names it.
        """
        location = found or self._reader.find(digest)
        if location is None:
            raise DataCorrupt(f"no file of the chain has an intact extent of {digest.hex()}")
        try:
            return self._read(location)
        except DataCorrupt as error:
            return self._elsewhere(digest, location, error)

    def page(self, digest: bytes) -> bytes:
        """Return the content of a map page, verified by its digest: pages are never encrypted. Raises as `read`."""
        return content_of(*self.read(digest))

    def _read(self, location: Location) -> tuple[Row, memoryview]:
        length = location.row.stored_length
        if length > len(self._buffer):  # at most 64 MiB, or there would be no such row
            self._buffer = memoryview(bytearray(length))
        stored = self._buffer[:length]
        self._reader.read_stored(location, stored)
        return location.row, stored

    def _elsewhere(self, digest: bytes, damaged: Location, problem: DataCorrupt) -> tuple[Row, memoryview]:
        for location in self._reader.places(digest):
            if (location.file, location.offset) == (damaged.file, damaged.offset):
                continue
            try:
                return self._read(location)
            except (DataCorrupt, NotFound):
                continue  # the first problem is what is told in the end
        where = f"{self._reader.name_of(damaged)} at {damaged.offset}"
        raise DataCorrupt(f"{problem}: {where}, and no other file of the chain has an intact one") from problem
