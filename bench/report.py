"""From samples to what is said of them: spreads, ratios to ours, the aims, a table."""

from collections.abc import Sequence
from typing import Final

import msgspec

from bench.contestants import PHASES, Phase, Sample, Setting
from bench.harness import MIB, Spread, paired_ratio, span, spread, table

OURS: Final = "vbrcore"
LIMIT: Final = "limit"
PLAIN_READ: Final = "plain read"


class Line(msgspec.Struct, frozen=True):
    """One phase of one contestant over all rounds.

    `ratio` is its time / ours in the same round (above 1: ours is faster); `stored_bytes` the total after the phase,
    0 where nothing is stored.
    """

    contestant: str
    setting: Setting
    phase: Phase
    rounds: int
    wall_s: Spread
    durable_s: Spread
    cpu_s: Spread
    peak_memory_bytes: Spread
    stored_bytes: int
    ratio: Spread | None
    durable_ratio: Spread | None


class Aim(msgspec.Struct, frozen=True):
    """What is aimed at and what was reached; `met` is None where it could not be measured."""

    aim: str
    wanted: float
    reached: Spread | None
    met: bool | None


def summarise(samples: Sequence[Sample], ours: str = OURS) -> list[Line]:
    """Return a line per contestant, setting and phase, in the order of the phases."""
    groups: dict[tuple[Phase, str, Setting], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.phase, sample.contestant, sample.setting), []).append(sample)
    base = {phase: groups.get((phase, ours, "default"), []) for phase in PHASES}
    lines = [_line(group, base[phase]) for (phase, _, _), group in groups.items()]
    return sorted(lines, key=lambda line: PHASES.index(line.phase))


def aims(lines: Sequence[Line]) -> list[Aim]:
    """Compare the ratios with what the product aims at."""
    found = {(line.phase, line.contestant, line.setting): line for line in lines}
    peers = [line for line in lines if line.contestant not in (OURS, LIMIT) and line.setting != "limit"]
    ours = found.get(("full", OURS, "default"))
    nearest = [line for line in peers if line.phase == "full" and line.setting == "nearest"]
    fastest = min(nearest, key=lambda line: line.wall_s.median, default=None)
    defaults = [line for line in peers if line.phase == "full" and line.setting == "default"]
    slow_default = min(defaults, key=lambda line: line.wall_s.median, default=None)
    restores = [line for line in peers if line.phase == "restore"]
    fast_restore = min(restores, key=lambda line: line.wall_s.median, default=None)
    return [
        _aim("full / fastest peer at the nearest setting", 1.5, fastest),
        _aim("full / fastest peer at its default", 2.0, slow_default),
        _aim_size("full: stored bytes of that peer / ours", fastest, ours),
        _aim("full / limit (zstd of the unique blocks)", 0.85, found.get(("full", LIMIT, "limit"))),
        _aim("unchanged without tracking / limit (read + hash)", 0.8, found.get(("unchanged", LIMIT, "limit"))),
        _aim("restore / fastest peer", 2.0, fast_restore),
        _aim("restore / limit (decompress + write)", 0.8, found.get(("restore", LIMIT, "limit"))),
    ]


def lines_table(lines: Sequence[Line]) -> str:
    """Return the figures as text: a row per contestant and phase, with its ratio to ours."""
    header = (
        "phase, contestant",
        "setting",
        "s",
        "s durable",
        "x ours",
        "x ours durable",
        "CPU s",
        "peak MiB",
        "stored MiB",
    )
    rows = [
        (
            f"{line.phase}: {line.contestant}",
            line.setting,
            span(line.wall_s, 2),
            span(line.durable_s, 2),
            span(line.ratio, 2),
            span(line.durable_ratio, 2),
            f"{line.cpu_s.median:.2f}",
            f"{line.peak_memory_bytes.maximum / MIB:.0f}",
            f"{line.stored_bytes / MIB:.1f}" if line.stored_bytes else "-",
        )
        for line in lines
    ]
    return table(header, rows)


def aims_table(reached: Sequence[Aim]) -> str:
    """Return the aims as text."""
    words = {True: "met", False: "MISSED", None: "not measured"}
    rows = [(aim.aim, f"{aim.wanted:.2f}", span(aim.reached, 3), words[aim.met]) for aim in reached]
    return table(("aim: time of the other / ours", "wanted", "reached", ""), rows)


def _line(group: Sequence[Sample], base: Sequence[Sample]) -> Line:
    first = group[0]
    return Line(
        contestant=first.contestant,
        setting=first.setting,
        phase=first.phase,
        rounds=len(group),
        wall_s=spread([sample.usage.wall_s for sample in group]),
        durable_s=spread([sample.usage.durable_s for sample in group]),
        cpu_s=spread([sample.usage.cpu_s for sample in group]),
        peak_memory_bytes=spread([sample.usage.peak_memory_bytes for sample in group]),
        stored_bytes=max(sample.stored_bytes for sample in group),
        ratio=paired_ratio(
            {sample.round: sample.usage.wall_s for sample in group},
            {sample.round: sample.usage.wall_s for sample in base},
        ),
        durable_ratio=paired_ratio(
            {sample.round: sample.usage.durable_s for sample in group},
            {sample.round: sample.usage.durable_s for sample in base},
        ),
    )


def _aim(words: str, wanted: float, other: Line | None) -> Aim:
    reached = other.ratio if other is not None else None
    name = f"{words}: {other.contestant}" if other is not None and other.contestant != LIMIT else words
    return Aim(name, wanted, reached, None if reached is None else reached.median >= wanted)


def _aim_size(words: str, other: Line | None, ours: Line | None) -> Aim:
    if other is None or ours is None or not ours.stored_bytes:
        return Aim(words, 1.0, None, None)
    ratio = other.stored_bytes / ours.stored_bytes
    return Aim(f"{words}: {other.contestant}", 1.0, Spread(ratio, ratio, ratio), ratio >= 1.0)
