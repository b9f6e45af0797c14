"""The restore mover: writes one disk of a point to a sink, checks one, or returns a configuration."""

from typing import Final

from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import NotFound, ProtocolError
from vbrcore.model.point import Point, PointDisk
from vbrcore.mover.control import Control
from vbrcore.mover.disk_restore import DiskRestore
from vbrcore.mover.follow import ToManager
from vbrcore.mover.halves import open_sink
from vbrcore.mover.messages import (
    Configuration,
    Ended,
    ExamineWork,
    ReadConfiguration,
    Ready,
    RestoreDone,
    RestoreWork,
    Stop,
)
from vbrcore.mover.reading import follow, reading_threads, unlock
from vbrcore.mover.workers import stopped
from vbrcore.plugins.mover import Writer
from vbrcore.storage.places import open_place

CONFIGURATION_PART_BYTES: Final = 4 * 1024 * 1024


def run(control: Control) -> None:
    """Do the one piece of work that arrives. Raises what made it fail."""
    work = control.receive()
    if isinstance(work, Stop):
        raise stopped()
    if isinstance(work, ExamineWork):
        from vbrcore.mover.examine import examine  # noqa: PLC0415 - a restore does without it

        control.send(examine(control, work))
        control.send(Ended())
        return
    if not isinstance(work, RestoreWork | ReadConfiguration):
        raise ProtocolError(f"a restore mover cannot do {type(work).__name__}")
    storage = open_place(work.place, work.repository_id)
    with ChainReader.open(storage, work.directory) as reader:
        for warning in reader.warnings:
            control.log("warning", warning)
        unlock(control, reader, wanted=_wants_contents(work), encrypted=work.encrypted)
        point = reader.point(work.point_id)
        if isinstance(work, RestoreWork):
            control.send(_restore(control, work, reader, point))
        elif point.configuration and reader.encrypted and work.as_stored:
            reader.stored(point.configuration)
        elif point.configuration:
            data = reader.block(point.configuration)
            for start in range(0, len(data), CONFIGURATION_PART_BYTES):
                control.send(Configuration(data[start : start + CONFIGURATION_PART_BYTES]))
        else:
            raise NotFound(f"point {point.point_id} of {point.machine} has no configuration")
    control.send(Ended())


def _wants_contents(work: RestoreWork | ReadConfiguration) -> bool:
    if isinstance(work, RestoreWork):
        return work.sink is not None or work.endpoint is not None or work.deep
    return not work.as_stored


def _restore(control: Control, work: RestoreWork, reader: ChainReader, point: Point) -> RestoreDone:
    disk = _disk_of(point, work)
    threads = reading_threads()
    sink = _sink(control, work)
    try:
        restore = DiskRestore(reader, disk, point.block_size_bytes, sink, deep=work.deep, threads=threads)
        control.send(Ready())
        control.log(
            "info", f"{'reads' if sink is None else 'writes'} a disk of {disk.size_bytes} bytes, {threads} threads"
        )
        follow(control, restore)
        if sink is not None:
            sink.finish()
        return RestoreDone(work.task_id, restore.totals(), restore.damaged())
    finally:
        if sink is not None:
            sink.close()


def _sink(control: Control, work: RestoreWork) -> Writer | None:
    """Open the sink, or reach the mover that has it open on another server; None: the disk is only checked."""
    if work.endpoint is not None:
        from vbrcore.mover.farsink import FarWriter  # noqa: PLC0415 - only where the repository is elsewhere

        return FarWriter(work.endpoint, work.task_id, ToManager(control, work.task_id))
    return None if work.sink is None else open_sink(work.sink)


def _disk_of(point: Point, work: RestoreWork) -> PointDisk:
    """Find the disk by its id, or by its place where the ids are sealed. Raises `NotFound`."""
    for number, disk in enumerate(point.disks):
        if number == work.disk_number if point.sealed else disk.disk_id == work.disk_id:
            return disk
    raise NotFound(f"point {point.point_id} of {point.machine} has no disk {work.disk_id}")
