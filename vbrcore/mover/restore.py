"""The restore mover: writes one disk of a point to a sink, checks one, or returns a configuration."""

import os
import threading
from pathlib import Path
from typing import Final

from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import NotFound, ProtocolError
from vbrcore.model.point import Point, PointDisk
from vbrcore.mover.control import Control
from vbrcore.mover.disk_restore import DiskRestore
from vbrcore.mover.halves import open_sink
from vbrcore.mover.messages import (
    Configuration,
    Ended,
    Progress,
    ReadConfiguration,
    Ready,
    RestoreDone,
    RestoreWork,
    Stop,
)
from vbrcore.mover.workers import stopped
from vbrcore.storage.repository import open_repository

MAX_THREADS: Final = 16
PROGRESS_PERIOD_S: Final = 1.0
CONFIGURATION_PART_BYTES: Final = 4 * 1024 * 1024


def run(control: Control) -> None:
    """Do the one piece of work that arrives. Raises what made it fail."""
    work = control.receive()
    if isinstance(work, Stop):
        raise stopped()
    if not isinstance(work, RestoreWork | ReadConfiguration):
        raise ProtocolError(f"a restore mover cannot do {type(work).__name__}")
    storage = open_repository(Path(work.repository_path), work.repository_id)
    with ChainReader.open(storage, work.directory) as reader:
        for warning in reader.warnings:
            control.log("warning", warning)
        point = reader.point(work.point_id)
        if isinstance(work, RestoreWork):
            control.send(_restore(control, work, reader, point))
        elif point.configuration:
            data = reader.block(point.configuration)
            for start in range(0, len(data), CONFIGURATION_PART_BYTES):
                control.send(Configuration(data[start : start + CONFIGURATION_PART_BYTES]))
        else:
            raise NotFound(f"point {point.point_id} of {point.machine} has no configuration")
    control.send(Ended())


def _restore(control: Control, work: RestoreWork, reader: ChainReader, point: Point) -> RestoreDone:
    disk = _disk_of(point, work.disk_id)
    # Twice the cores: half of the threads read or write while the others decompress.
    threads = min(2 * (os.cpu_count() or 1), MAX_THREADS)
    sink = None if work.sink is None else open_sink(work.sink)
    try:
        restore = DiskRestore(reader, disk, point.block_size_bytes, sink, deep=work.deep, threads=threads)
        control.send(Ready())
        control.log(
            "info", f"{'reads' if sink is None else 'writes'} a disk of {disk.size_bytes} bytes, {threads} threads"
        )
        _follow(control, restore)
        if sink is not None:
            sink.finish()
        return RestoreDone(work.task_id, restore.totals(), restore.damaged())
    finally:
        if sink is not None:
            sink.close()


def _follow(control: Control, restore: DiskRestore) -> None:
    """Run the restore on this thread; report its progress and listen for `Stop` on two others."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(PROGRESS_PERIOD_S):
            control.send(Progress(restore.done_bytes, restore.size_bytes, restore.totals(), restore.busy()))

    def listen() -> None:
        while not isinstance(control.receive(), Stop):
            pass
        restore.stop(stopped())

    threading.Thread(target=listen, name="stop", daemon=True).start()
    reporter = threading.Thread(target=report, name="progress", daemon=True)
    reporter.start()
    try:
        restore.run()
    finally:
        ended.set()
        reporter.join()


def _disk_of(point: Point, disk_id: str) -> PointDisk:
    for disk in point.disks:
        if disk.disk_id == disk_id:
            return disk
    raise NotFound(f"point {point.point_id} of {point.machine} has no disk {disk_id}")
