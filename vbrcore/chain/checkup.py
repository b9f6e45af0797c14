"""A health check of one chain, but for the threads that read: what there is, what was bad, what points have lost."""

from collections.abc import Callable, Collection, Iterator
from typing import Final

from vbrcore.backupfile.contents import Damage
from vbrcore.backupfile.rows import KIND_BLOCK, KIND_CONFIGURATION, KIND_PAGE
from vbrcore.chain.diagnosis import MOST_MARKS, BadTable, Diagnosis, FileProblem, Findings, Mark, What
from vbrcore.chain.examine import Examination, Extent
from vbrcore.chain.gathering import Gathering, file_problems
from vbrcore.chain.harm import Harm, reached_by
from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import DataCorrupt
from vbrcore.model.point import Point
from vbrcore.storage.port import Storage

_MOST_SUSPECTS: Final = 256 * 1024  # what is bad beyond that is counted, and named by the next check
_WHATS: Final[dict[int, What]] = {KIND_BLOCK: "block", KIND_PAGE: "page", KIND_CONFIGURATION: "configuration"}


class Checkup:
    """`check` what `extents` yields, from several threads, then `diagnose`. `points`: ids; none: all of the chain."""

    def __init__(
        self, storage: Storage, reader: ChainReader, *, deep: bool = False, points: Collection[str] = ()
    ) -> None:
        for point_id in points:
            reader.point(point_id)  # raises `NotFound`
        self._reader = reader
        self._only_points = frozenset(points)
        wanted: Callable[[bytes], bool] | None = None
        if points:
            wanted = reached_by(self._chosen(), reader).__contains__
        self._examination = Examination(storage, reader, deep=deep, wanted=wanted)
        self._suspects: list[Extent] = []
        self._more = 0

    @property
    def size_bytes(self) -> int:
        """An upper bound of what is to be read."""
        return self._examination.size_bytes

    def extents(self) -> Iterator[Extent]:
        return self._examination.extents()

    def check(self, extent: Extent, buffer: bytearray) -> int:
        """Read one extent, note it where it is bad, and return the bytes read. Raises `StorageFailed`."""
        try:
            return self._examination.check(extent, buffer)
        except DataCorrupt:
            if len(self._suspects) < _MOST_SUSPECTS:
                self._suspects.append(extent)
            else:
                self._more += 1
            return extent.row.stored_length

    def diagnose(self) -> Diagnosis:
        """Look once more at what was bad, then at all points."""
        bad = self._examination.confirmed(self._suspects)
        damage: dict[bytes, list[Damage]] = {}
        for extent in bad:
            damage.setdefault(extent.file_id, []).append(Damage(extent.row.digest, extent.offset))
        self._reader.set_damage(damage)
        tables = tuple(self._examination.bad_tables)
        findings = self._findings({extent.row.digest: (extent.name, _WHATS[extent.row.kind]) for extent in bad}, tables)
        marks = tuple(Mark(extent.file_id, extent.row.digest, extent.offset) for extent in bad[:MOST_MARKS])
        return Diagnosis(findings, marks, tables, len(bad) + self._more)

    def _findings(self, bad: dict[bytes, tuple[str, What]], tables: Collection[BadTable]) -> Findings:
        files = file_problems(self._reader) + [FileProblem(table.name, table.problem) for table in tables]
        holders = known_damage(self._reader) | bad
        reader = self._reader
        if not self._only_points:
            gathering = Gathering(reader, bad, holders)
            gathering.add(reader.points, Harm(reader))
            return gathering.findings(files)
        first = Gathering(reader, bad, holders)
        first.add(self._chosen(), Harm(reader))
        lost = first.lost
        if not lost:
            return first.findings(files)
        gathering = Gathering(reader, bad, holders)
        gathering.add(reader.points, Harm(reader, lost))
        return gathering.findings(files)

    def _chosen(self) -> list[Point]:
        return [point for point in self._reader.points if point.point_id in self._only_points]


def look_at_maps(reader: ChainReader) -> Findings:
    """Return what points have lost as far as lists, tables and maps say so: no block is read."""
    gathering = Gathering(reader, {}, known_damage(reader))
    gathering.add(reader.points, Harm(reader))
    return gathering.findings(file_problems(reader))


def known_damage(reader: ChainReader) -> dict[bytes, tuple[str, What]]:
    """Return what the files' lists name as damaged, with the name of the file."""
    return {damage.digest: (file.name, "block") for file in reader.files.files for damage in file.contents.damaged}
