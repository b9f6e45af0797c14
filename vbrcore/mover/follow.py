"""What a mover that sends does meanwhile: it reports its progress and listens for orders."""

import threading
from typing import Final, Protocol

from vbrcore.model.errors import VbrError
from vbrcore.mover.control import Control
from vbrcore.mover.link import TargetLink
from vbrcore.mover.messages import DiskDone, Listening, Progress, SetRate, Stop
from vbrcore.mover.meter import Meter
from vbrcore.mover.workers import stopped

PROGRESS_PERIOD_S: Final = 1.0


class Sending(Protocol):
    """One disk on its way to the target; `stop` makes `run` raise that error soon."""

    meter: Meter

    @property
    def done_bytes(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

    def run(self) -> DiskDone: ...

    def stop(self, error: VbrError) -> None: ...


class ToManager:
    """Tells the manager at which port this mover waits for its target, and who else came there."""

    def __init__(self, control: Control, task_id: str) -> None:
        self._control = control
        self._task_id = task_id

    def listening(self, port: int) -> None:
        self._control.send(Listening(self._task_id, port))

    def warn(self, text: str) -> None:
        self._control.log("warning", text)


def followed(control: Control, sending: Sending, link: TargetLink, threads: int) -> DiskDone:
    """Run it on another thread; report its progress, and listen for `Stop` and `SetRate`. Raises what it raised."""
    result: list[DiskDone | BaseException] = []
    ended = threading.Event()

    def work() -> None:
        try:
            result.append(sending.run())
        except BaseException as error:  # noqa: BLE001 - raised again below, on the main thread
            result.append(error)
        ended.set()

    def listen() -> None:
        while not isinstance(message := control.receive(), Stop):
            if isinstance(message, SetRate):
                link.allowance.set(message.rate_bytes_s)
        link.allowance.end()
        sending.stop(stopped())

    worker = threading.Thread(target=work, name="sending", daemon=True)
    worker.start()
    threading.Thread(target=listen, name="stop", daemon=True).start()
    while not ended.wait(PROGRESS_PERIOD_S):
        totals, busy = sending.meter.totals(), sending.meter.busy(threads)
        control.send(Progress(sending.done_bytes, sending.size_bytes, totals, busy))
    worker.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]
