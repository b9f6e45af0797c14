"""What an examination found, with the names that people know: plain data for the session's report, and sentences."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from vbrcore.catalog.catalog import StoredPoint
from vbrcore.chain.diagnosis import CONFIGURATION, MOST_POINTS, Finding, Findings, HarmedPoint
from vbrcore.model.point import Point
from vbrcore.mover.messages import Examined

_MOST_SAID = 8  # ranges in a sentence
_CONFIGURATION_NAME = "configuration"

Ranges = tuple[tuple[int, int], ...]


class PlaceReport(msgspec.Struct, frozen=True):
    """Where points have it. `ranges` are (offset, length); of many the first are named."""

    machine: str
    disk: str
    ranges: Ranges
    range_count: int
    points: tuple[str, ...]


class FindingReport(msgspec.Struct, frozen=True):
    """A digest without an intact copy. `file` holds the damaged one; empty: it went with a file or a table."""

    digest: str
    what: str
    file: str
    places: tuple[PlaceReport, ...]


class DiskReport(msgspec.Struct, frozen=True):
    disk: str
    damaged_bytes: int
    ranges: Ranges
    range_count: int


class PointReport(msgspec.Struct, frozen=True):
    point_id: str
    machine: str
    disks: tuple[DiskReport, ...]
    configuration: bool
    problem: str


class FileReport(msgspec.Struct, frozen=True):
    """A file that is missing (`file` is its id then), or cannot be read as a whole."""

    file: str
    problem: str


class ChainReport(msgspec.Struct, frozen=True):
    """`finding_count` and `point_count` also count what is not named. `marked`: extents named in their files' lists."""

    repository: str
    directory: str
    read_bytes: int
    damaged_extents: int
    marked: int
    files: tuple[FileReport, ...]
    findings: tuple[FindingReport, ...]
    finding_count: int
    points: tuple[PointReport, ...]
    point_count: int

    @property
    def is_clean(self) -> bool:
        return not (self.files or self.finding_count or self.point_count)


def report_of(
    repository: str, directory: str, done: Examined, known: Mapping[str, StoredPoint], marked: int
) -> ChainReport:
    """Return the report of one chain. `known` are its points with true names, by id."""
    diagnosis = done.diagnosis
    found = diagnosis.findings
    return ChainReport(
        repository=repository,
        directory=directory,
        read_bytes=done.totals.read_bytes,
        damaged_extents=diagnosis.bad_extents,
        marked=marked,
        files=tuple(FileReport(one.name, one.problem) for one in found.files),
        findings=tuple(_finding(one, found, known) for one in found.findings),
        finding_count=found.finding_count,
        points=tuple(_point(one, known) for one in found.points),
        point_count=found.point_count,
    )


def lost_report(repository: str, directory: str, problem: str, points: Sequence[Point]) -> ChainReport:
    """Return the report of a chain of which nothing can be read."""
    return ChainReport(
        repository=repository,
        directory=directory,
        read_bytes=0,
        damaged_extents=0,
        marked=0,
        files=(FileReport(directory, problem),),
        findings=(),
        finding_count=0,
        points=tuple(PointReport(one.point_id, one.machine, (), False, problem) for one in points[:MOST_POINTS]),
        point_count=len(points),
    )


def sentences(reports: Iterable[ChainReport], *, files: bool = True) -> list[str]:
    """Say what is damaged: a sentence for each point, file, and digest that no point has."""
    said: list[str] = []
    for report in reports:
        for point in report.points:
            said.append(f"restore point {point.point_id} of {point.machine or 'a sealed name'}: {_why(point)}")  # noqa: PERF401
        if report.point_count > len(report.points):
            said.append(f"{report.directory}: {report.point_count - len(report.points)} more points are damaged")
        if files:
            said += [f"{report.directory}: file {one.file}: {one.problem}" for one in report.files]
            unused = [one for one in report.findings if not one.places]
            said += [f"{one.file}: a damaged {one.what} that no point is without" for one in unused]
    return said


def damage_of(report: ChainReport) -> dict[str, str]:
    """Return why points are not whole, by id."""
    return {point.point_id: _why(point) for point in report.points}


def _why(point: PointReport) -> str:
    parts = [f"{disk.disk} is damaged at {_said(disk.ranges, disk.range_count)}" for disk in point.disks]
    if point.configuration:
        parts.append("its configuration is damaged")
    if point.problem:
        parts.append(point.problem)
    return "; ".join(parts)


def _said(ranges: Sequence[tuple[int, int]], count: int) -> str:
    """Return ranges as offset+bytes."""
    shown = ", ".join(f"{offset}+{length}" for offset, length in ranges[:_MOST_SAID])
    return f"{shown} and {count - _MOST_SAID} more ranges" if count > _MOST_SAID else shown or f"{count} ranges"


def _finding(finding: Finding, found: Findings, known: Mapping[str, StoredPoint]) -> FindingReport:
    places = []
    for place in finding.places:
        points = tuple(found.points[number] for number in place.points)
        if points:
            disk = _disk_name(points[0], place.disk, known)
            machine = _machine(points[0], known)
            ids = tuple(point.point_id for point in points)
            places.append(PlaceReport(machine, disk, place.ranges, place.range_count, ids))
    return FindingReport(finding.digest.hex(), finding.what, finding.file, tuple(places))


def _point(point: HarmedPoint, known: Mapping[str, StoredPoint]) -> PointReport:
    disks = tuple(
        DiskReport(_disk_name(point, disk.disk, known), disk.bytes, disk.ranges, disk.range_count)
        for disk in point.disks
    )
    return PointReport(point.point_id, _machine(point, known), disks, point.configuration, point.problem)


def _machine(point: HarmedPoint, known: Mapping[str, StoredPoint]) -> str:
    stored = known.get(point.point_id)
    return stored.point.machine if stored is not None else point.machine


def _disk_name(point: HarmedPoint, number: int, known: Mapping[str, StoredPoint]) -> str:
    """Return a disk's name; where it is sealed, its number."""
    if number == CONFIGURATION:
        return _CONFIGURATION_NAME
    stored = known.get(point.point_id)
    disks = stored.point.disks if stored is not None else ()
    name = disks[number].name if number < len(disks) else ""
    return name or f"disk {number}"
