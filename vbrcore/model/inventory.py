"""What there is: hypervisors and their machines, managed servers, repositories."""

from typing import Literal

import msgspec


class Disk(msgspec.Struct, frozen=True):
    """A virtual disk. `disk_id` is stable for this disk of its machine; `skipped` is the reason it is not read."""

    disk_id: str
    name: str
    size_bytes: int
    datastore: str = ""
    skipped: str = ""


class Machine(msgspec.Struct, frozen=True):
    """A virtual machine. `machine_id` is the hypervisor's own stable id; names may change."""

    machine_id: str
    name: str
    disks: tuple[Disk, ...] = ()
    host: str = ""
    state: Literal["running", "off", "unknown"] = "unknown"


class Hypervisor(msgspec.Struct, frozen=True):
    """A connection in the inventory. `settings` follow the plugin's schema; `secrets` name sealed values."""

    hypervisor_id: str
    name: str
    plugin: str
    settings: dict[str, str]
    secret_names: tuple[str, ...] = ()
    server: str = ""


class Server(msgspec.Struct, frozen=True):
    """A managed server. This machine is the server named `local`, there from the start."""

    server_id: str
    name: str
    roles: tuple[Literal["proxy", "repository", "gateway"], ...]
    proxy_slots: int
    host_budget: int
    site: str = ""


class Repository(msgspec.Struct, frozen=True):
    """A place for backup files. `reserve_bytes` None: 10 % of the file system, between 5 GiB and 20 % of it.

    `rate_limit_bytes_s`: what each target mover writes at most (0: no limit). `storage_class`: as it was found last.
    """

    repository_id: str
    name: str
    server: str
    path: str
    slots: int
    reserve_bytes: int | None = None
    rate_limit_bytes_s: int = 0
    storage_class: str = ""


class Credential(msgspec.Struct, frozen=True):
    """A named account whose secret is sealed in the catalog and never shown."""

    credential_id: str
    name: str
    username: str
