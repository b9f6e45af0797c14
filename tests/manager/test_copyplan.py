"""Which points a backup copy takes over, and as what."""

import msgspec
import pytest

from vbrcore.catalog.points import StoredPoint
from vbrcore.manager.copyplan import (
    check_same_encryption,
    chosen_points,
    comes_from,
    copy_of,
    copy_selection,
    wanted_points,
)
from vbrcore.model.errors import InvalidValue
from vbrcore.model.inventory import Repository
from vbrcore.model.job import Job
from vbrcore.model.point import Point, PointDisk
from vbrcore.model.retention import KEPT_BY_HAND, Retention
from vbrcore.model.session import Session

NOW = 1_000_000_000.0


def job(*machines: str, keep: int = 14, exclude: tuple[str, ...] = ()) -> Job:
    retention = Retention(keep_points=keep)
    return Job("copy", "offsite", "", "second", machines, exclude, retention=retention, source_repository_id="main")


def point(number: int, machine: str = "web", machine_id: str = "", source: str = "", flags: int = 0) -> Point:
    return Point(
        point_id=f"{'copy' if source else 'point'}-{machine_id or machine}-{number}",
        session_id="session",
        job_id="backup",
        job_name="nightly",
        plugin="images",
        machine_id=machine_id or machine,
        machine=machine,
        kind="full",
        created=NOW - 86400 * (100 - number),
        sequence=number,
        disks=(PointDisk("0", "disk", 1024, bytes(32), change_id="c", root_mac=b"m"),),
        block_size_bytes=1024 * 1024,
        flags=flags,
        source_point_id=source,
    )


def copied(original: Point) -> Point:
    session = Session("s", "copy", "offsite", "copy", "running", "none", manual=True, created=NOW)
    return copy_of(original, job("*"), session)


def numbers(points: list[Point]) -> list[int]:
    return [one.sequence for one in points]


def test_a_copy_is_its_original_but_for_whose_it_is() -> None:
    original = point(7, flags=KEPT_BY_HAND)
    made = copied(original)
    assert made.point_id != original.point_id
    assert (made.source_point_id, made.job_id, made.job_name, made.session_id) == (
        original.point_id,
        "copy",
        "offsite",
        "s",
    )
    assert (made.flags, made.disks[0].change_id, made.disks[0].root_mac) == (0, "", b"")
    same = ("machine", "machine_id", "plugin", "created", "sequence", "block_size_bytes", "configuration", "warnings")
    for field in same:
        assert getattr(made, field) == getattr(original, field)
    assert made.disks[0].root == original.disks[0].root


def test_what_is_there_and_what_would_go_at_once_is_not_copied() -> None:
    originals = [point(number) for number in range(1, 9)]
    assert numbers(wanted_points(originals, [], job("*", keep=5), NOW)) == [4, 5, 6, 7, 8]
    have = [copied(one) for one in originals[:6]]
    assert numbers(wanted_points(originals, have, job("*", keep=5), NOW)) == [7, 8]
    assert wanted_points(originals, [copied(one) for one in originals], job("*", keep=5), NOW) == []
    # Copies of what the source has no more count as well.
    assert numbers(wanted_points(originals[:2], [copied(one) for one in originals[2:]], job("*", keep=7), NOW)) == [2]


def test_each_machine_has_its_own_points_and_what_is_kept_by_hand_is_not_kept_in_the_copy() -> None:
    originals = [point(1, flags=KEPT_BY_HAND), *(point(number) for number in range(2, 6)), point(6, "db")]
    assert numbers(wanted_points(originals, [], job("*", keep=3), NOW)) == [3, 4, 5, 6]


def test_machines_are_meant_by_the_names_of_their_newest_points() -> None:
    points = [point(1, "old", "id"), point(2, "web-1", "id"), point(3, "db"), point(4, "web-2")]
    assert numbers(chosen_points(job("web-*"), points)) == [1, 2, 4]
    assert numbers(chosen_points(job("*", exclude=("web-*",)), points)) == [3]
    assert chosen_points(job("old"), points) == []
    assert copy_selection(job("db", "nobody"), points, ()).missing == ("nobody",)


def test_a_point_knows_the_repositories_that_it_comes_from() -> None:
    first = StoredPoint("main", "nightly", point(1))
    second = StoredPoint("second", "offsite/nightly", point(1, "web", "b", source=first.point.point_id))
    third = StoredPoint("third", "far/offsite/nightly", point(1, "web", "c", source=second.point.point_id))
    known = {one.point.point_id: one for one in (first, second, third)}
    assert comes_from(third, known, "main")
    assert comes_from(third, known, "second")
    assert not comes_from(third, known, "third")
    assert not comes_from(first, known, "second")
    assert not comes_from(third, {}, "main")
    itself = msgspec.structs.replace(first, point=msgspec.structs.replace(first.point, source_point_id="x"))
    assert not comes_from(itself, {"x": msgspec.structs.replace(itself, repository_id="other")}, "main")


@pytest.mark.parametrize("encrypted", [(True, False), (False, True)])
def test_only_equals_are_copied(encrypted: tuple[bool, bool]) -> None:
    main, second = (Repository(name, name, "local", "/", 1) for name in ("main", "second"))
    with pytest.raises(InvalidValue, match=f"only {'main' if encrypted[0] else 'second'} is encrypted"):
        check_same_encryption(main, second, encrypted)
    check_same_encryption(main, second, (encrypted[0], encrypted[0]))
