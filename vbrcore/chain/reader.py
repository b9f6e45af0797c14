"""Reading a chain without lock or index: its sorted tables are searched as they are."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Self

import msgspec

from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.backupfile.contents import Damage, KeySlot, is_gone
from vbrcore.backupfile.file import BackupFile, content_of, locate, read_stored
from vbrcore.backupfile.maps import leaves
from vbrcore.backupfile.rows import KIND_PAGE, Row, unpack_row
from vbrcore.backupfile.tables import read_rows, search
from vbrcore.chain.files import ChainFiles, read_files
from vbrcore.chain.index import intact_rows
from vbrcore.chain.pins import Pin, Pinned
from vbrcore.chain.readers import Readers
from vbrcore.model.errors import BlocksMissing, DataCorrupt, FormatInvalid, NotFound, RepositoryFull, RepositoryReadOnly
from vbrcore.model.point import Point, PointDisk
from vbrcore.storage.port import Storage

if TYPE_CHECKING:
    from vbrcore.backupfile.encryption import ChainKey, ExtentOpener
    from vbrcore.storage.port import Reader

# Up to this many rows the tables are read into memory (about 250 bytes a row) when the first digest is looked up.
_LOADED_ROWS: Final = 128 * 1024
# A chain's writer moves extents seldom, but may do so again while they are being looked for.
_TRIES: Final = 3


class Location(msgspec.Struct, frozen=True, gc=False):
    """Where an extent was found: `file` is an index into the reader's files, `offset` that of the extent's header."""

    file: int
    offset: int
    row: Row


class ChainReader:
    """Points and extents of one chain; `find`, `read_stored` and `block` may be called from several threads.

    Of an encrypted chain, pages and stored bytes can be read as they are; contents only after `unlock`.
    """

    def __init__(self, storage: Storage, directory: str, found: ChainFiles) -> None:
        self._storage = storage
        self.directory = directory
        # All files ever found, so that a location stays what it is; those from `_first` on are what there is now.
        self._files = list(found.files)
        self._first = 0
        self._found = found
        self._readers = Readers(storage)
        self._known_damage: Mapping[bytes, Sequence[Damage]] = {}
        self._damaged = _damage_of(found)
        self._load_lock = threading.RLock()
        self._loaded: dict[bytes, tuple[int, bytes]] | None = None
        self._pin: Pin | None = None
        self._chain_key: ChainKey | None = None
        self.opener: ExtentOpener | None = None  # of the extents of an encrypted chain, after `unlock`
        self._warnings = [reason for _, reason in found.unreadable]
        self._warnings += [f"{directory}: file {file_id} of the chain is missing" for file_id in found.missing()]

    @classmethod
    def open(cls, storage: Storage, directory: str, pin: str = "") -> Self:
        """Read the slots and contents lists of all files, nothing else. `pin`: a point to be kept until `close`.

        A read-only repository has no writer, so nothing needs a pin there; a full one is read without it, with a
        warning: what must not wait is a restore. Raises `NotFound` for a chain without files
        (or without that point), `FormatInvalid` when none of them is readable, `FormatNewer`.
        """
        reader = cls(storage, directory, _read(storage, directory))
        try:
            if pin:
                reader._keep(pin)
        except BaseException:
            reader.close()
            raise
        return reader

    def _keep(self, point_id: str) -> None:
        """Pin a point, then look whether it is there still."""
        self.point(point_id)
        where = next(f for f in self._found.files for p in f.contents.points if p.point_id == point_id)
        point = next(point for point in self.points if point.point_id == point_id)
        try:
            self._pin = Pin.make(self._storage, self.directory, Pinned(point, where.slot.generation_id.hex()))
        except RepositoryReadOnly:
            return
        except RepositoryFull:
            self._warnings.append(f"{self.directory}: no room for a pin; the point may go while it is read")
            return
        self._look_again()
        self.point(point_id)

    @property
    def encrypted(self) -> bool:
        return self._files[-1].slot.encrypted

    @property
    def chain_id(self) -> bytes:
        return self._files[-1].slot.chain_id

    @property
    def key_slots(self) -> tuple[KeySlot, ...]:
        """What wraps the key of an encrypted chain, as its newest list says."""
        return max(self._files, key=lambda file: file.age).contents.key_slots

    def unlock(self, chain_key: "ChainKey") -> None:
        """Use the key of an encrypted chain from now on."""
        from vbrcore.backupfile.encryption import ExtentOpener  # noqa: PLC0415 - only where a chain is encrypted

        self._chain_key = chain_key
        self.opener = ExtentOpener(chain_key, self.chain_id)

    @property
    def points(self) -> tuple[Point, ...]:
        """Oldest first; those of an encrypted chain as they stand in its files."""
        return self._found.points()

    @property
    def damaged(self) -> frozenset[bytes]:
        """Digests that the chain names as damaged and that have no other row."""
        return frozenset(digest for _, digest, _ in self._damaged if self._find(digest) is None)

    @property
    def files(self) -> ChainFiles:
        """What the files said when they were last looked at."""
        with self._load_lock:
            return self._found

    def stream(self, name: str) -> "Reader":
        """Return a file of the chain, open until `close`. Raises `NotFound` and what else the storage raises."""
        return self._readers.get(name)

    def look_again(self) -> None:
        """Read what the files say now: the chain's writer may have moved, renamed and removed some."""
        self._look_again()

    def set_damage(self, damage: Mapping[bytes, Sequence[Damage]]) -> None:
        """Take these extents for damaged as well, by file id, until the reader is closed."""
        with self._load_lock:
            self._known_damage = damage
        self._look_again()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Files and tables that are missing or could not be read."""
        return tuple(self._warnings)

    def point(self, point_id: str) -> Point:
        """Return one point, with its true names after `unlock`. Raises `NotFound`, `DataCorrupt`."""
        for point in self.points:
            if point.point_id == point_id:
                return self.opened(point)
        because = f" ({'; '.join(self._warnings)})" if self._warnings else ""
        raise NotFound(f"there is no point {point_id} in {self.directory}{because}")

    def opened(self, point: Point) -> Point:
        """Return a point of the chain with its true names after `unlock`. Raises `DataCorrupt`."""
        if self._chain_key is None:
            return point
        from vbrcore.backupfile.sealedpoints import open_point  # noqa: PLC0415 - only where a chain is encrypted

        return open_point(point, self._chain_key, self.chain_id)

    def find(self, digest: bytes) -> Location | None:
        """Return where an intact extent of `digest` is. Raises `FormatInvalid` for a row that cannot be true.

        What a pin keeps is somewhere: if it is not found, the chain's writer has moved it, and it is looked for again.
        """
        for _ in range(_TRIES):
            try:
                found = self._find(digest)
            except NotFound:  # a file was removed, which so far nobody had read from
                found = None
            else:
                if found is not None or self._pin is None:
                    return found
            self._look_again()
        return self._find(digest)

    def _find(self, digest: bytes) -> Location | None:
        with self._load_lock:
            files, first, damaged = self._found.files, self._first, self._damaged
        if sum(file.contents.rows for file in files) <= _LOADED_ROWS:
            found = self._tables().get(digest)
        else:
            found = self._search(digest, files, first, damaged)
        if found is None:
            return None
        file, packed = found
        row, offset = locate(self._files[file], packed)
        return Location(file, offset, row)

    def places(self, digest: bytes) -> Iterator[Location]:
        """Yield every place of an intact extent of `digest`: another file may have what is damaged in one.

        Raises `FormatInvalid`, and `NotFound` where a file was removed meanwhile.
        """
        with self._load_lock:
            files, first, damaged = self._found.files, self._first, self._damaged
        for place, file in enumerate(files):
            found = self._search(digest, [file], first + place, damaged)
            if found is not None:
                row, offset = unpack_row(found[1])
                yield Location(found[0], offset, row)

    def name_of(self, location: Location) -> str:
        """Return the name of the file that a location is in."""
        return self._files[location.file].name

    def read_stored(self, location: Location, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` (exactly `row.stored_length` bytes) and verify header and checksum. Raises `DataCorrupt`.

        An extent that is not there any more is looked for again: the chain's writer may have moved it.
        """
        try:
            self._read_from(location, buffer)
        except (DataCorrupt, NotFound) as error:
            moved = self._moved(location)
            if moved is None:
                raise error if isinstance(error, DataCorrupt) else DataCorrupt(str(error)) from error
            self._read_from(moved, buffer)

    def _read_from(self, location: Location, buffer: bytearray | memoryview) -> None:
        reader = self._readers.get(self._files[location.file].name)
        read_stored(reader, location.offset, location.row, buffer)

    def _moved(self, old: Location) -> Location | None:
        """Return where the same stored bytes are now; None where that is no other place."""
        with self._load_lock:
            if old.file >= self._first:
                self._look_again()
        new = self.find(old.row.digest)
        if new is None or new.row != old.row:
            return None
        places = [(self._files[location.file].name, location.offset) for location in (old, new)]
        return new if places[0] != places[1] else None

    def _look_again(self) -> None:
        """Read what the files say now."""
        found = _with_damage(_read(self._storage, self.directory), self._known_damage)
        with self._load_lock:
            self._first = len(self._files)
            self._files += found.files
            self._found = found
            self._damaged = _damage_of(found)
            self._loaded = None

    def block(self, digest: bytes) -> bytes:
        """Return the verified raw content of a block, page or configuration.

        Raises `BlocksMissing`, `DataCorrupt`, and `KeyNeeded` where it is encrypted and nothing was unlocked.
        """
        row, stored = self.stored(digest)
        if self.opener is not None and row.kind != KIND_PAGE:
            return self.opener.content(row, stored)
        return content_of(row, stored)

    def stored(self, digest: bytes) -> tuple[Row, bytearray]:
        """Return an extent as it is stored, verified by its checksum. Raises `BlocksMissing`, `DataCorrupt`."""
        location = self.find(digest)
        if location is None:
            because = f" ({'; '.join(self._warnings)})" if self._warnings else ""
            raise BlocksMissing(f"there is no intact extent of {digest.hex()} in {self.directory}{because}")
        buffer = bytearray(location.row.stored_length)
        self.read_stored(location, buffer)
        return location.row, buffer

    def leaves(self, point: Point, disk: PointDisk) -> Iterator[tuple[int, bytes]]:
        """Yield (block index, digest) of the disk's blocks that have data, in order."""
        return leaves(disk.root, disk.size_bytes, point.block_size_bytes, self.block)

    def close(self) -> None:
        """Idempotent."""
        self._readers.close()
        if self._pin is not None:
            self._pin.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tables(self) -> dict[bytes, tuple[int, bytes]]:
        """Return all intact rows by digest, read at the first call."""
        with self._load_lock:
            if self._loaded is None:
                loaded: dict[bytes, tuple[int, bytes]] = {}
                for number, file in enumerate(self._found.files, self._first):
                    self._load(number, file, loaded)
                self._loaded = loaded
            return self._loaded

    def _load(self, number: int, file: BackupFile, loaded: dict[bytes, tuple[int, bytes]]) -> None:
        reader = self._readers.get(file.name)
        first_row = 0
        for part in file.contents.tables:
            try:
                rows = list(read_rows(reader, part))
            except DataCorrupt as error:
                self._warnings.append(f"{file.name}: {error}")
            else:
                for packed in intact_rows(file, rows, first_row):
                    loaded[packed[:DIGEST_BYTES]] = number, packed
            first_row += part.rows

    def _search(
        self, digest: bytes, files: Sequence[BackupFile], first: int, known: set[tuple[bytes, bytes, int]]
    ) -> tuple[int, bytes] | None:
        for number, file in enumerate(files, first):
            reader = self._readers.get(file.name)
            first_row = 0
            for part in file.contents.tables:
                hit = search(reader, part, digest)
                if hit is not None:
                    position, packed = hit
                    damaged = (file.file_id, digest, unpack_row(packed)[1]) in known
                    if not damaged and not is_gone(file.gone, first_row + position):
                        return number, packed
                first_row += part.rows
        return None


def _read(storage: Storage, directory: str) -> ChainFiles:
    found = read_files(storage, directory, pass_over_failed=True)
    if not found.files:
        if found.unreadable:
            raise FormatInvalid(found.unreadable[0][1])
        raise NotFound(f"there are no backup files in {directory}")
    return found


def _with_damage(found: ChainFiles, damage: Mapping[bytes, Sequence[Damage]]) -> ChainFiles:
    if not damage:
        return found
    files = []
    for file in found.files:
        named = (*file.contents.damaged, *damage.get(file.file_id, ()))
        files.append(msgspec.structs.replace(file, contents=msgspec.structs.replace(file.contents, damaged=named)))
    return msgspec.structs.replace(found, files=tuple(files))


def _damage_of(found: ChainFiles) -> set[tuple[bytes, bytes, int]]:
    return {(file.file_id, damage.digest, damage.offset) for file in found.files for damage in file.contents.damaged}
