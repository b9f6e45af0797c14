"""The one writer of a chain."""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from vbrcore.backupfile.codec import DIGEST_BYTES, Buffer
from vbrcore.backupfile.contents import Damage, KeySlot
from vbrcore.backupfile.file import BackupFile, content_of, locate, read_stored
from vbrcore.backupfile.filewriter import FileWriter
from vbrcore.backupfile.rows import HEADER_BYTES, KIND_PAGE, Row, check_row, pack_row, unpack_row
from vbrcore.chain.arrivals import HAVE, SEND, WAIT, Arrivals
from vbrcore.chain.closure import check_closure
from vbrcore.chain.diagnosis import Mark
from vbrcore.chain.due import Due
from vbrcore.chain.files import LOCK_NAME, sort_points
from vbrcore.chain.givenback import GivenBack
from vbrcore.chain.identity import ChainIdentity
from vbrcore.chain.index import DedupIndex, IndexFailed, place_of_index
from vbrcore.chain.keeping import compact, give_back, newest_points
from vbrcore.chain.ledger import Ledger, Run
from vbrcore.chain.lost import find_lost
from vbrcore.chain.marks import mark_damaged
from vbrcore.chain.pins import read_pins
from vbrcore.chain.sweep import offset_of
from vbrcore.chain.synthetic import synthetic_full
from vbrcore.chain.upkeep import Upkeep, sealed_tables
from vbrcore.chain.view import View
from vbrcore.model.errors import BlocksMissing, DataCorrupt, FormatInvalid, InvalidValue, StorageFailed, VbrError
from vbrcore.model.point import Point
from vbrcore.storage.capabilities import StorageClass
from vbrcore.storage.port import Lock, Storage

__all__ = ["HAVE", "SEND", "WAIT", "ChainWriter"]


class ChainWriter:
    """Appends extents and commits points; thread-safe. An error of a commit ends it for good.

    `lookup`, `append`, `page` and `release_owner` go on while a point is being committed; what changes contents lists
    happens one at a time.
    """

    file_limit_bytes = 8 * 1024**4
    checkpoint_bytes = 4 * 1024**3
    checkpoint_rows = 64 * 1024  # rows not committed are held in memory, about 400 bytes each

    @classmethod
    def open(
        cls,
        storage: Storage,
        directory: str,
        *,
        job_id: str,
        job_name: str,
        session_id: str,
        created: float,
        block_size_bytes: int,
        index_directory: Path,
        fence: Callable[[], None] = lambda: None,
        machine_id: str = "",
        machine: str = "",
        encrypt: bool = False,
        new_generation: bool = False,
        fresh_after: float = 0.0,
        pace: Callable[[int], None] = lambda _: None,
        chain_id: bytes = b"",
    ) -> Self:
        """Take the chain's lock, read what its files say and bring the index up to date.

        `machine_id` and `machine` only for a chain of one machine. `encrypt`: where the chain has no files yet, it is
        an encrypted one; `set_key_slots` then comes before everything that writes. `new_generation`: an active full,
        that refers to nothing older; a retry in the same session goes on with it. It is also made where the generation
        that is there was begun before `fresh_after`. `chain_id`: a chain that begins has this one, and one that is
        there must have it (empty: any). `fence` is called before each write and raises when this process was cut off;
        `pace` before what upkeep copies, with its length.

        Raises `ChainLocked`, `ChainDiffers`, `FormatNewer`, and what the storage raises.
        """
        fence()
        run = Run(
            session_id,
            job_id,
            job_name,
            created,
            block_size_bytes,
            machine_id,
            machine,
            encrypt,
            new_generation,
            fresh_after,
            chain_id,
        )
        lock = storage.lock(f"{directory}/{LOCK_NAME}")
        try:
            ledger = Ledger(storage, directory, run, fence)
            where = place_of_index(index_directory, ledger.chain_id, directory)
            index = DedupIndex(where, ledger.generation_id)
            try:
                ledger.warnings += index.update(storage, ledger.generation())
                upkeep = Upkeep(
                    storage, directory, ledger=ledger, index=index, fence=fence, index_directory=where, pace=pace
                )
                return cls(upkeep, lock)
            except BaseException:
                index.close()
                raise
        except BaseException:
            lock.release()
            raise

    def __init__(self, upkeep: Upkeep, lock: Lock) -> None:
        self._upkeep = upkeep
        self._storage = upkeep.storage
        self._chain_lock = lock
        self._ledger = upkeep.ledger
        self._index = upkeep.index
        self._fence = upkeep.fence
        self._readers = upkeep.readers
        self._due = Due(upkeep.index_directory, upkeep.ledger.run_number - 1)
        self._arrivals = Arrivals()
        self._commit_lock = threading.RLock()
        # Guards which file is written to (`_file`), by how many threads, and whether it is about to change.
        self._file_state = threading.Condition()
        self._file: FileWriter | None = None
        self._writing = 0
        self._held = False
        self._failure: VbrError | None = None
        self._closed = False
        self._finished_bytes = 0
        self._checkpointed_bytes = 0
        # Found damaged while reading: digest -> (file id, offset); and those of them that were stored anew.
        self._spoilt: dict[bytes, tuple[bytes, int]] = {}
        self._healed: dict[bytes, tuple[bytes, int]] = {}
        self._take_stock()

    def _take_stock(self) -> None:
        """Find out what is known to be damaged or lost."""
        generation = self._ledger.generation()
        self._named_damaged = [damage.digest for file in generation for damage in file.contents.damaged]
        # Where rows may be lost, no earlier point vouches for anything: each point is then walked in full.
        self._degraded = bool(self._ledger.warnings)
        self._lost = frozenset[bytes]()
        if self._degraded:
            points = sort_points(point for file in generation for point in file.contents.points)
            self._lost = find_lost(points, self._have, self.page)

    @property
    def points(self) -> tuple[Point, ...]:
        """Committed and not forgotten, oldest first."""
        with self._commit_lock:
            return self._ledger.points()

    @property
    def generation_points(self) -> tuple[Point, ...]:
        """Those of the current generation, oldest first: only their maps and blocks may be referred to."""
        with self._commit_lock:
            return sort_points(point for file in self._ledger.generation() for point in file.contents.points)

    @property
    def generation_started(self) -> float:
        """When the current generation was begun, in seconds since the epoch; 0: it has no file yet."""
        with self._commit_lock:
            return min((file.contents.created for file in self._ledger.generation()), default=0.0)

    @property
    def chain(self) -> ChainIdentity:
        """What a manager needs to know to find the chain's key, or to make one."""
        ledger = self._ledger
        return ChainIdentity(ledger.chain_id, ledger.encrypted, ledger.is_new, ledger.key_slots)

    @property
    def damaged(self) -> frozenset[bytes]:
        """Digests of blocks and pages to be sent anew: every row known to be damaged, or lost with a file or table.

        A page stands for all below it. What `page` finds damaged later is added.
        """
        there = self._have(self._named_damaged)
        named = {digest for digest, intact in zip(self._named_damaged, there, strict=True) if not intact}
        return self._lost.union(named, list(self._spoilt))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was found while opening: files and tables that are missing or unreadable."""
        return tuple(self._ledger.warnings)

    @property
    def stored_bytes(self) -> int:
        """Bytes this writer has appended to backup files."""
        with self._file_state:
            return self._finished_bytes + self._upkeep.written_bytes + (self._file.appended_bytes if self._file else 0)

    def lookup(self, digests: Sequence[bytes], owner: int) -> bytes:
        """Return one of `HAVE`, `WAIT`, `SEND` per digest; `SEND` is a promise to `owner` until it appends.

        `WAIT`: another owner is sending it (or this call has promised it already): ask again later. Who asks again for
        what it was promised before is told `SEND` again.
        """
        self._check_usable()
        while True:
            changes = self._arrivals.changes
            known = self._indexed(digests)
            answer = self._arrivals.answer(digests, known, owner, changes)
            if answer is not None:
                return answer

    def release_owner(self, owner: int) -> None:
        """Give up the promises of a source that is gone, so that others are asked."""
        self._arrivals.release(owner)

    def append(self, row: Row, stored: Buffer, owner: int = 0) -> None:  # noqa: ARG002 whoever sends first keeps the promise
        """Write one extent whose checksum the caller has verified. A digest that is there already is dropped.

        Raises `FormatInvalid` for an impossible row, and what the storage and the fence raise.
        """
        self._check_usable()
        check_row(row)
        if row.encrypted != (self._ledger.encrypted and row.kind != KIND_PAGE):
            raise FormatInvalid("a row that is encrypted where its chain is not, or the other way round")
        if len(stored) != row.stored_length:
            raise InvalidValue(f"a row of {row.stored_length} stored bytes came with {len(stored)}")
        if not self._arrivals.begin(row.digest):
            return
        place = None
        try:
            if not self._indexed([row.digest])[0]:
                with self._borrowed_file(HEADER_BYTES + row.stored_length) as file:
                    place = file.file.name, pack_row(row, file.write_extent(row, stored))
                    self._arrivals.finish(row.digest, place)
        finally:
            if place is None:
                self._arrivals.finish(row.digest, None)

    def page(self, digest: bytes) -> bytes:
        """Return the raw content of a page or any other extent. Raises `BlocksMissing` or `DataCorrupt`.

        An extent of an earlier run that is found damaged counts as absent from then on, so it is asked for again.
        """
        self._check_usable()
        received = self._arrivals.row(digest)
        if received is not None:
            return self._read(received[0], *unpack_row(received[1]))
        found = self._index.find(digest)
        if found is None or digest in self._spoilt:
            raise BlocksMissing(f"there is no intact extent of {digest.hex()}")
        file_id, packed = found
        file = self._ledger.files[file_id]
        try:
            return self._read(file.name, *locate(file, packed))
        except (DataCorrupt, FormatInvalid) as error:
            if self._ledger.is_of_earlier_run(file_id):
                self._spoilt[digest] = file_id, offset_of(packed)
            raise DataCorrupt(str(error)) from error

    def commit_point(self, point: Point) -> Point:
        """Closure check, then commit; returns the point with `sequence` and `kind` set. Durable on return.

        Raises `BlocksMissing`, `WriterReplaced`, `StorageFailed`, ...; then nothing is visible.
        """
        size_bytes = self._ledger.run.block_size_bytes
        if point.block_size_bytes != size_bytes:
            raise InvalidValue(f"the chain has blocks of {size_bytes} bytes, not {point.block_size_bytes}")
        if bool(point.sealed) != self._ledger.encrypted:
            raise InvalidValue("a point that is sealed where its chain is not encrypted, or the other way round")
        with self._commit_lock:
            self._check_usable()
            trusted = None if self._degraded or self.damaged else self._ledger.previous(point)
            check_closure(point, trusted, self._have, self.page)
            point = self._ledger.numbered(point)
            file = self._started_file()
            self._commit(file, (*file.file.contents.points, point))
            return point

    def checkpoint_if_due(self) -> None:
        """Commit rows without a point every 4 GiB, so that a retry finds what was sent. Cheap when not due."""
        self._check_usable()
        if not self._checkpoint_due():
            return
        with self._commit_lock:
            file = self._file
            if file is not None and self._checkpoint_due():
                self._commit(file, file.file.contents.points)

    def forget(self, point_ids: Iterable[str]) -> tuple[str, ...]:
        """Write contents lists without these points, both slots; return their ids.

        Ids that are not there are passed over, and points that are being read: `pinned` says which.
        """
        with self._commit_lock:
            self._check_usable()
            pinned = self.pinned
            unwanted = {point.point_id for point in self._ledger.points()}.intersection(point_ids) - pinned
            self._due.forgetting(unwanted, map(self._ledger.generation, self._ledger.generations()))
            for file in list(self._ledger.files.values()):
                kept = tuple(point for point in file.contents.points if point.point_id not in unwanted)
                if len(kept) == len(file.contents.points):
                    continue
                if self._file is not None and file.file_id == self._file.file.file_id:
                    self._commit(self._file, kept, both=True)
                else:
                    self._rewrite_contents(file, kept)
            return tuple(sorted(unwanted))

    @property
    def pinned(self) -> frozenset[str]:
        """Ids of points that are being read now; they are not forgotten meanwhile."""
        pins = read_pins(self._storage, self._upkeep.directory)
        return frozenset(pin.point.point_id for pin in pins)

    def give_back(self, storage_class: StorageClass, *, force: bool = False) -> GivenBack | None:
        """Give back what no kept and no pinned point needs; None: less than 3 % can be dead, and nothing was done.

        The run's file is sealed first; what is appended later starts another. No source may be sending: what belongs
        to no point goes. What prevents it is a warning; errors of the storage end the writer.
        """
        with self._upkeeping():
            stored_bytes = sum(self._storage.allocated_bytes(file.name) for file in self._ledger.files.values())
            if not force and not self._due.is_due(stored_bytes):
                return None
            done = give_back(self._upkeep, storage_class, all_of_it=force)
            self._due.done()
            return done

    def compact(self, storage_class: StorageClass, *, rewrite: bool = False) -> GivenBack:
        """Move what lives out of files without points or with much that is dead, and give back the rest.

        `rewrite`: all of it, copied in the order of the disks. As with `give_back`, no source may be sending.
        """
        with self._upkeeping():
            return compact(self._upkeep, storage_class, rewrite=rewrite)

    def synthetic_full(self, storage_class: StorageClass, point_ids: Iterable[str] | None = None) -> GivenBack:
        """Start a generation with these points (default: the newest of each machine), and go on in it.

        Nothing goes from the old one. Raises `BlocksMissing`, `DataCorrupt`, `InvalidValue`: all is then as it was.
        """
        with self._upkeeping(BlocksMissing, DataCorrupt, InvalidValue):
            view = View(self._upkeep, self._ledger.generation_id, self._index)
            wanted = newest_points(view) if point_ids is None else list(point_ids)
            done = synthetic_full(self._upkeep, storage_class, wanted)
            self._index = self._upkeep.index
            self._degraded, self._lost, self._named_damaged = False, frozenset(), []
            self._spoilt.clear()
            self._healed.clear()
            return done

    def mark_damaged(self, marks: Iterable[Mark], bad_tables: Collection[bytes] = ()) -> int:
        """Name extents as damaged in the lists of their files, so that the next session's sources read them again.

        Extents that are not there any more are passed over. `bad_tables`: ids of files with tables that cannot be read:
        what stands in them counts as lost from now on. Returns how many were named; `damaged` then has their digests.
        """
        with self._upkeeping():
            count, warnings = mark_damaged(self._upkeep, marks, bad_tables)
            self._ledger.warnings += warnings
            self._take_stock()
            return count

    def set_key_slots(self, key_slots: tuple[KeySlot, ...]) -> int:
        """Wrap the key of an encrypted chain like this: in all its files, and in those to come.

        Returns how many contents lists were written, both slots each.
        """
        with self._commit_lock:
            self._check_usable()
            if not self._ledger.encrypted or not key_slots:
                raise InvalidValue("key slots are for encrypted chains, and never none")
            self._ledger.key_slots = key_slots
            files = [file for file in self._ledger.files.values() if file.contents.key_slots != key_slots]
            for file in files:
                if self._file is not None and file.file_id == self._file.file.file_id:
                    self._commit(self._file, file.contents.points, both=True)
                else:
                    self._rewrite_contents(file, file.contents.points)
            return len(files)

    def seal(self) -> None:
        """Commit what is there, write one sorted table and both slots, give back lock and index. Last call."""
        with self._commit_lock:
            self._check_usable()
            with self._held_file() as file:
                if file is not None:
                    self._seal_file(file)
            self._mark_healed()
            self._due.ended(max((file.contents.run_number for file in self._ledger.files.values()), default=0))
        self.close()

    def close(self) -> None:
        """Give back lock and index without another write. Idempotent; also after an error.

        The caller has ended the threads that append and read.
        """
        with self._commit_lock:
            if self._closed:
                return
            self._closed = True
            self._readers.close()
            with self._file_state:
                if self._file is not None:
                    self._file.close()
            self._index.close()
            self._chain_lock.release()

    # --- where extents are ------------------------------------------------------------------------

    def _have(self, digests: Sequence[bytes]) -> list[bool]:
        # Received first, then the index: a row on its way from one to the other is seen in at least one of them.
        received = [self._arrivals.row(digest) is not None for digest in digests]
        return [a or b for a, b in zip(received, self._indexed(digests), strict=True)]

    def _indexed(self, digests: Sequence[bytes]) -> list[bool]:
        values = self._index.get(digests)
        return [value is not None and name not in self._spoilt for name, value in zip(digests, values, strict=True)]

    def _read(self, name: str, row: Row, offset: int) -> bytes:
        buffer = bytearray(row.stored_length)
        read_stored(self._readers.get(name), offset, row, buffer)
        return content_of(row, buffer)

    # --- the file being written -------------------------------------------------------------------

    def _started_file(self) -> FileWriter:
        """Return the run's file, made now if there is none."""
        with self._file_state:
            self._check_usable()
            if self._file is None:
                self._file = self._ledger.new_file()
                self._checkpointed_bytes = 0
            return self._file

    @contextlib.contextmanager
    def _borrowed_file(self, length: int) -> Iterator[FileWriter]:
        """Give the file to append `length` bytes to; it is not sealed meanwhile."""
        file = self._enter_file(length)
        try:
            yield file
        finally:
            with self._file_state:
                self._writing -= 1
                self._file_state.notify_all()

    def _enter_file(self, length: int) -> FileWriter:
        while True:
            with self._file_state:
                self._file_state.wait_for(lambda: not self._held)
                file = self._started_file()
                if file.has_room(length, self.file_limit_bytes):
                    self._writing += 1
                    return file
            with self._commit_lock, self._held_file() as full:
                if full is file:
                    self._seal_file(full)

    @contextlib.contextmanager
    def _held_file(self) -> Iterator[FileWriter | None]:
        """Keep new extents away and wait for those being written; the commit lock is held."""
        with self._file_state:
            self._held = True
            self._file_state.wait_for(lambda: self._writing == 0)
        try:
            yield self._file
        finally:
            with self._file_state:
                self._held = False
                self._file_state.notify_all()

    # --- commits: the commit lock is held ----------------------------------------------------------

    def _commit(self, file: FileWriter, points: tuple[Point, ...], *, both: bool = False) -> None:
        """Commit the rows received so far, and `points`, to the run's file."""
        with self._ending_on_error():
            self._ledger.check_not_replaced()
            rows = self._arrivals.sorted_rows()
            tables = file.file.contents.tables
            if rows:
                tables = (*tables, file.write_table(rows, len(rows)))
            file.commit(self._ledger.contents(points, tables), both=both)
        self._settle(file, rows)

    def _seal_file(self, file: FileWriter) -> None:
        """Seal the run's file, or remove it when it holds nothing; the next extent starts another."""
        rows = self._arrivals.sorted_rows()
        with self._ending_on_error():
            if file.file.last_sequence == 0 and not rows:
                self._fence()
                self._storage.remove(file.file.name)
                self._ledger.unlist(file.file)
            else:
                self._ledger.check_not_replaced()
                tables = sealed_tables(file, self._readers.get(file.file.name), rows)
                points = file.file.contents.points
                file.commit(self._ledger.contents(points, tables), sealed=True, both=True)
                self._settle(file, rows)
        file.close()
        with self._file_state:
            self._finished_bytes += file.appended_bytes
            self._file = None

    def _settle(self, file: FileWriter, rows: list[bytes]) -> None:
        """The commit is durable: bring ledger and index up to it."""
        self._ledger.note(file.file)
        self._checkpointed_bytes = file.appended_bytes
        try:
            self._index.add_committed(file.file, rows)
        except IndexFailed as error:
            # The point stands; but what is where is not known any more, so this run ends with the next call.
            self._failure = StorageFailed(str(error))
        else:
            for digest in [row[:DIGEST_BYTES] for row in rows if row[:DIGEST_BYTES] in self._spoilt]:
                self._healed[digest] = self._spoilt.pop(digest)
            self._arrivals.settle(rows)

    def _mark_healed(self) -> None:
        """Name the old extents of what was stored anew as damaged, so that nobody takes them for good again."""
        for file_id in {file_id for file_id, _ in self._healed.values()}:
            file = self._ledger.files[file_id]
            damaged = tuple(Damage(name, offset) for name, (of, offset) in self._healed.items() if of == file_id)
            self._rewrite_contents(file, file.contents.points, (*file.contents.damaged, *damaged))
            self._index.mark(self._ledger.files[file_id])

    def _rewrite_contents(
        self, file: BackupFile, points: tuple[Point, ...], damaged: tuple[Damage, ...] | None = None
    ) -> None:
        with self._ending_on_error():
            self._upkeep.check()
            self._upkeep.rewrite(file, points, damaged)

    @contextlib.contextmanager
    def _upkeeping(self, *survived: type[VbrError]) -> Iterator[None]:
        """Seal the run's file and keep others away; errors end the writer, unless they are among `survived`."""
        with self._commit_lock:
            self._check_usable()
            self._upkeep.file_limit_bytes = self.file_limit_bytes
            with self._held_file() as file:
                if file is not None:
                    self._seal_file(file)
                self._mark_healed()
                self._healed.clear()
                with self._ending_on_error(*survived):
                    try:
                        yield
                    except IndexFailed as error:
                        raise StorageFailed(str(error)) from error

    def _checkpoint_due(self) -> bool:
        file = self._file
        if file is None:
            return False
        grown_bytes = file.appended_bytes - self._checkpointed_bytes
        return grown_bytes >= self.checkpoint_bytes or len(self._arrivals) >= self.checkpoint_rows

    @contextlib.contextmanager
    def _ending_on_error(self, *survived: type[VbrError]) -> Iterator[None]:
        """Whatever fails half-way through a commit ends this writer: committed points stand, nothing else is said."""
        try:
            yield
        except survived:
            raise
        except VbrError as error:
            self._failure = error
            raise
        except BaseException as error:
            self._failure = StorageFailed(f"a commit was interrupted: {error!r}")
            raise

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise StorageFailed("this writer of the chain was closed")
