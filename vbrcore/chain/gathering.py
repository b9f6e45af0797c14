"""Gathering what points have lost into findings: by digest, and by point."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from vbrcore.chain.diagnosis import (
    CONFIGURATION,
    MOST_FINDINGS,
    MOST_POINTS,
    MOST_RANGES,
    FileProblem,
    Finding,
    Findings,
    HarmedDisk,
    HarmedPoint,
    Place,
    Ranges,
    What,
)
from vbrcore.chain.harm import Harm, Hole
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.sweep import joined
from vbrcore.model.errors import DataCorrupt
from vbrcore.model.point import Point, PointDisk

# All findings, and all points, fit one message: so many ranges and numbers of points are named in them together.
_MOST_NAMED: Final = 200_000
_MOST_COUNTED: Final = 1_000_000  # digests


class Gathering:
    """Collects what points have lost. `bad`: digests found damaged just now, which are named also if no point has them.

    `holders` says of these, and of digests known to be damaged, in which file they stand and what they are.
    """

    def __init__(self, reader: ChainReader, bad: Iterable[bytes], holders: Mapping[bytes, tuple[str, What]]) -> None:
        self._reader = reader
        self._bad = tuple(bad)
        self._holders = holders
        self._points: list[HarmedPoint] = []
        self._point_count = 0
        self._found: dict[bytes, What] = {}
        self._places: dict[bytes, dict[tuple[str, int, Ranges, int], list[int]]] = {}
        self._named_in_places = 0
        self._named_in_points = 0

    def add(self, points: Iterable[Point], harm: Harm) -> None:
        """Look at points, oldest first."""
        for point in points:
            number = self._point_count
            places: list[tuple[Hole, Ranges, int, int]] = []
            disks = []
            for place, disk in enumerate(point.disks):
                holes = harm.of_disk(point, disk)
                if holes:
                    disks.append(self._harmed_disk(point, disk, place, holes))
                    places += _by_digest(point, disk, place, holes)
            lost = bool(point.configuration) and harm.is_lost(point.configuration)
            if lost:
                places.append((Hole(0, 0, point.configuration, "configuration"), (), 0, CONFIGURATION))
            problem = self._problem_of(point)
            if not disks and not lost and not problem:
                continue
            self._point_count += 1
            if number < MOST_POINTS:
                self._points.append(
                    HarmedPoint(point.point_id, point.machine, point.created, tuple(disks), lost, problem)
                )
            self._name(point, number, places)

    @property
    def lost(self) -> frozenset[bytes]:
        """All digests that points have lost."""
        return frozenset(self._found) - {b""}

    def findings(self, files: Sequence[FileProblem]) -> Findings:
        """Return all of it; what no point reaches is named too."""
        everything = dict.fromkeys(self._found)
        everything.update(dict.fromkeys(self._bad))
        shown = []
        for digest in list(everything)[:MOST_FINDINGS]:
            file, what = self._holders.get(digest, ("", "block"))
            what = self._found.get(digest, what)
            places = tuple(
                Place(disk, ranges, count, tuple(numbers))
                for (_, disk, ranges, count), numbers in self._places.get(digest, {}).items()
            )
            shown.append(Finding(digest, what, file, places))
        return Findings(tuple(shown), len(everything), tuple(self._points), self._point_count, tuple(files))

    def _name(self, point: Point, number: int, places: Iterable[tuple[Hole, Ranges, int, int]]) -> None:
        for hole, ranges, count, disk in places:
            if hole.digest not in self._found and len(self._found) < MOST_FINDINGS:
                self._places[hole.digest] = {}
            if len(self._found) < _MOST_COUNTED:
                self._found.setdefault(hole.digest, hole.what)
            held = self._places.get(hole.digest)
            if held is not None and number < MOST_POINTS and self._named_in_places < _MOST_NAMED:
                self._named_in_places += 1 + len(ranges)
                machine = f"{point.plugin}/{point.machine_id}"
                held.setdefault((machine, disk, ranges, count), []).append(number)

    def _harmed_disk(self, point: Point, disk: PointDisk, place: int, holes: Sequence[Hole]) -> HarmedDisk:
        ranges = _ranges(point, disk, holes)
        named = ranges[:MOST_RANGES] if self._named_in_points < _MOST_NAMED else []
        self._named_in_points += len(named)
        return HarmedDisk(place, sum(length for _, length in ranges), tuple(named), len(ranges))

    def _problem_of(self, point: Point) -> str:
        try:
            self._reader.opened(point)
        except DataCorrupt as error:
            return str(error)
        return ""


def file_problems(reader: ChainReader) -> list[FileProblem]:
    """Return which files of a chain are missing or cannot be read."""
    found = [FileProblem(file_id, "missing") for file_id in reader.files.missing()]
    return found + [FileProblem(name, reason) for name, reason in reader.files.unreadable]


def _ranges(point: Point, disk: PointDisk, holes: Iterable[Hole]) -> list[tuple[int, int]]:
    size = point.block_size_bytes
    ranges = [(hole.start * size, min(hole.count * size, disk.size_bytes - hole.start * size)) for hole in holes]
    return list(joined(ranges))


def _by_digest(point: Point, disk: PointDisk, place: int, holes: Sequence[Hole]) -> list[tuple[Hole, Ranges, int, int]]:
    by_digest: dict[bytes, list[Hole]] = {}
    for hole in holes:
        by_digest.setdefault(hole.digest, []).append(hole)
    found = []
    for same in by_digest.values():
        ranges = _ranges(point, disk, same)
        found.append((same[0], tuple(ranges[:MOST_RANGES]), len(ranges), place))
    return found
