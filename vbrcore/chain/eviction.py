"""Giving back what nobody needs any more: unlink, punch, transplant. Each step is a commit of one file.

Order is what makes it safe. A file goes after a list without it is durable, and after all that lives of what it held is
durable elsewhere; a hole is made after both slots call its rows gone. A kill in between leaves extents twice or space
that is not given back, and the next time finds both: by the mark, and by what the files take.
"""

import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.backupfile.contents import is_gone
from vbrcore.backupfile.file import BackupFile, stands
from vbrcore.backupfile.maps import walk
from vbrcore.backupfile.slots import BODY_OFFSET
from vbrcore.chain.files import ENDING, stem_of
from vbrcore.chain.givenback import GivenBack
from vbrcore.chain.mark import Reached, mark
from vbrcore.chain.sweep import Swept, extent_bytes, joined, live_rows, numbered_rows, offset_of, sweep
from vbrcore.chain.transplant import Transplant
from vbrcore.chain.view import View
from vbrcore.model.errors import AlreadyExists, BlocksMissing, CapabilityMissing, DataCorrupt, FormatInvalid
from vbrcore.model.point import Point
from vbrcore.storage.capabilities import StorageClass
from vbrcore.storage.port import ALIGNMENT_BYTES

MOST_POINTLESS_FILES: Final = 64
_MERGED_AT_ONCE: Final = 16
_MERGED_PER_MEDIAN: Final = 2
COPY_CLASS_FILE_BYTES: Final = 64 * 1024**3
# Class copy: this much of what lives may be dead; then the most dead files are moved, each dead to at least 20 %.
_COPY_DEAD_PER_LIVE: Final = 0.22
_COPY_DEAD_OF_FILE: Final = 0.2
# Holes are made where they give back most, until less than this part of what lives is left.
_PUNCH_LEFT: Final = 0.01
LEAK_BYTES: Final = 64 * 1024
_RANGES_AT_ONCE: Final = 256 * 1024


class Eviction:
    """Gives back within one generation, all files of which are there. `pinned`: its points that are being read."""

    def __init__(
        self, view: View, storage_class: StorageClass, pinned: Sequence[Point], done: GivenBack, *, all_of_it: bool
    ) -> None:
        self._view = view
        self._upkeep = view.upkeep
        self._storage_class: StorageClass = storage_class
        self._pinned = pinned
        self._done = done
        self._all_of_it = all_of_it
        self._swept: dict[bytes, Swept] = {}
        self._owned: dict[bytes, tuple[Point, ...]] = {}

    def run(self) -> None:
        """Mark, sweep, and give back as the storage's class says. What prevents it is a warning."""
        if not self._look():
            return
        moving = self._chosen()
        if moving:
            self._transplant(moving, in_order=False)
        self._unlink()
        if self._storage_class != "copy":
            self._punch()
        self._rename()

    def compact(self, *, rewrite: bool) -> None:
        """Move all that lives in files without points or with holes (`rewrite`: in any, as the disks have it)."""
        if not self._look():
            return
        moving = [s for s in self._swept.values() if self._movable(s) and (rewrite or self._is_loose(s))]
        if len(moving) > 1 or rewrite or any(swept.dead_bytes for swept in moving):
            self._transplant(moving, in_order=rewrite)
        self._unlink()
        if self._storage_class != "copy":
            self._punch()
        self._rename()

    def _look(self) -> bool:
        """Mark and sweep. False: what lives is not known."""
        view = self._view
        try:
            reached: Reached = mark((*view.points, *self._pinned), view.fetch, view.rows)
            for file in view.files:
                reader = self._upkeep.readers.get(file.name)
                self._swept[file.file_id] = sweep(file, reader, reached, view.index.places)
        except (BlocksMissing, DataCorrupt, FormatInvalid) as error:
            self._done.warnings.append(f"nothing is given back: {error}")
            return False
        self._owned = view.owned_points()
        self._done.live_bytes += sum(swept.needed_bytes for swept in self._swept.values())
        return True

    # --- which files are moved ----------------------------------------------------------------------

    def _movable(self, swept: Swept) -> bool:
        return not swept.mourned and bool(swept.live_rows or self._owned[swept.file.file_id])

    def _is_loose(self, swept: Swept) -> bool:
        return not self._owned[swept.file.file_id] or swept.dead_bytes > _COPY_DEAD_OF_FILE * swept.whole_bytes

    def _chosen(self) -> list[Swept]:
        movable = [swept for swept in self._swept.values() if self._movable(swept)]
        if self._storage_class == "copy":
            return _most_dead(movable, sum(swept.needed_bytes for swept in self._swept.values()))
        pointless = [swept for swept in movable if not self._owned[swept.file.file_id]]
        if len(pointless) <= MOST_POINTLESS_FILES:
            return []
        sizes = [(swept.file.contents.created, swept.live_bytes) for swept in pointless]
        return [pointless[place] for place in oldest_small(sizes)]

    # --- the three ways -----------------------------------------------------------------------------

    def _transplant(self, chosen: Sequence[Swept], *, in_order: bool) -> None:
        upkeep, view = self._upkeep, self._view
        points = tuple(point for swept in chosen for point in self._owned[swept.file.file_id])
        with upkeep.ledger.within(view.generation_id):
            upkeep.check()
            transplant = Transplant(
                upkeep, view.index, "inc" if points else "base", clone=self._storage_class == "clone"
            )
            try:
                if in_order:
                    transplant.move_in_order(self._by_disk({s.file.file_id for s in chosen}, transplant))
                for swept in chosen:
                    rows = live_rows(swept, upkeep.readers.get(swept.file.name))
                    transplant.move(swept.file, self._not_moved(rows, transplant) if in_order else rows)
                transplant.finish(points)
            except (DataCorrupt, BlocksMissing, FormatInvalid) as error:
                transplant.abandon()
                self._done.warnings.append(f"files stay as they are: {error}")
                return
            except BaseException:
                transplant.close()
                raise
            finally:
                self._done.moved_bytes += transplant.moved_bytes
                self._done.clone_calls += transplant.clone_calls
        for swept in chosen:
            swept.live_rows = swept.live_bytes = 0
        self._owned = view.owned_points()

    def _by_disk(self, chosen: Collection[bytes], transplant: Transplant) -> Iterator[tuple[BackupFile, bytes]]:
        """Yield each extent of the chosen files once, in the order of the disks, the newest points first."""
        view = self._view
        for point in reversed(view.points):
            for disk in point.disks:
                for _, _, digest in walk(disk.root, disk.size_bytes, point.block_size_bytes, view.fetch):
                    if digest not in transplant:
                        file, row = view.locate(digest)
                        if file.file_id in chosen:
                            yield file, row

    def _not_moved(self, rows: Iterator[bytes], transplant: Transplant) -> Iterator[bytes]:
        for row in rows:
            digest = row[:DIGEST_BYTES]
            if digest not in transplant and self._view.locate(digest)[0].file_id not in transplant.files:
                yield row

    def _unlink(self) -> None:
        gone = [s for s in self._swept.values() if not (s.live_rows or s.mourned or self._owned[s.file.file_id])]
        ids = {swept.file.file_id for swept in gone}
        kept = [file for file in self._view.files if file.file_id not in ids]
        if not kept and gone:  # the chain's ids and keys stay
            newest = self._view.files[-1]
            kept = [newest]
            gone = [swept for swept in gone if swept.file.file_id != newest.file_id]
        if not gone:
            return
        for swept in gone:
            rows = numbered_rows(swept.file, self._upkeep.readers.get(swept.file.name))
            self._view.index.remove(swept.file.file_id, (row[:DIGEST_BYTES] for _, row in rows))
        self._done.freed_bytes += self._upkeep.unlink([swept.file for swept in gone], kept[-1])
        self._done.unlinked_files += len(gone)
        for swept in gone:
            self._view.index.drop(swept.file.file_id)
            del self._swept[swept.file.file_id]

    def _punch(self) -> None:
        left_bytes = sum(swept.fresh_bytes for swept in self._swept.values())
        most_bytes = 0 if self._all_of_it else _PUNCH_LEFT * sum(s.live_bytes for s in self._swept.values())
        checked = False
        for swept in sorted(self._swept.values(), key=lambda swept: swept.fresh_bytes, reverse=True):
            leaks = self._leaks(swept)
            if not leaks and (not swept.fresh_rows or left_bytes <= most_bytes):
                continue
            if not checked:
                self._upkeep.check()
                checked = True
            try:
                self._punch_file(swept, again=leaks)
            except CapabilityMissing as error:
                self._done.warnings.append(f"no space is given back: {error}")
                return
            left_bytes -= swept.fresh_bytes

    def _leaks(self, swept: Swept) -> bool:
        """Say whether holes are missing that an earlier run was about to make."""
        taken_bytes = self._upkeep.storage.allocated_bytes(swept.file.name)
        return taken_bytes > swept.needed_bytes + swept.fresh_bytes + max(LEAK_BYTES, swept.needed_bytes // 128)

    def _punch_file(self, swept: Swept, *, again: bool) -> None:
        upkeep = self._upkeep
        old = upkeep.ledger.files[swept.file.file_id]  # a list may have been written since
        reader = upkeep.readers.get(old.name)
        before_bytes = upkeep.storage.allocated_bytes(old.name)
        file = upkeep.rewrite(old, points=self._owned[old.file_id], gone=bytes(swept.gone))
        fresh = (
            row[:DIGEST_BYTES]
            for number, row in numbered_rows(old, reader)
            if is_gone(swept.gone, number) and not is_gone(old.gone, number)
        )
        self._view.index.remove(file.file_id, fresh)
        self._view.index.mark(file)
        if again and old.contents.rows <= _RANGES_AT_ONCE:
            self._make_holes(old.name, _unused(file, live_rows(swept, reader)))
        else:
            self._punch_rows(swept, old, again=again)
        upkeep.sync(old.name)
        freed_bytes = max(0, before_bytes - upkeep.storage.allocated_bytes(old.name))
        self._done.punched_bytes += freed_bytes
        self._done.freed_bytes += freed_bytes

    def _punch_rows(self, swept: Swept, old: BackupFile, *, again: bool) -> None:
        """Make holes of what is not live (`again`: also of what was given back before) and of the list before."""
        ranges = [(old.slot.contents_offset, _blocks(old.slot.contents_length))]
        reader = self._upkeep.readers.get(old.name)
        for number, row in numbered_rows(old, reader):
            dead = is_gone(swept.gone, number) and (again or not is_gone(old.gone, number))
            # A row that leads to something else must not cost what stands there.
            if dead and stands(reader, old, row):
                ranges.append((offset_of(row), extent_bytes(row, old)))
            if len(ranges) >= _RANGES_AT_ONCE:
                self._make_holes(old.name, ranges)
                ranges = []
        self._make_holes(old.name, ranges)

    def _make_holes(self, name: str, ranges: Sequence[tuple[int, int]]) -> None:
        for offset, length in joined(ranges):
            self._upkeep.fence()
            self._upkeep.storage.punch(name, offset, length)

    def _rename(self) -> None:
        renamed = False
        for file in self._view.files:
            wanted = f"{stem_of(file.name)}.base{ENDING}"
            if self._owned.get(file.file_id) or file.name == wanted or not file.contents.rows:
                continue
            try:
                self._upkeep.rename(file, wanted)
            except AlreadyExists:
                continue
            renamed = True
        if renamed:
            self._upkeep.storage.sync_directory(f"{self._upkeep.directory}/")


def _unused(file: BackupFile, live: Iterable[bytes]) -> list[tuple[int, int]]:
    """Return the ranges of a file's body that hold nothing that counts."""
    used = [(offset_of(row), extent_bytes(row, file)) for row in live]
    used += [(part.offset, _blocks(part.end - part.offset)) for part in file.contents.tables]
    used.append((file.slot.contents_offset, _blocks(file.slot.contents_length)))
    ranges = []
    end = BODY_OFFSET
    for offset, length in joined(used):
        if offset > end:
            ranges.append((end, offset - end))
        end = max(end, offset + length)
    return [*ranges, (end, max(0, file.slot.body_end - end))]


def _blocks(length: int) -> int:
    return -(-length // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _most_dead(movable: Sequence[Swept], needed_bytes: int) -> list[Swept]:
    """Return the most dead files: as few as bring what is dead below what may be."""
    chosen = []
    dead_bytes = sum(swept.dead_bytes for swept in movable)
    for swept in sorted(movable, key=lambda swept: swept.dead_bytes / swept.whole_bytes, reverse=True):
        if (
            dead_bytes <= _COPY_DEAD_PER_LIVE * needed_bytes
            or swept.dead_bytes < _COPY_DEAD_OF_FILE * swept.whole_bytes
        ):
            break
        chosen.append(swept)
        dead_bytes -= swept.dead_bytes
    return chosen


def oldest_small(sizes: Sequence[tuple[float, int]]) -> list[int]:
    """Return which of the files without points are merged, given what each was made at and what it holds that lives.

    The oldest ones, as what is young still decays, and moves for nothing; those that hold at most twice as much as the
    middle one of all, as the others are what was merged before, and everything should move once; a dozen or so, so that
    it is long until the next time. No more than `MOST_POINTLESS_FILES` stay, also where many points went at once.
    """
    fewest = len(sizes) - MOST_POINTLESS_FILES + 1
    most_bytes = _MERGED_PER_MEDIAN * statistics.median(live_bytes for _, live_bytes in sizes)
    small = [place for place, (_, live_bytes) in enumerate(sizes) if live_bytes <= most_bytes]
    large = [place for place, (_, live_bytes) in enumerate(sizes) if live_bytes > most_bytes]
    chosen = sorted(small, key=lambda place: sizes[place])[: max(_MERGED_AT_ONCE, fewest)]
    smallest = sorted(large, key=lambda place: sizes[place][1])
    return [*chosen, *smallest[: max(0, fewest - len(chosen))]]
