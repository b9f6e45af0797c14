"""Names in a storage: relative, '/'-joined, never leading out of the root."""

from vbrcore.model.errors import InvalidValue

_MAX_NAME_BYTES = 1000


def check_name(name: str) -> str:
    """Return `name` (a prefix may end in '/'). Raises `InvalidValue` for one that could lead anywhere else."""
    parts = name.removesuffix("/").split("/")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts) or len(name.encode()) > _MAX_NAME_BYTES:
        raise InvalidValue(f"not a name in a storage: {name!r}")
    return name
