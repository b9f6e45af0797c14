"""The public plugin API, mover half: what reads and writes block data in a data mover.

A plugin's mover half is a module (entry-point group `vbrcore.movers`, name = plugin id) with the two mappings
`READERS: dict[str, Callable[[SourceSpec], Reader]]` and `WRITERS: dict[str, Callable[[SinkSpec], Writer]]`.
It must import nothing heavy, and of vbrcore only this module, `vbrcore.plugins.api`, `vbrcore.plugins.nbd`,
`vbrcore.plugins.image` and `vbrcore.model`.
"""

from collections.abc import Iterator
from typing import Literal, Protocol

import msgspec


class Extent(msgspec.Struct, frozen=True):
    """A byte range of a disk. `unchanged` appears only when a base was given."""

    offset: int
    length: int
    state: Literal["data", "zero", "unchanged"]


class Reader(Protocol):
    """One open source. `read_into` and `extents` may be called from several threads at once."""

    size_bytes: int

    def extents(self, since: str) -> Iterator[Extent]:
        """Yield extents in order, without gaps, covering 0 to `size_bytes`.

        `since` is a change id, or "" for data and zero only. Raises `TrackingLost` before the first extent if the
        changes since then cannot be told. Nothing may be called unchanged or zero that is not.
        """

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset`. Raises `SourceReadFailed`. Safe to repeat."""

    def close(self) -> None:
        """Give back connections and processes. Idempotent."""


class ConfigurationReader(Protocol):
    """A small source without blocks: the machine's definition and what belongs to it (NVRAM, TPM state)."""

    def read(self) -> bytes:
        """Return it whole, at most 64 MiB."""


class Writer(Protocol):
    """One open sink. `write_from` and `zero` may be called from several threads at once, on disjoint
    ranges.
    """

    def write_from(self, offset: int, buffer: memoryview) -> None:
        """Write the whole buffer at `offset`. Raises `SinkWriteFailed`."""

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, sparse where the sink can. A new sink is all zeros already."""

    def finish(self) -> None:
        """Make everything durable. Without it the sink counts as failed."""

    def close(self) -> None:
        """Give back connections and processes; after `close` without `finish` nothing of worth remains."""
