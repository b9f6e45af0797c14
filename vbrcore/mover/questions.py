"""What a storage mover can be asked: the storage port as data, one question for each of its methods.

A file that is open, or a lock that is held, has a number, given by the answer to the question that opened it. No
question and no answer is longer than `PART_BYTES` of content or `PART_NAMES` names: longer ones come in parts.
"""

from typing import Final

import msgspec

PART_BYTES: Final = 4 * 1024 * 1024
PART_NAMES: Final = 8192


class _Question(msgspec.Struct, frozen=True, tag=True):
    pass


class ListNames(_Question, frozen=True):
    """Answered by `names`."""

    prefix: str


class Read(_Question, frozen=True):
    """At most `PART_BYTES`. Answered by `data`."""

    name: str
    offset: int
    length: int


class ReadOpen(_Question, frozen=True):
    """The same of a file that `OpenReader` opened."""

    handle: int
    offset: int
    length: int


class OpenReader(_Question, frozen=True):
    """Answered by a number."""

    name: str


class SizeOpen(_Question, frozen=True):
    """Answered by `value`."""

    handle: int


class Size(_Question, frozen=True):
    """Answered by `value`."""

    name: str


class AllocatedBytes(_Question, frozen=True):
    """Answered by `value`."""

    name: str


class FreeBytes(_Question, frozen=True):
    """Answered by `value`."""


class CapacityBytes(_Question, frozen=True):
    """Answered by `value`."""


class Create(_Question, frozen=True):
    """Answered by a number."""

    name: str


class Modify(_Question, frozen=True):
    """Answered by a number."""

    name: str


class Write(_Question, frozen=True):
    """`slot`: a slot is replaced."""

    handle: int
    offset: int
    data: bytes
    slot: bool = False


class CloneRange(_Question, frozen=True):
    handle: int
    source: str
    source_offset: int
    offset: int
    length: int


class Sync(_Question, frozen=True):
    handle: int


class Lock(_Question, frozen=True):
    """Answered by a number."""

    name: str


class Close(_Question, frozen=True):
    """Give back what has this number: a reader, an appender or a lock."""

    handle: int


class SyncDirectory(_Question, frozen=True):
    prefix: str


class Truncate(_Question, frozen=True):
    name: str
    size_bytes: int


class Punch(_Question, frozen=True):
    name: str
    offset: int
    length: int


class Rename(_Question, frozen=True):
    name: str
    new_name: str


class Remove(_Question, frozen=True):
    name: str


class RemoveDirectory(_Question, frozen=True):
    prefix: str


class Adopt(_Question, frozen=True):
    """Write the identity of a repository that has lost its own."""

    repository_id: str


Question = (
    ListNames
    | Read
    | ReadOpen
    | OpenReader
    | SizeOpen
    | Size
    | AllocatedBytes
    | FreeBytes
    | CapacityBytes
    | Create
    | Modify
    | Write
    | CloneRange
    | Sync
    | Lock
    | Close
    | SyncDirectory
    | Truncate
    | Punch
    | Rename
    | Remove
    | RemoveDirectory
    | Adopt
)
