"""Restore points as they stand in the files of a chain."""

from typing import Literal

import msgspec


class PointDisk(msgspec.Struct, frozen=True):
    """One disk of a point. `root` is the digest of its map's root page (32 bytes; all zero: an empty disk).

    `change_id` is what the hypervisor's change tracking needs to tell the changes since this point ("": none).
    `root_mac` authenticates size and root where the chain is encrypted (docs/FORMAT.md section 7).
    """

    disk_id: str
    name: str
    size_bytes: int
    root: bytes
    change_id: str = ""
    root_mac: bytes = b""


class Point(msgspec.Struct, frozen=True):
    """The state of one machine at one session. `created` is seconds since the epoch, UTC; order is by `sequence`.

    `configuration` is the digest of the configuration's extent (32 bytes; empty: none). Where `sealed` is not empty the
    chain is encrypted, and the point's names are in it and neutral elsewhere (docs/FORMAT.md section 7).
    """

    point_id: str
    session_id: str
    job_id: str
    job_name: str
    plugin: str
    machine_id: str
    machine: str
    kind: Literal["full", "increment"]
    created: float
    sequence: int
    disks: tuple[PointDisk, ...]
    block_size_bytes: int
    configuration: bytes = b""
    warnings: tuple[str, ...] = ()
    flags: int = 0
    source_point_id: str = ""
    sealed: bytes = b""
