"""The restore mover: writes one disk of a point to a sink, checks one, or returns a configuration."""

import os
import threading
from pathlib import Path
from typing import Final

from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import NotEncrypted, NotFound, ProtocolError
from vbrcore.model.point import Point, PointDisk
from vbrcore.mover.control import Control
from vbrcore.mover.disk_restore import DiskRestore
from vbrcore.mover.halves import open_sink
from vbrcore.mover.messages import (
    Configuration,
    Ended,
    KeyWanted,
    Progress,
    ReadConfiguration,
    Ready,
    RestoreDone,
    RestoreWork,
    Stop,
    UseKey,
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
        _unlock(control, work, reader)
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


def _unlock(control: Control, work: RestoreWork | ReadConfiguration, reader: ChainReader) -> None:
    """Ask for the key of an encrypted chain where the work needs it. Raises `NotEncrypted`."""
    if not reader.encrypted:
        if work.encrypted:
            raise NotEncrypted(f"the chain in {work.directory} is not encrypted, but its repository is")
        return
    contents_wanted = work.sink is not None or work.deep if isinstance(work, RestoreWork) else not work.as_stored
    if not contents_wanted:
        return
    from vbrcore.backupfile.encryption import ChainKey  # noqa: PLC0415 - cryptography only where a chain is encrypted

    control.send(KeyWanted(reader.chain_id, reader.key_slots))
    answer = control.receive()
    if isinstance(answer, Stop):
        raise stopped()
    if not isinstance(answer, UseKey) or answer.secret.chain_id != reader.chain_id:
        raise ProtocolError("a restore mover was not given the key that it asked for")
    reader.unlock(ChainKey(answer.secret.key))


def _restore(control: Control, work: RestoreWork, reader: ChainReader, point: Point) -> RestoreDone:
    disk = _disk_of(point, work)
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


def _disk_of(point: Point, work: RestoreWork) -> PointDisk:
    """Find the disk by its id, or by its place where the ids are sealed. Raises `NotFound`."""
    for number, disk in enumerate(point.disks):
        if number == work.disk_number if point.sealed else disk.disk_id == work.disk_id:
            return disk
    raise NotFound(f"point {point.point_id} of {point.machine} has no disk {work.disk_id}")
