"""What an examination found, bounded, as it crosses processes: damaged digests and all points that reach them."""

from typing import Final, Literal

import msgspec

What = Literal["block", "page", "configuration"]
Ranges = tuple[tuple[int, int], ...]

# In the lists of one file: each takes about 100 bytes in all lists that the file will have.
MOST_MARKS: Final = 32 * 1024
CONFIGURATION: Final = -1
MOST_FINDINGS: Final = 1000
MOST_POINTS: Final = 10_000
MOST_RANGES: Final = 64


class Place(msgspec.Struct, frozen=True):
    """Where points have what was found: a disk's number (`CONFIGURATION`: none) and (offset, length) in it.

    `points` are numbers of `Findings.points`. Of more than `MOST_RANGES` ranges the first are named.
    """

    disk: int
    ranges: Ranges
    range_count: int
    points: tuple[int, ...]


class Finding(msgspec.Struct, frozen=True):
    """One digest without an intact extent (empty: several). `file` holds what is damaged; empty: no file has it."""

    digest: bytes
    what: What
    file: str
    places: tuple[Place, ...] = ()


class HarmedDisk(msgspec.Struct, frozen=True):
    """What of one disk of a point cannot be read, neighbours joined."""

    disk: int
    bytes: int
    ranges: Ranges
    range_count: int


class HarmedPoint(msgspec.Struct, frozen=True):
    """A point that cannot be restored as a whole. Names are those of its files; `problem`: it was changed."""

    point_id: str
    machine: str
    created: float
    disks: tuple[HarmedDisk, ...]
    configuration: bool
    problem: str = ""


class FileProblem(msgspec.Struct, frozen=True):
    """A file that is missing (`name` is its id then) or cannot be read as a whole."""

    name: str
    problem: str


class Findings(msgspec.Struct, frozen=True):
    """`finding_count` and `point_count` count also what is beyond `MOST_FINDINGS` and `MOST_POINTS`."""

    findings: tuple[Finding, ...] = ()
    finding_count: int = 0
    points: tuple[HarmedPoint, ...] = ()
    point_count: int = 0
    files: tuple[FileProblem, ...] = ()


class Mark(msgspec.Struct, frozen=True, gc=False):
    """An extent to be named as damaged in the contents list of its file."""

    file_id: bytes
    digest: bytes
    offset: int


class BadTable(msgspec.Struct, frozen=True):
    """A file with a table part that cannot be read: of what stands in it, nobody knows where it is."""

    file_id: bytes
    name: str
    problem: str


class Diagnosis(msgspec.Struct, frozen=True):
    """`marks` are to be named in their files' lists, at most `MOST_MARKS`; `bad_extents` counts all of them."""

    findings: Findings
    marks: tuple[Mark, ...] = ()
    bad_tables: tuple[BadTable, ...] = ()
    bad_extents: int = 0

    @property
    def is_clean(self) -> bool:
        found = self.findings
        return not (found.finding_count or found.point_count or found.files or self.bad_tables)
