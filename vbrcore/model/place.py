"""Where a repository lies, as what opens it needs to know: a directory of a server, or a share with its secret."""

import re
from typing import Any, Final

import msgspec

from vbrcore.model.errors import InvalidValue

SMB_PORT: Final = 445
PASSWORD: Final = "password"  # noqa: S105 - the name of a secret, not one
_URL: Final = re.compile(r"//(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?/(?P<rest>[^/].*)")
_NOT_IN_NAMES: Final = frozenset('\\:*?"<>|') | frozenset(map(chr, range(32)))
_MOST_URL_CHARACTERS: Final = 1000
_LAST_PORT: Final = 65535


class Share(msgspec.Struct, frozen=True):
    """A directory of an SMB share: `directory` is '/'-joined and relative ("": the share's own)."""

    host: str
    share: str
    directory: str = ""
    port: int = SMB_PORT

    def __str__(self) -> str:
        port = "" if self.port == SMB_PORT else f":{self.port}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return "/".join(part for part in (f"//{host}{port}/{self.share}", self.directory) if part)


class Place(msgspec.Struct, frozen=True):
    """A directory (`path`) of the machine that opens it, or a share, with who logs in there and its password.

    `secrets` go only to the mover that opens the share, on its control stream; the whole place is shown without them.
    """

    path: str = ""
    share: Share | None = None
    username: str = ""
    secrets: dict[str, str] = {}

    def __str__(self) -> str:
        return self.path if self.share is None else str(self.share)

    def __repr__(self) -> str:
        return f"Place({self})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # the base class's would show all fields
        return [("place", str(self))]


def share_of(url: str) -> Share:
    """Read `//host[:port]/share[/directory]`. Raises `InvalidValue`."""
    found = _URL.fullmatch(url.rstrip("/"))
    if found is None or len(url) > _MOST_URL_CHARACTERS:
        raise InvalidValue(f"{url!r} is no share: it should be //host/share or //host/share/directory")
    port = int(found["port"] or SMB_PORT)
    if not 1 <= port <= _LAST_PORT:
        raise InvalidValue(f"{url!r}: there is no port {port}")
    names = found["rest"].split("/")
    for name in names:
        if name in {"", ".", ".."} or _NOT_IN_NAMES & set(name) or name[-1] in ". ":
            raise InvalidValue(f"{url!r}: {name!r} is no name on a share")
    return Share(found["host"].strip("[]"), names[0], "/".join(names[1:]), port)
