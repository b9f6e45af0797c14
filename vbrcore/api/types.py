"""What the service is asked and what it answers, as typed values. JSON keys are these field names; they stay."""

from typing import Any, Literal

import msgspec

from vbrcore.model.errors import ErrorInfo
from vbrcore.model.inventory import LOCAL_SERVER
from vbrcore.model.job import Compression, Fulls, HealthSchedule, Priority, Schedule, Window
from vbrcore.model.retention import Retention
from vbrcore.model.session import Result, SessionKind, SessionState, Totals


class Nothing(msgspec.Struct, frozen=True):
    """No fields."""


class ByName(msgspec.Struct, frozen=True):
    """A name or an id."""

    name: str


# --- inventory --------------------------------------------------------------------------------------


class HypervisorAdd(msgspec.Struct, frozen=True):
    """`secrets`: settings that the plugin seals. Paths are absolute (the client makes them so).

    `server`: the managed server that is its host, where movers are to run on it.
    """

    name: str
    plugin: str
    settings: dict[str, str] = {}
    secrets: dict[str, str] = {}
    server: str = LOCAL_SERVER


class HypervisorView(msgspec.Struct, frozen=True):
    """`server`: the managed server that is its host."""

    hypervisor_id: str
    name: str
    plugin: str
    settings: dict[str, str]
    server: str = LOCAL_SERVER


class KeyFiles(msgspec.Struct, frozen=True):
    """The contents of a file with a passphrase, of a key file, or of both: what an encrypted repository opens with."""

    passphrase: bytes | None = None
    key_file: bytes | None = None

    def __repr__(self) -> str:
        return "***"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # the base class's would show all fields
        return []


class RepositoryAdd(msgspec.Struct, frozen=True):
    """A directory (`path`) of a server, or an SMB share (`smb`: //host/share/directory) that `credential` opens.

    `gateways`: names of the servers that may open a share (empty: the one that serves it best). `site`: where it stands
    ("": where its server does).
    """

    name: str
    path: str = ""
    slots: int | None = None
    reserve_bytes: int | None = None
    key: KeyFiles | None = None
    rate_limit_bytes_s: int = 0
    proxy_affinity: tuple[str, ...] = ()
    server: str = "local"
    smb: str = ""
    credential: str = ""
    gateways: tuple[str, ...] = ()
    site: str = ""


class RepositoryPassphrase(msgspec.Struct, frozen=True):
    name: str
    key: KeyFiles


class RepositoryView(msgspec.Struct, frozen=True, rename={"storage_class": "class"}):
    """`state`: ok, not_mounted, away, read_only, below_reserve; `reason` says more.

    `class`: how space comes back: clone, punch or copy ("": not found out yet). `live_bytes`: what kept points need, as
    far as it was looked for; what was not counts whole. `rate_limit_bytes_s` 0: no limit.

    `kind`: directory, or smb: then `path` is the share, `credential` names who opens it, `gateways` the servers that
    may (empty: the one that serves it best), and `server` the one through which the service sees it ("": none yet).
    `proxy_affinity`: servers that come first among equals to read disks for it.
    """

    repository_id: str
    name: str
    server: str
    path: str
    slots: int
    slots_used: int
    state: str
    reason: str
    size_bytes: int
    free_bytes: int
    reserve_bytes: int
    stored_bytes: int
    live_bytes: int
    files: int
    encrypted: bool = False
    storage_class: str = ""
    rate_limit_bytes_s: int = 0
    proxy_affinity: tuple[str, ...] = ()
    kind: str = "directory"
    site: str = ""
    credential: str = ""
    gateways: tuple[str, ...] = ()


class RepositoryImport(msgspec.Struct, frozen=True):
    """Take a directory that holds backup files into the inventory. `key`: what its encrypted chains open with."""

    name: str
    path: str
    slots: int | None = None
    reserve_bytes: int | None = None
    key: KeyFiles | None = None


class RepositoryRescan(msgspec.Struct, frozen=True):
    """`key`: for a repository that was imported without."""

    name: str
    key: KeyFiles | None = None


class DamagedPoint(msgspec.Struct, frozen=True):
    point_id: str
    machine: str
    reason: str


class ChainView(msgspec.Struct, frozen=True):
    """What the files of one chain say. `missing_files` are ids; `sealed`: encrypted, and its names are not known."""

    directory: str
    job: str
    job_id: str
    machines: tuple[str, ...]
    points: int
    whole_points: int
    missing_files: tuple[str, ...]
    unreadable_files: tuple[str, ...]
    damaged_points: tuple[DamagedPoint, ...]
    encrypted: bool
    sealed: bool
    warnings: tuple[str, ...]


class ImportView(msgspec.Struct, frozen=True):
    name: str
    repository_id: str
    path: str
    chains: tuple[ChainView, ...]


class RescanView(msgspec.Struct, frozen=True):
    """`added`, `removed` and `moved` are ids of points; `skipped` chains are being written just now."""

    name: str
    repository_id: str
    chains: tuple[ChainView, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved: tuple[str, ...]
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]


class Remove(msgspec.Struct, frozen=True):
    """`confirm` is the name typed again; needed with `with_backups`, which deletes backup files."""

    name: str
    with_backups: bool = False
    confirm: str = ""


class CredentialAdd(msgspec.Struct, frozen=True):
    name: str
    username: str
    password: str


class CredentialView(msgspec.Struct, frozen=True):
    credential_id: str
    name: str
    username: str


class PluginView(msgspec.Struct, frozen=True):
    id: str
    distribution: str
    version: str
    api: str
    state: Literal["ok", "incompatible", "broken"]
    reason: str
    capabilities: tuple[str, ...]
    proxy_mode: str


class MachineView(msgspec.Struct, frozen=True):
    machine_id: str
    name: str
    state: str
    disks: tuple["DiskView", ...]


class DiskView(msgspec.Struct, frozen=True):
    name: str
    size_bytes: int
    skipped: str = ""


# --- jobs -------------------------------------------------------------------------------------------


class JobCreate(msgspec.Struct, frozen=True):
    """`from_repository`: a backup copy, of points there; `hypervisor` is then empty. `map_chain`: the directory of a
    chain in its repository that the job goes on with.
    """

    name: str
    hypervisor: str
    repository: str
    machines: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    block_size_bytes: int = 1024 * 1024
    compression: Compression = "fast"
    quiesce: bool = False
    retention: Retention = Retention()
    per_machine: bool = False
    fulls: Fulls = Fulls()
    from_repository: str = ""
    map_chain: str = ""
    priority: Priority = "regular"
    proxies: tuple[str, ...] = ()
    wait_for_best: bool = False


class JobFull(msgspec.Struct, frozen=True):
    """`active`: all disks are read again, and the new full refers to nothing older.

    `synthetic`: the session's points are made a full of what is stored.
    """

    name: str
    kind: Literal["active", "synthetic"] = "active"


class JobFulls(msgspec.Struct, frozen=True):
    """On which days the job begins a generation from now on."""

    name: str
    fulls: Fulls


class JobUpkeep(msgspec.Struct, frozen=True):
    """When the job's chains are given back and made fulls of from now on."""

    name: str
    window: Window


class JobCompact(msgspec.Struct, frozen=True):
    """`rewrite`: all of it, copied in the order of the disks."""

    name: str
    rewrite: bool = False


class JobRetention(msgspec.Struct, frozen=True):
    """What the job keeps from now on."""

    name: str
    retention: Retention


class RetentionApply(msgspec.Struct, frozen=True):
    """`trust_clock`: an administrator confirms that the clock is right."""

    name: str
    trust_clock: bool = False


class ReasonView(msgspec.Struct, frozen=True):
    """Why a point stays or goes; `until` (ISO 8601, UTC) and `after_points`: this reason ends then at the earliest."""

    code: str
    text: str
    until: str | None
    after_points: int | None


class VerdictView(msgspec.Struct, frozen=True):
    """What the policy says of a point now; a point that stays goes when all its reasons have ended."""

    point_id: str
    machine: str
    created: str
    keep: bool
    reasons: tuple[ReasonView, ...]


class JobSchedule(msgspec.Struct, frozen=True):
    """`schedule.after` is a name or an id; in views it is the name. Without a `priority` it stays as it is."""

    name: str
    schedule: Schedule
    priority: Priority | None = None


class SchedulePreview(msgspec.Struct, frozen=True):
    name: str
    count: int = 10


class ScheduledMoment(msgspec.Struct, frozen=True):
    """ISO 8601: in UTC, and as the clock in the schedule's zone shows it."""

    at: str
    local: str


class JobView(msgspec.Struct, frozen=True):
    """`next_run` is ISO 8601 in UTC, null where it cannot be foreseen; `next_reason` says why it is then.

    `running` is the session that lives, or null. `from_repository`: of a backup copy, which has no hypervisor.
    """

    job_id: str
    name: str
    hypervisor: str
    repository: str
    machines: tuple[str, ...]
    exclude: tuple[str, ...]
    block_size_bytes: int
    compression: str
    quiesce: bool
    schedule: Schedule
    retention: Retention
    last_result: str | None
    next_run: str | None
    running: str | None
    warnings: tuple[str, ...] = ()
    per_machine: bool = False
    fulls: Fulls = Fulls()
    upkeep: Window = Window()
    priority: Priority = "regular"
    next_reason: str = ""
    from_repository: str = ""
    health: HealthSchedule = HealthSchedule()
    directory: str = ""
    proxies: tuple[str, ...] = ()
    wait_for_best: bool = False


class HealthCheck(msgspec.Struct, frozen=True):
    """Of all chains of a job, or of what one point reaches. `deep`: digests too, which needs the key of the chain."""

    name: str
    deep: bool = False
    point: str = ""


class JobHealth(msgspec.Struct, frozen=True):
    """On which days the job's chains are checked after its session, from now on."""

    name: str
    health: HealthSchedule


class JobMap(msgspec.Struct, frozen=True):
    """The job goes on with the chain in this directory, relative to its repository."""

    name: str
    directory: str


class JobStop(msgspec.Struct, frozen=True):
    """Graceful: started machines finish, no new one starts. Otherwise tasks end at their next block."""

    name: str
    now: bool = False


# --- sessions ---------------------------------------------------------------------------------------


class SessionStarted(msgspec.Struct, frozen=True):
    session_id: str
    job_id: str


class SessionQuery(msgspec.Struct, frozen=True):
    job: str = ""
    limit: int = 100
    before: float | None = None


class TaskView(msgspec.Struct, frozen=True):
    """A disk in a session: where it is, what it waits for. `busy`: share of time per stage (0 to 1).

    `reason` is machine-readable, `detail` says it for people, `place` is that in the queue (from 1; 0: does not wait).
    `server`, `mode`: which proxy reads it and in which transport mode; `why`: what decided so, in the words of the
    table in docs/operator.md.
    """

    task_id: str
    machine: str
    disk: str
    state: str
    reason: str
    server: str
    size_bytes: int
    done_bytes: int
    attempt: int
    totals: Totals
    rate_bytes_s: float = 0.0
    eta_s: float | None = None
    busy: dict[str, float] = {}
    error: ErrorInfo | None = None
    warnings: tuple[str, ...] = ()
    detail: str = ""
    place: int = 0
    mode: str = ""
    why: str = ""


class SessionView(msgspec.Struct, frozen=True):
    """`report`: what it found out or did besides, not in listings. `upkeep`: what was done to chains, by directory;
    `chains`: what damage was found in each.
    """

    session_id: str
    job_id: str
    name: str
    kind: SessionKind
    state: SessionState
    reason: str
    result: Result
    created: str
    ended: str | None
    duration_s: float
    totals: Totals
    warnings: tuple[str, ...]
    error: ErrorInfo | None
    tasks: tuple[TaskView, ...] = ()
    detail: str = ""
    place: int = 0
    report: dict[str, Any] = {}


class LogQuery(msgspec.Struct, frozen=True):
    """Lines of the session log from byte `offset`; at most 1 MiB a call."""

    session: str
    offset: int = 0


class LogChunk(msgspec.Struct, frozen=True):
    """`lines` are JSON objects as text; go on at `next_offset`. `ended`: the session is over and this is all."""

    lines: tuple[str, ...]
    next_offset: int
    ended: bool


class ProcessView(msgspec.Struct, frozen=True):
    kind: Literal["service", "job-manager", "transport", "mover"]
    pid: int
    parent_pid: int
    server: str
    role: str
    job_id: str
    session_id: str
    task_id: str
    disk: str
    cpu_percent: float
    memory_bytes: int
    log_path: str
    job_name: str = ""


# --- points and recovery ----------------------------------------------------------------------------


class PointQuery(msgspec.Struct, frozen=True):
    job: str = ""
    machine: str = ""


class PointDiskView(msgspec.Struct, frozen=True):
    name: str
    size_bytes: int


class PointView(msgspec.Struct, frozen=True):
    """`whole`: all of it can be restored, as far as is known; else `reason` says what cannot."""

    point_id: str
    job: str
    machine: str
    kind: Literal["full", "increment"]
    created: str
    disks: tuple[PointDiskView, ...]
    repository: str
    warnings: tuple[str, ...] = ()
    whole: bool = True
    reason: str = ""


class PointDelete(msgspec.Struct, frozen=True):
    points: tuple[str, ...]


class RestoreDisk(msgspec.Struct, frozen=True):
    """`output` is an absolute path that does not exist. `stream` is a socket of the client instead ("-")."""

    point: str
    disk: str
    format: Literal["raw", "qcow2", "vmdk", "vhdx"] = "raw"
    output: str = ""
    stream: str = ""
    stream_token: str = ""


class RestoreMachine(msgspec.Struct, frozen=True):
    point: str
    hypervisor: str
    name: str
    power_on: bool = False
    options: dict[str, str] = {}


class Verify(msgspec.Struct, frozen=True):
    point: str
    deep: bool = False


# --- the service itself -----------------------------------------------------------------------------


class ServiceView(msgspec.Struct, frozen=True):
    """`installed`: started by the system, so schedules run while nobody is logged in."""

    version: str
    pid: int
    home: str
    started: str
    installed: bool
    sessions_running: int


class ServiceStop(msgspec.Struct, frozen=True):
    """Stop running sessions gracefully first, as `job stop`."""

    now: bool = False


# --- what a job manager tells the service while it runs (same host, same user; no secrets) ------------


class LiveTask(msgspec.Struct, frozen=True):
    task_id: str
    done_bytes: int
    total_bytes: int
    rate_bytes_s: float
    busy: dict[str, float]
    totals: Totals


class LiveStatus(msgspec.Struct, frozen=True):
    """Once a second while something changes. The service keeps the newest and forgets it with the session."""

    session_id: str
    tasks: tuple[LiveTask, ...] = ()
    processes: tuple[ProcessView, ...] = ()


class Poke(msgspec.Struct, frozen=True):
    """The manager has written rows that the balancer should look at."""

    session_id: str
