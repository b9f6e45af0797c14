"""What a mover's threads have done and how long each stage kept them busy."""

import time

from vbrcore.model.session import Totals

STAGES = ("source", "compress", "network", "target")


class Counters:
    """Of one thread, which alone changes them. Times are seconds."""

    def __init__(self) -> None:
        self.read_bytes = 0
        self.transferred_bytes = 0
        self.audit_bytes = 0
        self.source_s = 0.0
        self.compress_s = 0.0
        self.network_s = 0.0
        self.target_s = 0.0


class Meter:
    """Sums over all threads; `busy` is the share of time since it was last asked."""

    def __init__(self) -> None:
        self._all: list[Counters] = []
        self._asked = time.monotonic()
        self._busy_s = dict.fromkeys(STAGES, 0.0)

    def counters(self) -> Counters:
        """Return new counters for the calling thread."""
        counters = Counters()
        self._all.append(counters)
        return counters

    def totals(self) -> Totals:
        counters = tuple(self._all)
        return Totals(
            read_bytes=sum(c.read_bytes for c in counters),
            transferred_bytes=sum(c.transferred_bytes for c in counters),
            audit_bytes=sum(c.audit_bytes for c in counters),
        )

    def busy(self, threads: int) -> dict[str, float]:
        now = time.monotonic()
        span_s = max(1e-6, now - self._asked) * threads
        self._asked = now
        before, self._busy_s = self._busy_s, {s: sum(getattr(c, f"{s}_s") for c in tuple(self._all)) for s in STAGES}
        return {stage: min(1.0, (self._busy_s[stage] - before[stage]) / span_s) for stage in STAGES}
