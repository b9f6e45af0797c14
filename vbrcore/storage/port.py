"""The storage port: where the bytes of backup files live. One instance per repository root.

Names are relative and '/'-joined; `list` and `sync_directory` take a prefix that ends in '/' ("" is the root). The
port knows nothing of the format but that two fixed 4 KiB places of a file, its slots, are replaced whole, while all
other bytes are written once: a local file system does both in place, object storage makes an object of each. Holes
may be made where nothing is needed any more, and ranges may be shared between files, where the storage can do it:
`capabilities.probe` finds out.

Errors: `NotFound` (no such file), `AlreadyExists` (create), `RepositoryFull`, `RepositoryReadOnly`,
`PermissionRefused`, and `StorageFailed` for everything else the storage reports.
"""

from collections.abc import Sequence
from typing import Final, Protocol

Buffer = bytes | bytearray | memoryview

SLOT_BYTES: Final = 4096
ALIGNMENT_BYTES: Final = 4096


class Appender(Protocol):
    """One open file of this process. There is no position: each call says where, and what lies between is a hole.

    `write` and `clone_range` may be called from several threads, on disjoint ranges.
    """

    def write(self, offset: int, parts: Sequence[Buffer]) -> None:
        """Write the parts one after the other from `offset` (aligned to 4 KiB). Not durable before `sync`."""

    def clone_range(self, source: str, source_offset: int, offset: int, length: int) -> None:
        """Share a range of the file `source` of the same storage at `offset` of this one, without moving data.

        Offsets and length are multiples of the storage's `alignment_bytes` (else `ValueError`), and the source reaches
        that far (else `StorageFailed`). Not durable before `sync`. Raises `CapabilityMissing`, `NotFound`.
        """

    def write_slot(self, offset: int, data: Buffer) -> None:
        """Replace the 4 KiB slot at `offset`. Not durable before `sync`; may be torn at 512 bytes by a crash."""

    def sync(self) -> None:
        """Make everything written durable. After an error the file must not be written to again by this process."""

    def close(self) -> None:
        """Give the file back without making anything durable. Idempotent."""


class Reader(Protocol):
    """One file open for reading; may be used from several threads at once."""

    @property
    def size_bytes(self) -> int:
        """The file's size now."""

    def read_into(self, offset: int, parts: Sequence[bytearray | memoryview]) -> int:
        """Fill the parts one after the other from `offset`; return the bytes read, less only at the file's end."""

    def close(self) -> None:
        """Idempotent."""


class Lock(Protocol):
    """A held lock; it ends with the process at the latest."""

    def release(self) -> None:
        """Idempotent."""


class Storage(Protocol):
    """See the module. All methods may be called from several threads."""

    @property
    def alignment_bytes(self) -> int:
        """The block of the file system: what is shared and given back is a multiple of it. 4 KiB, or 8 to 64 KiB."""

    def create(self, name: str) -> Appender:
        """Make a new file, and the directories above it; raises `AlreadyExists`."""

    def modify(self, name: str) -> Appender:
        """Open an existing file for a new contents list and its slots."""

    def open_reader(self, name: str) -> Reader: ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer only at the file's end. The caller bounds `length`."""

    def size(self, name: str) -> int: ...

    def allocated_bytes(self, name: str) -> int:
        """Return what a file takes of the storage; a range shared by files counts in each of them.

        Holes take nothing. A file that is being appended to may show more than it has: what the file system set aside.
        """

    def list(self, prefix: str) -> tuple[str, ...]:
        """Return the names of all files below `prefix`, sorted; an absent directory has none."""

    def sync_directory(self, prefix: str) -> None:
        """Make names made, renamed and removed below `prefix` durable."""

    def truncate(self, name: str, size_bytes: int) -> None:
        """Cut off what lies behind `size_bytes`: the remains of a writer that died."""

    def punch(self, name: str, offset: int, length: int) -> None:
        """Give the whole blocks of `alignment_bytes` inside a range back; they read as zeros, the size stays.

        What shares the range keeps its content. Durable with the file's next sync. Raises `CapabilityMissing`.
        """

    def rename(self, name: str, new_name: str) -> None:
        """Name a file anew, in a directory that exists. Nothing is replaced: raises `AlreadyExists`.

        Durable after `sync_directory` of its directory. An `Appender` or `Reader` that has it open goes on.
        """

    def remove(self, name: str) -> None:
        """Durable after `sync_directory`. Who has the file open goes on."""

    def remove_directory(self, prefix: str) -> None:
        """Remove a directory of which all names were removed. Where it holds something else it stays."""

    def lock(self, name: str) -> Lock:
        """Take the exclusive lock of that name, or raise `ChainLocked` at once."""

    def free_bytes(self) -> int: ...

    def capacity_bytes(self) -> int:
        """Return the size of what the storage lies on, free or not."""


def whole_blocks(offset: int, length: int, alignment_bytes: int) -> tuple[int, int]:
    """Return offset and length of the whole blocks inside a range; the length is 0 where there are none."""
    start = -(-offset // alignment_bytes) * alignment_bytes
    end = (offset + length) // alignment_bytes * alignment_bytes
    return start, max(0, end - start)


def check_aligned(alignment_bytes: int, *numbers: int) -> None:
    """Raise `ValueError` unless all are multiples."""
    if any(number % alignment_bytes for number in numbers):
        raise ValueError(f"not aligned to {alignment_bytes} bytes: {numbers}")
