"""One generation of a chain with its index: where its extents are."""

from vbrcore.backupfile.file import BackupFile, content_of, locate, read_stored
from vbrcore.chain.files import sort_points
from vbrcore.chain.index import DedupIndex
from vbrcore.chain.upkeep import Upkeep
from vbrcore.model.errors import BlocksMissing
from vbrcore.model.point import Point


class View:
    """See the module. What changes in ledger and index is seen at once."""

    def __init__(self, upkeep: Upkeep, generation_id: bytes, index: DedupIndex) -> None:
        self.upkeep = upkeep
        self.generation_id = generation_id
        self.index = index

    @property
    def files(self) -> tuple[BackupFile, ...]:
        """Newest list last."""
        return self.upkeep.ledger.generation(self.generation_id)

    @property
    def points(self) -> tuple[Point, ...]:
        """Oldest first, each once."""
        return sort_points(point for file in self.files for point in file.contents.points)

    @property
    def rows(self) -> int:
        return sum(file.contents.rows for file in self.files)

    def owned_points(self) -> dict[bytes, tuple[Point, ...]]:
        """Return the points by the file they belong to: of several that hold a point, that with the newest list."""
        owners = {point.point_id: file.file_id for file in self.files for point in file.contents.points}
        return {
            file.file_id: tuple(p for p in file.contents.points if owners[p.point_id] == file.file_id)
            for file in self.files
        }

    def locate(self, digest: bytes) -> tuple[BackupFile, bytes]:
        """Return the file that has an extent, and its row. Raises `BlocksMissing`."""
        found = self.index.find(digest)
        if found is None:
            raise BlocksMissing(f"there is no intact extent of {digest.hex()}")
        return self.upkeep.ledger.files[found[0]], found[1]

    def fetch(self, digest: bytes) -> bytes:
        """Return the content of a page. Raises `BlocksMissing`, `DataCorrupt`."""
        file, packed = self.locate(digest)
        row, offset = locate(file, packed)
        stored = bytearray(row.stored_length)
        read_stored(self.upkeep.readers.get(file.name), offset, row, stored)
        return content_of(row, stored)
