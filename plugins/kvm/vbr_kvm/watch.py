"""Watches scratch space while a backup job runs, and ends the job before the guest could stall.

It lives in the job manager, because it must act just when movers do nothing: a slow target is what fills the scratch
space. It has a libvirt connection of its own. If the manager dies the movers die with it, and the clean-up ends the
job.
"""

import threading
from pathlib import Path

from vbr_kvm import backup
from vbr_kvm.connection import find_domain, open_connection
from vbr_kvm.places import free_bytes, write_ended
from vbrcore.model.errors import VbrError

INTERVAL_S = 0.5


class ScratchWatch:
    """One running backup. `reason` is why it was ended ("": it was not)."""

    def __init__(self, uri: str, machine_id: str, socket: Path, scratch: Path, reserve: int) -> None:
        self.reason = ""
        self._uri = uri
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
            free = free_bytes(self._scratch)
            if free < self._reserve:
                self.reason = f"{self._scratch}: {free} bytes free, {self._reserve} must stay free during a backup"
                self._end()
                return

    def _end(self) -> None:
        write_ended(self._socket.parent, self.reason)
        connection = open_connection(self._uri)
        try:
            backup.abort(find_domain(connection, self._machine_id), self._socket)
        except VbrError as error:
            self.reason = f"{self.reason} ({error})"
        finally:
            connection.close()
