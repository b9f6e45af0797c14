"""Threads that write parts of a disk where only the next part can be written: each waits for its turn."""

import threading

from vbrcore.model.errors import SinkWriteFailed


class Turns:
    """`position`: up to where the disk is written. After `fail` everybody who waits gets `SinkWriteFailed`."""

    def __init__(self) -> None:
        self.position = 0
        self._failed = False
        self._turn = threading.Condition()

    def wait_for(self, offset: int) -> None:
        """Return when all before `offset` is written."""
        with self._turn:
            self._turn.wait_for(lambda: self.position == offset or self._failed)
            if self._failed:
                raise SinkWriteFailed("the stream was ended by an error")

    def advance(self, length: int) -> None:
        with self._turn:
            self.position += length
            self._turn.notify_all()

    def fail(self) -> None:
        with self._turn:
            self._failed = True
            self._turn.notify_all()
