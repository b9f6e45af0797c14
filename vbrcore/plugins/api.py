"""The public plugin API, backup-server half: what a hypervisor plugin implements.

Behaviour is typed protocols; pluggy is used for registration and events only, never for block data. All values that
cross from here to a mover are plain data (`SourceSpec`, `SinkSpec`): the mover runs in another process, perhaps on
another machine. See docs/plugins.md.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

from vbrcore.model.errors import InvalidValue
from vbrcore.model.inventory import Machine, SshAccess
from vbrcore.model.serverfacts import Finding

API_VERSION = "2.0"

Capability = Literal[
    "change_tracking",  # extents since a change id
    "quiesce",  # application-consistent snapshots
    "live",  # running machines
    "configuration",  # keeps the machine's definition with the point
    "create_machine",  # whole machines can be restored
    "power_on",
]


class PluginInfo(msgspec.Struct, frozen=True):
    """What a plugin says of itself, as data. `config` is a msgspec Struct type: the schema of its settings.

    `secrets` are the settings that are sealed and never shown. `proxy_mode`: see DESIGN section 2. `mover_package`: the
    package that travels to other servers with the mover half ("": the one that holds it); `mover_wheels`: the
    distributions that it needs there beyond those that every mover has.
    """

    plugin_id: str
    api_version: str
    capabilities: frozenset[Capability]
    proxy_mode: Literal["on_host", "separate"]
    config: type[msgspec.Struct]
    secrets: tuple[str, ...] = ()
    mover_package: str = ""
    mover_wheels: tuple[str, ...] = ()


class ManagedHost(msgspec.Struct, frozen=True):
    """The managed server that a hypervisor is tied to, and how it is logged in to there (`plugins.ssh.SshHost`).

    `secrets`: what `access.login` names (`identity`: the private key's text; `password`; an agent needs none). They may
    go into a spec's `secrets`, and nowhere else.
    """

    name: str
    access: SshAccess
    secrets: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"ManagedHost({self.name!r})"


class SourceSpec(msgspec.Struct, frozen=True):
    """What a mover needs to open one source, as plain data: `reader` is a name of the plugin's mover half."""

    plugin: str
    reader: str
    settings: dict[str, str | int | bool | list[str]] = {}
    secrets: dict[str, str] = {}


class Confinement(msgspec.Struct, frozen=True):
    """Of a sink that is written for another user: where new files may be made, and whom they are given to.

    Only below `directories`, following no link there; `uid` -1: they stay the mover's.
    """

    directories: tuple[str, ...]
    uid: int = -1
    gid: int = -1


class SinkSpec(msgspec.Struct, frozen=True):
    """What a mover needs to open one sink to restore into. A writer that cannot keep to `confinement` refuses it.

    `anywhere`: a mover on any server can open it. Others are opened on the backup server, and the repository's server
    sends the disk there.
    """

    plugin: str
    writer: str
    size_bytes: int
    settings: dict[str, str | int | bool | list[str]] = {}
    secrets: dict[str, str] = {}
    confinement: Confinement | None = None
    anywhere: bool = False


class DiskSource(msgspec.Struct, frozen=True):
    """One disk of a snapshot. `change_id` becomes valid with the committed point.

    `since` is the base change id that the reader can tell changes from ("" = compare digests, and `full_reason`
    says why where tracking was expected). `source` is for `transport_mode`, `others` for the further modes by which the
    same disk can be read.
    """

    disk_id: str
    name: str
    size_bytes: int
    source: SourceSpec
    transport_mode: str
    change_id: str = ""
    since: str = ""
    full_reason: str = ""
    others: dict[str, SourceSpec] = {}

    def source_for(self, mode: str) -> SourceSpec:
        """Return what a mover opens that reads by this mode. Raises `InvalidValue` where there is no such one."""
        if mode == self.transport_mode:
            return self.source
        if mode not in self.others:
            raise InvalidValue(f"disk {self.name}: the plugin offered the transport mode {mode!r} and gives no source")
        return self.others[mode]


class BaseDisk(msgspec.Struct, frozen=True):
    """A disk in the machine's last committed point: what an increment can build on."""

    disk_id: str
    size_bytes: int
    change_id: str


class SnapshotRequest(msgspec.Struct, frozen=True):
    """`base` is empty for a machine without a committed point. `attempt` makes names unique within a session."""

    job_id: str
    session_id: str
    attempt: int
    machine: Machine
    quiesce: bool
    base: tuple[BaseDisk, ...] = ()


class SnapshotPlan(msgspec.Struct, frozen=True):
    """What `take` is about to make on the hypervisor, by name. Journaled before `take`; enough for `release`."""

    machine_id: str
    data: dict[str, str | int | bool | list[str]] = {}


class Snapshot(msgspec.Struct, frozen=True):
    """All disks of a machine at one moment. `configuration` is read by a small task of its own (None: nothing kept).

    It must be readable on the backup server; `configuration_on_host` is for a mover on the host, where one runs anyway.
    """

    disks: tuple[DiskSource, ...]
    configuration: SourceSpec | None = None
    warnings: tuple[str, ...] = ()
    configuration_on_host: SourceSpec | None = None


class RestoreDisk(msgspec.Struct, frozen=True):
    disk_id: str
    name: str
    size_bytes: int


class RestoreRequest(msgspec.Struct, frozen=True):
    """A whole machine from a point. `configuration` is what the plugin `configuration_plugin` kept with the point.

    `options`: plugin-specific choices as strings, e.g. `directory`, `new_identity` ("yes"), `trust_configuration`.
    """

    name: str
    configuration_plugin: str
    configuration: bytes
    disks: tuple[RestoreDisk, ...]
    options: dict[str, str] = {}


class RestorePlan(msgspec.Struct, frozen=True):
    """Where the disks go and what will be defined. Journaled before `create_machine`; enough for `remove_machine`."""

    machine_id: str
    sinks: dict[str, SinkSpec]  # disk_id -> sink
    data: dict[str, str | int | bool | list[str]] = {}
    left_out: tuple[str, ...] = ()  # elements of the configuration that were not taken over


class Hypervisor(Protocol):
    """A connection. Every method may raise the errors of `vbrcore.model.errors` and nothing else on purpose.

    Calls block; they are made from worker threads, one at a time per connection.
    """

    def inventory(self) -> Sequence[Machine]:
        """Return all machines with their disks (sizes in bytes), in a stable order."""

    def plan_snapshot(self, request: SnapshotRequest) -> SnapshotPlan:
        """Name what `take_snapshot` will make. Changes nothing."""

    def take_snapshot(self, request: SnapshotRequest, plan: SnapshotPlan) -> Snapshot:
        """Freeze all disks of the machine at one moment. On failure leaves nothing that `release` cannot undo."""

    def confirm_snapshot(self, plan: SnapshotPlan) -> None:
        """Called after the last byte was read and before the point is committed.

        Raises `SnapshotInvalid` if what was read is not one moment.
        """

    def release_snapshot(self, plan: SnapshotPlan, *, committed: bool) -> None:
        """End the snapshot. Idempotent, works from the plan alone in another process after a crash.

        With `committed` the older change-tracking base is given up; without it the new one is.
        """

    def plan_restore(self, request: RestoreRequest) -> RestorePlan:
        """Choose places and names. Changes nothing; raises `AlreadyExists` rather than overwrite."""

    def create_machine(self, request: RestoreRequest, plan: RestorePlan) -> str:
        """Define the machine after its disks were written; return its machine id."""

    def remove_machine(self, plan: RestorePlan) -> None:
        """Undo a restore that failed: only what the plan names. Idempotent."""

    def power_on(self, machine_id: str) -> None:
        """Start a machine."""

    def orphans(self, job_id: str, live_session_ids: frozenset[str]) -> Sequence[SnapshotPlan]:
        """Find what dead sessions of this job left on the hypervisor, in the form that `release_snapshot` takes."""

    def close(self) -> None:
        """Close the connection. Snapshots stay."""


class Plugin(Protocol):
    """The object named `PLUGIN` in the module of the entry point (group `vbrcore.plugins`)."""

    info: PluginInfo

    def check(self, settings: msgspec.Struct, *, has_host: bool) -> None:
        """Raise `InvalidValue` for settings that can never be connected to. Reaches nothing.

        `has_host`: the hypervisor is tied to a managed server other than the backup server.
        """

    def connect(self, settings: msgspec.Struct, secrets: Mapping[str, str], host: ManagedHost | None) -> Hypervisor:
        """Open a connection. `host`: the managed server that the hypervisor is tied to; None: the backup server itself.

        Raises `HypervisorUnreachable`, `InvalidValue`.
        """

    def transport_modes(self, machine: Machine, server: str, host: ManagedHost | None) -> Sequence[str]:
        """Return the modes in which a mover on `server` can read this machine, best first (empty: none)."""


@runtime_checkable
class Looks(Protocol):
    """What a plugin may have beside `Plugin`: what `server check` says of a hypervisor is then more than an error."""

    def look(self, settings: msgspec.Struct, secrets: Mapping[str, str], host: ManagedHost | None) -> Sequence[Finding]:
        """Say what keeps machines there from being backed up or restored, and what to do about it. Changes nothing.

        As `connect`, in a process of its own; may raise the same.
        """
