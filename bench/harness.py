"""What every benchmark does with its figures, free of I/O: spreads, ratios within a round, fair order, tables."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB
_UNITS: Final = {"K": 1024, "M": MIB, "G": GIB, "T": 1024 * GIB}


class Spread(msgspec.Struct, frozen=True):
    """A figure that was taken several times."""

    median: float
    minimum: float
    maximum: float


def spread(values: Sequence[float]) -> Spread:
    """Return the median and both ends of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def paired_ratio(numerators: Mapping[int, float], denominators: Mapping[int, float]) -> Spread | None:
    """Return the spread of the ratios taken within each round (keys), or None where no round has both.

    What slows a whole round down slows both sides, so these ratios hold where the times themselves wander.
    """
    ratios = [value / denominators[n] for n, value in numerators.items() if denominators.get(n)]
    return spread(ratios) if ratios else None


def rotated(items: Sequence[T], turn: int) -> list[T]:
    """Return `items` beginning with another one each turn, so that none has always the same predecessor's leftovers."""
    start = turn % len(items) if items else 0
    return [*items[start:], *items[:start]]


def parse_size(text: str) -> int:
    """Return the bytes of "4G", "512M" or a plain number. Raises ValueError."""
    unit = text[-1:].upper()
    size_bytes = float(text[:-1]) * _UNITS[unit] if unit in _UNITS else float(text)
    if size_bytes < 1:
        raise ValueError(f"not a size: {text}")
    return int(size_bytes)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns under a header: the first to the left, the others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def span(value: Spread | None, digits: int = 1) -> str:
    """Return "median (min..max)", or "-" where nothing was measured."""
    if value is None:
        return "-"
    if value.minimum == value.maximum:
        return f"{value.median:.{digits}f}"
    return f"{value.median:.{digits}f} ({value.minimum:.{digits}f}..{value.maximum:.{digits}f})"
