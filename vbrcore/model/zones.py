"""Time zones by their IANA names."""

from typing import TYPE_CHECKING

from vbrcore.model.errors import InvalidValue

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo


def zone_named(name: str) -> "ZoneInfo":
    """Return a time zone. Raises `InvalidValue` where there is none of that name."""
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - takes longer to import than a mover has, which counts no days

    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise InvalidValue(f"there is no time zone {name!r}") from error
