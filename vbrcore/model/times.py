"""How long processes wait for each other (DESIGN section 4). All times are seconds.

A holder must be gone before its lease is given away: silence of 30 s ends it, a lease lasts 60 s.
"""

import msgspec

HEARTBEAT_S = 5.0
SILENCE_S = 30.0
LEASE_S = 60.0
LEASE_RENEWAL_S = 10.0


class Timing(msgspec.Struct, frozen=True):
    """How often a process says that it lives, and after which silence of its peer it acts."""

    heartbeat_s: float = HEARTBEAT_S
    silence_s: float = SILENCE_S

    def argument(self) -> str:
        """Return the form that stands on a command line; `timing_from` reads it."""
        return f"{self.heartbeat_s:g},{self.silence_s:g}"


def timing_from(argument: str) -> Timing:
    """Read "heartbeat,silence" (empty: the normal ones). Raises ValueError."""
    if not argument:
        return Timing()
    heartbeat_s, silence_s = map(float, argument.split(","))
    return Timing(heartbeat_s, silence_s)
