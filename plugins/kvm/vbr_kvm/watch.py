"""Watches scratch space while a backup job runs, and ends the job before the guest could stall.

It lives in the job manager, because it must act just when movers do nothing: a slow target is what fills the scratch
space. It has a libvirt connection of its own. If the manager dies the movers die with it, and the clean-up ends the
job.
"""

import contextlib
import threading
from pathlib import Path

from vbr_kvm import backup
from vbr_kvm.connection import find_domain
from vbr_kvm.host import KvmHost
from vbr_kvm.places import check_scratch
from vbrcore.model.errors import ScratchFull, VbrError

INTERVAL_S = 0.5


class ScratchWatch:
    """One running backup. Why it was ended is noted beside the socket, for readers and for the confirmation."""

    def __init__(self, host: KvmHost, machine_id: str, socket: Path, scratch: Path, reserve: int) -> None:
        self._host = host
        self._machine_id = machine_id
        self._socket = socket
        self._scratch = scratch
        self._reserve = reserve
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"scratch {machine_id}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            reason = self._shortage()
            if reason:
                self._end(reason)
                return

    def _shortage(self) -> str:
        try:
            check_scratch(self._scratch, self._host.space(self._scratch)[1], self._reserve)
        except ScratchFull as error:
            return str(error)
        except (OSError, VbrError) as error:
            return f"{self._scratch} cannot be watched: {error}"
        return ""

    def _end(self, reason: str) -> None:
        """End the job. What fails here is met again by the release, which ends the job too."""
        with contextlib.suppress(VbrError, OSError):
            self._host.write_ended(self._socket.parent, reason)
            with contextlib.closing(self._host.open_libvirt()) as connection:
                backup.abort(find_domain(connection, self._machine_id), self._socket)
