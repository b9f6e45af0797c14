"""What a backup copy takes over: which machines, which points, and as what. Pure but for ids."""

from collections.abc import Iterable, Sequence

import msgspec

from vbrcore.catalog.points import StoredPoint
from vbrcore.chain.retention import decide
from vbrcore.manager.selection import Selection, select
from vbrcore.model.errors import InvalidValue
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Machine, Repository
from vbrcore.model.job import Job
from vbrcore.model.point import Point
from vbrcore.model.retention import KEPT_BY_HAND
from vbrcore.model.session import Session


def check_same_encryption(source: Repository, target: Repository, encrypted: tuple[bool, bool]) -> None:
    """Raise `InvalidValue` where one of the repositories is encrypted and the other is not."""
    if encrypted[0] != encrypted[1]:
        which = source.name if encrypted[0] else target.name
        raise InvalidValue(
            f"of {source.name} and {target.name} only {which} is encrypted: a backup copy moves blocks as they are"
            " stored, so both repositories are encrypted or neither is"
        )


def copy_selection(job: Job, points: Iterable[Point], known_names: Iterable[str]) -> Selection:
    """Resolve the job's selectors among the machines of points; each name is a machine here.

    A machine has the name that its newest point says. `known_names`: of machines that the job has points of.
    """
    names = dict.fromkeys(_names(points).values())
    return select(job, [Machine(name, name) for name in names], known_names)


def chosen_points(job: Job, points: Sequence[Point]) -> list[Point]:
    """Return those points of a chain whose machines the job means, oldest first."""
    names = _names(points)
    wanted = {machine.name for machine in copy_selection(job, points, ()).machines}
    ordered = sorted(points, key=lambda point: point.sequence)
    return [point for point in ordered if names[point.plugin, point.machine_id] in wanted]


def wanted_points(originals: Sequence[Point], copied: Sequence[Point], job: Job, now: float) -> list[Point]:
    """Return the points that the copy lacks and that its own retention would not let go at once, oldest first."""
    have = {point.source_point_id for point in copied}
    lacking = [point for point in originals if point.point_id not in have]
    # A copy has its original's sequence, so all of them stand in one order. What a clock in doubt would keep too long
    # need not be copied: the clock is trusted here, and not where points are let go.
    verdicts = decide(
        [*copied, *(_own(point) for point in lacking)],
        job.retention,
        now,
        present_machines=None,
        pinned=frozenset(),
        clock_trusted=True,
    )
    kept = {verdict.point_id for verdict in verdicts if verdict.keep}
    return sorted((point for point in lacking if point.point_id in kept), key=lambda point: point.sequence)


def copy_of(original: Point, job: Job, session: Session) -> Point:
    """Return the point that a copy of `original` is; its `kind` is decided by the target."""
    return msgspec.structs.replace(
        _own(original),
        point_id=new_id(),
        session_id=session.session_id,
        job_id=job.job_id,
        job_name=job.name,
        kind="increment",
        # A change id says something about the original's chain only; a MAC is made anew.
        disks=tuple(msgspec.structs.replace(disk, change_id="", root_mac=b"") for disk in original.disks),
        source_point_id=original.point_id,
    )


def comes_from(stored: StoredPoint, known: dict[str, StoredPoint], repository_id: str) -> bool:
    """Tell whether a point is a copy, or a copy's copy, of one in that repository."""
    seen = set[str]()
    point_id = stored.point.source_point_id
    while point_id in known and point_id not in seen:
        seen.add(point_id)
        if known[point_id].repository_id == repository_id:
            return True
        point_id = known[point_id].point.source_point_id
    return False


def _own(point: Point) -> Point:
    """What keeps a point by hand keeps that one, and not its copies."""
    return msgspec.structs.replace(point, flags=point.flags & ~KEPT_BY_HAND, sealed=b"")


def _names(points: Iterable[Point]) -> dict[tuple[str, str], str]:
    ordered = sorted(points, key=lambda point: (point.created, point.sequence))
    return {(point.plugin, point.machine_id): point.machine for point in ordered}
