"""What commands print: JSON for programs, tables and plain words for people."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024


def print_json(value: Any, *, to_stderr: bool = False) -> None:
    """Print typed values or plain data as one line of JSON."""
    import msgspec  # noqa: PLC0415 - see vbrcore.cli.api

    print(msgspec.json.encode(value).decode(), file=sys.stderr if to_stderr else sys.stdout, flush=True)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns as wide as their widest cell. Without rows nothing is printed, not even the headers."""
    if not rows:
        return
    cells = [list(headers), *([clean(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(headers))]
    fit = "  ".join(f"{{:<{width}}}" for width in widths).format  # a hundred thousand cells are printed in no time
    print("\n".join(fit(*line).rstrip() for line in cells))


def print_fields(fields: dict[str, str]) -> None:
    """Print one thing, a field a line; empty fields are left out."""
    shown = {name: clean(value) for name, value in fields.items() if value}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        print(f"{name.ljust(width)}  {value}")


def say(text: str) -> None:
    """Print a line for people on the error output, where progress and warnings go."""
    print(clean(text), file=sys.stderr, flush=True)


def clean(text: str) -> str:
    """Replace what could steer a terminal: names come from guests and hypervisors."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def size(count_bytes: float) -> str:
    """1536 -> "1.5 KiB"."""
    value = float(count_bytes)
    for unit in _UNITS[:-1]:
        if abs(value) < _STEP:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= _STEP
    return f"{value:.1f} {_UNITS[-1]}"


def duration(length_s: float) -> str:
    """0.4 -> "0.4 s", 75 -> "1 min 15 s", 3700 -> "1 h 1 min"."""
    seconds = round(length_s)
    if length_s < 10:
        return f"{length_s:.1f} s"
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def moment(iso: str | None) -> str:
    """An ISO 8601 time as local time, to the second; "-" for none."""
    if not iso:
        return "-"
    from datetime import datetime  # noqa: PLC0415 - tables alone do without it

    return datetime.fromisoformat(iso).astimezone().replace(tzinfo=None).isoformat(" ", "seconds")
