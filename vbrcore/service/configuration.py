"""`service.toml` in the home directory: what only the administrator of the machine may decide. All of it is optional.

[access]
users = [1000]                      # user ids that may use the service, besides its own and root

[restore]
directories = ["/srv/restore"]      # where other users than the service's own may have files restored to
"""

from pathlib import Path

import msgspec

from vbrcore.model.errors import InvalidValue


class Access(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    users: frozenset[int] = frozenset()


class Restore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    directories: tuple[str, ...] = ()


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    access: Access = Access()
    restore: Restore = Restore()


def read_configuration(path: Path) -> Configuration:
    """Return what the file says, the defaults without one. Raises `InvalidValue` naming the file and the key."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Configuration()
    try:
        found = msgspec.toml.decode(data, type=Configuration)
    except msgspec.DecodeError as error:
        raise InvalidValue(f"{path}: {error}") from error
    for directory in found.restore.directories:
        if not Path(directory).is_absolute():
            raise InvalidValue(f"{path}: restore directory {directory} is not absolute")
    return found
