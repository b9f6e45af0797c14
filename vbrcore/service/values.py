"""Forms of values in requests and views."""

from datetime import UTC, datetime

from vbrcore.model.errors import InvalidValue

_LONGEST_NAME = 64


def check_name(name: str) -> str:
    """Return a name that may be given to something. Raises `InvalidValue`."""
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise InvalidValue(f"a name has 1 to {_LONGEST_NAME} characters: {name[:_LONGEST_NAME]!r}")
    if not name.isprintable() or "/" in name or name != name.strip() or name[0] in "-.":
        raise InvalidValue(f"a name has no '/', no control characters and does not begin with '-' or '.': {name!r}")
    return name


def moment(time_s: float | None) -> str | None:
    """Return seconds since the epoch as ISO 8601 in UTC, to the second where it is whole."""
    return None if time_s is None else datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")
