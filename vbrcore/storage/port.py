"""The storage port: where the bytes of backup files live. One instance per repository root.

Names are relative and '/'-joined; `list` and `sync_directory` take a prefix that ends in '/' ("" is the root). The
port knows nothing of the format but that two fixed 4 KiB places of a file, its slots, are replaced whole, while all
other bytes are written once: a local file system does both in place, object storage makes an object of each.

Errors: `NotFound` (no such file), `AlreadyExists` (create), `RepositoryFull`, `RepositoryReadOnly`,
`PermissionRefused`, and `StorageFailed` for everything else the storage reports.
"""

from collections.abc import Sequence
from typing import Final, Literal, Protocol

Buffer = bytes | bytearray | memoryview
Capability = Literal["punch", "clone"]

SLOT_BYTES: Final = 4096
ALIGNMENT_BYTES: Final = 4096


class Appender(Protocol):
    """One open file of this process. `write` may be called from several threads, on disjoint ranges."""

    def write(self, offset: int, parts: Sequence[Buffer]) -> None:
        """Write the parts one after the other from `offset` (aligned to 4 KiB). Not durable before `sync`."""

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

    def create(self, name: str) -> Appender:
        """Make a new file, and the directories above it; raises `AlreadyExists`."""

    def modify(self, name: str) -> Appender:
        """Open an existing file for a new contents list and its slots."""

    def open_reader(self, name: str) -> Reader: ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer only at the file's end. The caller bounds `length`."""

    def size(self, name: str) -> int: ...

    def list(self, prefix: str) -> tuple[str, ...]:
        """Return the names of all files below `prefix`, sorted; an absent directory has none."""

    def sync_directory(self, prefix: str) -> None:
        """Make names made, renamed and removed below `prefix` durable."""

    def truncate(self, name: str, size_bytes: int) -> None:
        """Cut off what lies behind `size_bytes`: the remains of a writer that died."""

    def punch(self, name: str, offset: int, length: int) -> None:
        """Give a range back; it reads as zeros afterwards. Raises `CapabilityMissing`."""

    def clone_range(self, source: str, source_offset: int, target: str, target_offset: int, length: int) -> None:
        """Share a range of one file with another, without moving data. Raises `CapabilityMissing`."""

    def rename(self, name: str, new_name: str) -> None: ...

    def remove(self, name: str) -> None: ...

    def remove_directory(self, prefix: str) -> None:
        """Remove a directory of which all names were removed. Where it holds something else it stays."""

    def lock(self, name: str) -> Lock:
        """Take the exclusive lock of that name, or raise `ChainLocked` at once."""

    def free_bytes(self) -> int: ...

    def capabilities(self) -> frozenset[Capability]:
        """What this storage was found to be able to do, tried out on a file of its own."""
