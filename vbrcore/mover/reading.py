"""What all movers that read a chain do: ask for its key, report their progress, listen for `Stop`."""

import os
import threading
from typing import Final, Protocol

from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import NotEncrypted, ProtocolError, VbrError
from vbrcore.model.session import Totals
from vbrcore.mover.control import Control
from vbrcore.mover.messages import KeyWanted, Progress, Stop, UseKey
from vbrcore.mover.workers import stopped

MAX_THREADS: Final = 16
PROGRESS_PERIOD_S: Final = 1.0


class Reading(Protocol):
    """A piece of work that reads much. `run` is stopped by `stop` from another thread."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def done_bytes(self) -> int: ...

    def run(self) -> None: ...

    def stop(self, error: VbrError) -> None: ...

    def totals(self) -> Totals: ...

    def busy(self) -> dict[str, float]: ...


def reading_threads() -> int:
    """Twice the cores: half of the threads read or write while the others decompress."""
    return min(2 * (os.cpu_count() or 1), MAX_THREADS)


def unlock(control: Control, reader: ChainReader, *, wanted: bool, encrypted: bool) -> None:
    """Ask for the key of an encrypted chain where it is wanted. Raises `NotEncrypted`."""
    if not reader.encrypted:
        if encrypted:
            raise NotEncrypted(f"the chain in {reader.directory} is not encrypted, but its repository is")
        return
    if not wanted:
        return
    from vbrcore.backupfile.encryption import ChainKey  # noqa: PLC0415 - cryptography only where a chain is encrypted

    control.send(KeyWanted(reader.chain_id, reader.key_slots))
    answer = control.receive()
    if isinstance(answer, Stop):
        raise stopped()
    if not isinstance(answer, UseKey) or answer.secret.chain_id != reader.chain_id:
        raise ProtocolError("a restore mover was not given the key that it asked for")
    reader.unlock(ChainKey(answer.secret.key))


def follow(control: Control, reading: Reading) -> None:
    """Run it on this thread; report its progress and listen for `Stop` on two others."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(PROGRESS_PERIOD_S):
            control.send(Progress(reading.done_bytes, reading.size_bytes, reading.totals(), reading.busy()))

    def listen() -> None:
        while not isinstance(control.receive(), Stop):
            pass
        reading.stop(stopped())

    threading.Thread(target=listen, name="stop", daemon=True).start()
    reporter = threading.Thread(target=report, name="progress", daemon=True)
    reporter.start()
    try:
        reading.run()
    finally:
        ended.set()
        reporter.join()
