"""The copying mover: reads a point of one chain as it is stored and sends what another chain lacks of it.

It needs no key: of an encrypted chain it moves what it cannot read. Its point is pinned while it runs.
"""

import os
from typing import Final

from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import NotEncrypted, NotFound, ProtocolError, VbrError
from vbrcore.model.point import Point
from vbrcore.mover.control import Control
from vbrcore.mover.copypass import CopyPass
from vbrcore.mover.follow import ToManager, followed
from vbrcore.mover.link import TargetLink
from vbrcore.mover.messages import CopyWork, DiskDone, Ended, Ready, Stop
from vbrcore.mover.workers import stopped
from vbrcore.storage.places import open_place

MAX_THREADS: Final = 8


def run(control: Control) -> None:
    """Do the one piece of work that arrives. Raises what made it fail; `NotFound`: the point is there no more."""
    work = control.receive()
    if isinstance(work, Stop):
        raise stopped()
    if not isinstance(work, CopyWork):
        raise ProtocolError(f"a copying mover cannot do {type(work).__name__}")
    storage = open_place(work.place, work.repository_id)
    with ChainReader.open(storage, work.directory, pin=work.point_id) as reader:
        for warning in reader.warnings:
            control.log("warning", warning)
        if work.encrypted and not reader.encrypted:
            raise NotEncrypted(f"the chain in {work.directory} is not encrypted, but its repository is")
        point = reader.point(work.point_id)
        if work.disk_number >= len(point.disks):
            raise NotFound(f"point {work.point_id} has no disk {work.disk_number}")
        control.send(_copied(control, work, reader, point))
    control.send(Ended())


def _copied(control: Control, work: CopyWork, reader: ChainReader, point: Point) -> DiskDone:
    lost: list[VbrError] = []
    copying: CopyPass | None = None

    def on_lost(error: VbrError) -> None:
        lost.append(error)
        if copying is not None:
            copying.stop(error)

    link = TargetLink(work.endpoint, work.task_id, on_lost, ToManager(control, work.task_id))
    try:
        # Reading, sending and waiting for the target overlap; none of it keeps a core busy for long.
        threads = min(2 * (os.cpu_count() or 1), MAX_THREADS)
        copying = CopyPass(work, reader, point, link, threads)
        if lost:
            raise lost[0]
        control.send(Ready())
        base = "compared with the last copy" if work.base_root else "all of its map"
        control.log("info", f"point {point.point_id} is pinned, {threads} threads; {base}")
        return followed(control, copying, link, threads)
    finally:
        link.close()
