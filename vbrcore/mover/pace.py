"""How fast a target mover may write."""

import threading
import time


class Pace:
    """Lets bytes through at a rate; callable from several threads, which then share it. 0: as fast as they come."""

    def __init__(self, bytes_s: int) -> None:
        self._bytes_s = bytes_s
        self._lock = threading.Lock()
        self._free = 0.0  # when, on the monotonic clock, what was let through so far is paid for

    def __call__(self, count: int) -> None:
        """Return when `count` bytes may be written."""
        if not self._bytes_s:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._free)
            self._free = begin + count / self._bytes_s
        if begin > now:
            time.sleep(begin - now)
