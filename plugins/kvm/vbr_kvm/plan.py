"""What a snapshot is going to make, typed. It travels as the plain data of `SnapshotPlan`."""

import msgspec

from vbrcore.plugins.api import SnapshotPlan


class Plan(msgspec.Struct, frozen=True):
    """`name` is that of checkpoint, socket directory and scratch files. `socket` is "" where no backup job is begun:
    for a machine that is off (not `active`), and for one without disks to read.

    `files` and `stamps` are the images of a machine that is off, and how they looked when the plan was made.
    """

    name: str
    domain: str
    prefix: str
    active: bool
    socket: str = ""
    scratch: str = ""
    quiesce: bool = False
    files: list[str] = []
    stamps: list[str] = []

    def packed(self, machine_id: str) -> SnapshotPlan:
        return SnapshotPlan(machine_id, msgspec.to_builtins(self))

    @classmethod
    def unpacked(cls, plan: SnapshotPlan) -> "Plan":
        return msgspec.convert(plan.data, cls)
