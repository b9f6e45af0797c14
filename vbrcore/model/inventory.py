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


class SshAccess(msgspec.Struct, frozen=True):
    """How a managed server is reached. `host_key`: its pinned public key, as one line of OpenSSH's form.

    `login` says what proves who we are. A private key or a password is a sealed secret of the server with that name;
    an agent is the one that the service finds in its environment (`SSH_AUTH_SOCK`).
    """

    host: str
    user: str
    host_key: str
    port: int = 22
    login: Literal["identity", "password", "agent"] = "agent"


ServerRole = Literal["proxy", "repository", "gateway"]

LOCAL_SERVER = "local"  # the name of this machine, the server that is there from the start
# DESIGN section 7: where movers listen for data, while a task runs.
DATA_PORTS = (46200, 46299)


class Server(msgspec.Struct, frozen=True):
    """A managed server. This machine is the server named `local`, there from the start: it alone has no `ssh`.

    Others reach its data ports (`ports`, both ends included) at `address` ("": the host of `ssh`); where nobody can,
    `dials_only` is set, and its movers do the dialling.
    """

    server_id: str
    name: str
    roles: tuple[ServerRole, ...]
    proxy_slots: int
    host_budget: int
    site: str = ""
    ssh: SshAccess | None = None
    address: str = ""
    ports: tuple[int, int] = DATA_PORTS
    dials_only: bool = False

    @property
    def data_address(self) -> str:
        """Where other servers dial its movers; "": nobody said."""
        return self.address or (self.ssh.host if self.ssh is not None else "")


class Repository(msgspec.Struct, frozen=True):
    """A place for backup files: a directory of a server, or an SMB share, which has a credential and no server.

    `path` of a share is its URL, `//host/share/directory`. `gateways`: servers that may open it (empty: any that may
    be one). Inside of a session `server` names the gateway that was chosen.

    `reserve_bytes` None: 10 % of the file system, between 5 GiB and 20 % of it.

    `rate_limit_bytes_s`: what each target mover writes at most (0: no limit). `storage_class`: as it was found last.
    `site`: where it stands ("": where its server does). `proxy_affinity`: names of proxies that it prefers.
    """

    repository_id: str
    name: str
    server: str
    path: str
    slots: int
    reserve_bytes: int | None = None
    rate_limit_bytes_s: int = 0
    storage_class: str = ""
    site: str = ""
    proxy_affinity: tuple[str, ...] = ()
    credential_id: str = ""
    gateways: tuple[str, ...] = ()

    @property
    def is_share(self) -> bool:
        """Whether movers log in to it from a gateway, rather than open a directory of its server."""
        return bool(self.credential_id)


class Credential(msgspec.Struct, frozen=True):
    """A named account whose secret is sealed in the catalog and never shown."""

    credential_id: str
    name: str
    username: str
