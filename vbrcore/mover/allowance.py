"""How fast one source may send, which can change while it does."""

import threading
import time


class Allowance:
    """Lets bytes through at a rate, whoever sends them; what was not used is not saved up. None: no limit; 0: nothing.

    Safe for several threads.
    """

    def __init__(self, bytes_s: int | None) -> None:
        self._changed = threading.Condition()
        self._bytes_s = bytes_s
        self._balance = 0.0  # bytes that may still go; below 0 it is what went ahead
        self._counted = time.monotonic()
        self._ended = False

    def set(self, bytes_s: int | None) -> None:
        """Change the rate from now on."""
        with self._changed:
            self._count()
            self._bytes_s = bytes_s
            self._changed.notify_all()

    def end(self) -> None:
        """Let everything through: nothing is sent any more, and who waits has to learn why."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __call__(self, count: int) -> None:
        """Return when `count` bytes may be sent."""
        with self._changed:
            while self._bytes_s is not None and not self._ended:
                self._count()
                if self._bytes_s and self._balance >= 0:
                    self._balance -= count
                    return
                self._changed.wait(-self._balance / self._bytes_s if self._bytes_s else None)

    def _count(self) -> None:
        now = time.monotonic()
        self._balance = min(0.0, self._balance + (self._bytes_s or 0) * (now - self._counted))
        self._counted = now
