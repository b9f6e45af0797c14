"""What is asked and answered about managed servers. JSON keys are these field names; they stay."""

from typing import Any, Literal

import msgspec

from vbrcore.model.inventory import DATA_PORTS, ServerRole
from vbrcore.model.serverfacts import Finding


class HostKeyProbe(msgspec.Struct, frozen=True):
    host: str
    port: int = 22


class HostKeyView(msgspec.Struct, frozen=True):
    """The key that a host shows: as one line of OpenSSH's form, and as `ssh-keygen -l` prints it (`SHA256:...`)."""

    host_key: str
    fingerprint: str


class ServerAdd(msgspec.Struct, frozen=True):
    """`host_key`: as it was shown and accepted. `secret`: the text of a private key or a password, as `login` says.

    `slots` and `host_budget` None: from the number of cores there.
    """

    name: str
    host: str
    user: str
    host_key: str
    port: int = 22
    login: Literal["identity", "password", "agent"] = "agent"
    secret: str = ""
    roles: tuple[ServerRole, ...] = ()
    slots: int | None = None
    host_budget: int | None = None
    site: str = ""
    address: str = ""
    ports: tuple[int, int] = DATA_PORTS
    dials_only: bool = False

    def __repr__(self) -> str:
        return f"ServerAdd({self.name!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # the base class's would show all fields
        return []


class ServerEdit(msgspec.Struct, frozen=True):
    """What is None stays as it is."""

    name: str
    roles: tuple[ServerRole, ...] | None = None
    slots: int | None = None
    host_budget: int | None = None
    site: str | None = None
    address: str | None = None
    ports: tuple[int, int] | None = None
    dials_only: bool | None = None


class ServerView(msgspec.Struct, frozen=True):
    """`state`: ok, away (`reason` says why, `next_try` when it is tried again) or unchecked. `checked`: when the rest
    was found out. `ssh`: user@host:port ("": this machine); `address`: where its data ports are dialled.

    `findings`: what is missing there, and how to mend it.
    """

    server_id: str
    name: str
    roles: tuple[str, ...]
    site: str
    proxy_slots: int
    proxy_slots_used: int
    host_budget: int
    host_budget_used: int
    ssh: str = ""
    login: str = ""
    host_key: str = ""
    address: str = ""
    ports: tuple[int, int] = DATA_PORTS
    dials_only: bool = False
    state: Literal["ok", "away", "unchecked"] = "unchecked"
    reason: str = ""
    next_try: str | None = None
    checked: str | None = None
    os: str = ""
    machine: str = ""
    python: str = ""
    bundle: str = ""
    connect_s: float | None = None
    clock_offset_s: float | None = None
    free_bytes: int | None = None
    findings: tuple[Finding, ...] = ()
