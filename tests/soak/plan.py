"""What a round does, drawn from a seed: which sessions run, and who is hit when."""

import random
from typing import Final, Literal

import msgspec

Service = Literal["resident", "on-demand"]
Blow = Literal["kill", "pause", "hang"]
Shape = Literal["", "active", "synthetic", "compact"]
Moment = Literal["any", "birth", "life", "phase", "write"]

# A client that is killed hurts nobody; it is hit now and then to see that.
ROLES: Final = ("job-manager", "transport", "source", "target", "restore", "service", "qemu", "command")
_ROLE_WEIGHTS: Final = (12, 16, 22, 18, 12, 12, 6, 2)
_SHAPES: Final[tuple[Shape, ...]] = ("", "active", "synthetic", "compact")
# Parts of the lines that managers and movers write to a session's log, in the order of a backup.
PHASES: Final = (
    " begins ",
    "chain is open",
    "in the inventory",
    "snapshot of",
    "transferred",
    "committed",
    "snapshot released",
    " goes: ",
    "retention: ",
    "synthetic full: ",
    "given back: ",
    "sealed",
    "success: read",
)
_BESIDE: Final = (
    ("restore", 0.35),
    ("verify", 0.15),
    ("delete", 0.25),
    ("retention", 0.15),
    ("machine", 0.12),
    ("job", 0.2),
)
_TYPICAL_S: Final = 1.2  # a round's sessions
_BIRTH_S: Final = 0.03
_WRITE_S: Final = 0.3  # from the first extent to the first point


class Hit(msgspec.Struct, frozen=True):
    """`role` is who is wanted; where no such process lives, any other takes its place.

    `any`: `delay_s` after the round began. `birth` and `life`: after the role's process was seen first. `phase`: after
    a line with `phase` was logged. `write`: after a backup file was begun. `pause_s`: how long a stopped process stays
    stopped.
    """

    blow: Blow
    role: str
    moment: Moment
    delay_s: float
    phase: str = ""
    pause_s: float = 0.0


class Plan(msgspec.Struct, frozen=True):
    """`shape`: what the job's session does to its chain besides. `detached`: nobody waits for it. `beside` are the
    operations that run beside it, each with its delay.
    """

    service: Service
    job: str
    shape: Shape
    detached: bool
    changed_again: bool
    beside: tuple[tuple[str, float], ...]
    hits: tuple[Hit, ...]


def draw(seed: str, *, hangs: bool) -> Plan:
    """Draw a round; the same for the same seed. `hangs`: with processes stopped for longer than others wait."""
    rng = random.Random(seed)  # noqa: S311 - to be drawn again, not to be secret
    beside = []
    for operation, share in _BESIDE:
        if rng.random() < share:
            beside.append((operation, rng.uniform(0.0, 0.6)))
    hits = [_hit(rng, hangs=hangs)]
    if rng.random() < 0.12:
        hits.append(_hit(rng, hangs=False))
    return Plan(
        service=rng.choice(("resident", "on-demand")),
        job="nightly" if rng.random() < 0.8 else "hourly",
        shape=(shape := rng.choices(_SHAPES, (70, 10, 12, 8))[0]),
        detached=not shape and rng.random() < 0.2,
        changed_again=rng.random() < 0.5,
        beside=tuple(beside),
        hits=tuple(hits),
    )


def _hit(rng: random.Random, *, hangs: bool) -> Hit:
    role = rng.choices(ROLES, _ROLE_WEIGHTS)[0]
    moment: Moment = rng.choices(("any", "birth", "life", "phase", "write"), (25, 12, 20, 25, 18))[0]
    delay_s = {
        "any": rng.uniform(0.0, _TYPICAL_S),
        "birth": rng.uniform(0.0, _BIRTH_S),
        "life": rng.uniform(0.0, _TYPICAL_S / 2),
        "phase": rng.choice((0.0, rng.uniform(0.0, _BIRTH_S))),
        "write": rng.uniform(0.0, _WRITE_S),
    }[moment]
    blow: Blow = rng.choices(("kill", "pause", "hang"), (88, 10, 2 if hangs else 0))[0]
    pause_s = {"kill": 0.0, "pause": rng.uniform(0.05, 2.5), "hang": rng.uniform(20.0, 80.0)}[blow]
    return Hit(blow, role, moment, delay_s, rng.choice(PHASES) if moment == "phase" else "", pause_s)
