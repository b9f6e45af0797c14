"""The source mover: reads one disk, or one machine's configuration, and sends what the target lacks."""

import os
import queue
import time
from typing import Final

from vbrcore.backupfile.rows import KIND_CONFIGURATION, MAX_RAW_BYTES
from vbrcore.model.errors import ProtocolError, SourceReadFailed, VbrError
from vbrcore.model.session import Totals
from vbrcore.mover.control import Control
from vbrcore.mover.disk import DiskBackup
from vbrcore.mover.follow import ToManager, followed
from vbrcore.mover.frames import SEND, WAIT
from vbrcore.mover.halves import open_configuration, open_source
from vbrcore.mover.link import TargetLink
from vbrcore.mover.messages import DiskDone, Ended, Ready, SourceWork, Stop
from vbrcore.mover.storing import LEVELS, storing_for
from vbrcore.mover.workers import stopped

MAX_THREADS: Final = 16
_ASK_AGAIN_S: Final = 0.1


def run(control: Control) -> None:
    """Do the one piece of work that arrives. Raises what made it fail."""
    work = control.receive()
    if isinstance(work, Stop):
        raise stopped()
    if not isinstance(work, SourceWork):
        raise ProtocolError(f"a source mover cannot do {type(work).__name__}")
    done = _configuration(control, work) if work.kind == "configuration" else _disk(control, work)
    control.send(done)
    control.send(Ended())


def _disk(control: Control, work: SourceWork) -> DiskDone:
    reader = open_source(work.source)
    try:
        if work.size_bytes and reader.size_bytes != work.size_bytes:
            raise SourceReadFailed(
                f"the disk has {reader.size_bytes} bytes, not {work.size_bytes} as its snapshot said"
            )
        lost: list[VbrError] = []
        backup: DiskBackup | None = None

        def on_lost(error: VbrError) -> None:
            lost.append(error)
            if backup is not None:
                backup.stop(error)

        link = TargetLink(work.endpoint, work.task_id, on_lost, ToManager(control, work.task_id))
        try:
            threads = min(os.cpu_count() or 1, MAX_THREADS)
            backup = DiskBackup(work, reader, link, threads)
            if lost:
                raise lost[0]
            control.send(Ready())
            base = f"changes since {work.since}" if work.since else "no change tracking: compared by digest"
            control.log("info", f"disk of {reader.size_bytes} bytes is open, {threads} threads; {base}")
            return followed(control, backup, link, threads)
        finally:
            link.close()
    finally:
        reader.close()


def _configuration(control: Control, work: SourceWork) -> DiskDone:
    """Send a machine's configuration as one extent; its digest takes the place of a root."""
    data = open_configuration(work.source).read()
    if not 0 < len(data) <= MAX_RAW_BYTES:
        raise SourceReadFailed(f"the configuration has {len(data)} bytes; 1 byte to 64 MiB are allowed")
    storing = storing_for(work.secret)
    name = storing.digest(data)
    answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    # Where the link is lost there is no answer; `done` then says why.
    link = TargetLink(work.endpoint, work.task_id, lambda _: answers.put(b""), ToManager(control, work.task_id))
    try:
        sent = 0
        if _needed(link, name, answers):
            row, stored = storing.store(name, memoryview(data), KIND_CONFIGURATION, LEVELS[work.compression])
            sent = link.send_block(row, stored)
        link.done()
    finally:
        link.close()
    return DiskDone(
        task_id=work.task_id,
        root=name,
        size_bytes=len(data),
        totals=Totals(read_bytes=len(data), transferred_bytes=sent),
        compared=False,
    )


def _needed(link: TargetLink, name: bytes, answers: "queue.SimpleQueue[bytes]") -> bool:
    """Ask until the target says that it has the extent, or wants it from us and not from another task."""
    while True:
        link.ask([name], answers.put)
        status = answers.get()
        if status != bytes((WAIT,)):
            return status == bytes((SEND,))
        time.sleep(_ASK_AGAIN_S)
