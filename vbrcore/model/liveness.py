"""Whether a peer may still be taken for alive: a silence that was too long once can never be undone."""

import time


class Liveness:
    """When the peer was last heard, by the monotonic clock.

    A process that was stopped and continued finds old heartbeats in its pipe. They must not revive it, so `heard`
    checks the silence before it ends it. Calls from several threads are safe.
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._heard = time.monotonic()
        self._ended = False

    def heard(self) -> None:
        """Note that something arrived just now. Without effect once the peer was cut off."""
        now = time.monotonic()
        if now - self._heard > self._silence_s:
            self._ended = True
        self._heard = now

    def end(self) -> None:
        """Note that the stream of the peer is at its end."""
        self._ended = True

    @property
    def cut_off(self) -> bool:
        return self._ended or time.monotonic() - self._heard > self._silence_s
