"""What a job manager and a mover say to each other on the mover's control stream.

Frames are length-prefixed MessagePack (see `vbrcore.transport.frames`); each message is one of the tagged structs
below. A transport relays them unread.
"""

from typing import Any, Literal

import msgspec

from vbrcore.backupfile.contents import KeySlot
from vbrcore.chain.diagnosis import Diagnosis, Mark
from vbrcore.chain.givenback import GivenBack
from vbrcore.chain.identity import ChainIdentity
from vbrcore.model.errors import ErrorInfo
from vbrcore.model.job import Compression
from vbrcore.model.place import Place
from vbrcore.model.point import Point
from vbrcore.model.session import Totals
from vbrcore.mover.questions import Question
from vbrcore.plugins.api import SinkSpec, SourceSpec


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of the tagged messages."""


# --- manager to mover: what to do -----------------------------------------------------------------


class Proof(msgspec.Struct, frozen=True):
    """What one side of a TLS connection proves itself with, and whom alone it accepts. PEM; good for one attempt."""

    certificate: bytes
    key: bytes
    peer_certificate: bytes

    def __repr__(self) -> str:
        return "***"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Endpoint(msgspec.Struct, frozen=True):
    """How a source and its target meet for one attempt of one task, as one of the two is told; never journaled.

    `rate_bytes_s` is what the source may send (None: no limit), which `SetRate` changes.

    On one server the target listens at the Unix socket `path`. Else there is a `proof`: who `listens` does so at the
    address `host`, on a free port of `ports` (both ends included); who does not dials `host` and the first of `ports`.
    """

    path: str
    secret: bytes
    host: str = ""
    ports: tuple[int, int] = (0, 0)
    listens: bool = False
    proof: Proof | None = None
    rate_bytes_s: int | None = None

    def __repr__(self) -> str:
        return f"Endpoint({self.path or self.host!r}, ***)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


NO_ENDPOINT = Endpoint("", b"")  # of work that is planned: each attempt gets its own


class ChainSecret(msgspec.Struct, frozen=True):
    """The key of an encrypted chain, for a mover that needs it. Never journaled, shown as `***`."""

    chain_id: bytes
    key: bytes

    def __repr__(self) -> str:
        return "***"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # the base class's would show all fields
        return []


class SourceWork(Message, frozen=True):
    """Read one disk (or one configuration) and send what the target lacks.

    `since`: change id ("" = compare). `previous_root`: root of this disk's map in the machine's last point (empty:
    none). `damaged`: digests known to be damaged; ranges that hold them count as changed and are always asked for.
    `distrust`: compare everything although tracking is there. `secret`: of an encrypted chain.
    """

    task_id: str
    kind: Literal["disk", "configuration"]
    source: SourceSpec
    endpoint: Endpoint
    size_bytes: int = 0
    since: str = ""
    previous_root: bytes = b""
    previous_size_bytes: int = 0
    block_size_bytes: int = 1024 * 1024
    compression: Compression = "fast"
    damaged: tuple[bytes, ...] = ()
    distrust: bool = False
    audit_seed: int = 0
    secret: ChainSecret | None = None


class TargetWork(Message, frozen=True):
    """Be the one writer of a chain. `directory` is the chain's directory, relative to the repository's root.

    `encrypt`: if the chain has no files yet, it is an encrypted one. The target works without its key.
    `new_generation`: an active full, which refers to nothing older; one is also begun where the generation that is
    there was begun before `fresh_after` (seconds since the epoch). `rate_limit_bytes_s`: of what is written (0: none).
    `machine_id` and `machine`: of a chain of one machine. `chain_id`: of a copy, which has its source's (empty: any).
    """

    place: Place
    repository_id: str
    reserve_bytes: int | None
    directory: str
    job_id: str
    job_name: str
    session_id: str
    created: float
    block_size_bytes: int
    index_directory: str
    encrypt: bool = False
    new_generation: bool = False
    fresh_after: float = 0.0
    rate_limit_bytes_s: int = 0
    machine_id: str = ""
    machine: str = ""
    chain_id: bytes = b""


class UseKeySlots(Message, frozen=True):
    """Target: this is what wraps the key of the encrypted chain, in all its files and in those to come."""

    key_slots: tuple[KeySlot, ...]


class ExpectTask(Message, frozen=True):
    """Target: accept one source for this attempt, and no other. An earlier attempt of the task becomes void."""

    task_id: str
    attempt: int
    endpoint: Endpoint


class VoidTask(Message, frozen=True):
    """Target: expect nobody for this task any more, and end the connection that there is."""

    task_id: str


class CommitPoint(Message, frozen=True):
    """Target: closure check, fsync, slot. `point.sequence` and `point.kind` are decided by the target."""

    point: Point


class ForgetPoints(Message, frozen=True):
    """Target: new contents lists without these points."""

    point_ids: tuple[str, ...]


class GiveBack(Message, frozen=True):
    """Target: give back what no kept and no pinned point needs. No source may be sending.

    `force`: also where little can be dead.
    """

    force: bool = False


class Compact(Message, frozen=True):
    """Target: move what lives into as few files as it needs; `rewrite`: all of it, in the order of the disks."""

    rewrite: bool = False


class MakeFull(Message, frozen=True):
    """Target: a synthetic full of the newest point of each machine; the session goes on in its generation."""


class Seal(Message, frozen=True):
    """Target: sort the table, write both slots, close; then `Ended`."""


class RestoreWork(Message, frozen=True):
    """Write one disk of a point to a sink, or (without sink) check it; `deep` recomputes digests.

    `disk_number` is the disk's place in the point: in an encrypted chain its id cannot be read without the key.
    `encrypted`: the repository is, so a chain that is not is somebody else's and refused. `endpoint`: where a sink
    mover on another server has the sink, which is None here.
    """

    task_id: str
    place: Place
    repository_id: str
    directory: str
    point_id: str
    disk_id: str
    sink: SinkSpec | None = None
    deep: bool = False
    disk_number: int = 0
    encrypted: bool = False
    endpoint: Endpoint | None = None


class SinkWork(Message, frozen=True):
    """Sink mover: open a sink, and write into it what the restore mover of this attempt sends."""

    task_id: str
    sink: SinkSpec
    endpoint: Endpoint


class ReadConfiguration(Message, frozen=True):
    """Restore mover: reply with the configuration of a point; `as_stored`: only check it, as far as no key is needed.

    `encrypted` as in `RestoreWork`.
    """

    place: Place
    repository_id: str
    directory: str
    point_id: str
    as_stored: bool = False
    encrypted: bool = False


class CopyWork(Message, frozen=True):
    """Read what one disk of a point needs as it is stored, and send what the target lacks of it.

    `disk_number` is the disk's place in the point (-1: none), `configuration`: the machine's configuration too. What
    equals the map with the root `base_root` at the same place (empty: none) is known to be there. `encrypted` as in
    `RestoreWork`.
    """

    task_id: str
    place: Place
    repository_id: str
    directory: str
    point_id: str
    endpoint: Endpoint
    disk_number: int = -1
    configuration: bool = False
    base_root: bytes = b""
    base_size_bytes: int = 0
    encrypted: bool = False


class ExamineWork(Message, frozen=True):
    """Restore mover: read all that a chain stores (`point_ids`: what these reach), and say what points have lost.

    `deep` recomputes digests too. `maps_only`: no block is read, only lists, tables and maps. `encrypted` as in
    `RestoreWork`.
    """

    task_id: str
    place: Place
    repository_id: str
    directory: str
    point_ids: tuple[str, ...] = ()
    deep: bool = False
    maps_only: bool = False
    encrypted: bool = False


class MarkDamaged(Message, frozen=True):
    """Target: name these extents as damaged; what stands in bad tables (ids of files) counts as lost."""

    marks: tuple[Mark, ...]
    bad_tables: tuple[bytes, ...] = ()


class SetRate(Message, frozen=True):
    """Source of a disk: send no more than this from now on (None: no limit, 0: nothing)."""

    rate_bytes_s: int | None


class KeepWork(Message, frozen=True):
    """Storage mover: answer questions about a place until `Stop`.

    `purpose`: "open" a repository, which must be `repository_id`; "create" it there; or "look" at a place, whatever it
    is, to find out. `Kept` is the reply.
    """

    place: Place
    repository_id: str
    purpose: Literal["open", "create", "look"] = "open"


class Asked(Message, frozen=True):
    """Storage mover: a question, answered by `Answer` with the same number; not always in order."""

    number: int
    question: Question


class UseKey(Message, frozen=True):
    """Restore mover: the answer to `KeyWanted`."""

    secret: ChainSecret


class Stop(Message, frozen=True):
    """End cleanly at the next block. A target seals what is committed."""


# --- mover to manager: what happened --------------------------------------------------------------


class ChainPoints(Message, frozen=True):
    """Target, before `Ready`: points of the chain, oldest first; several messages where there are many."""

    points: tuple[Point, ...]


class Ready(Message, frozen=True):
    """A target listens (path), or any mover has opened what it was told to.

    `base_point_ids`: those of the current generation, which alone may be referred to; it was begun at
    `generation_started` (seconds since the epoch; 0: it begins with this session).

    `chain` and `storage_class` are known of a target only.
    """

    path: str = ""
    damaged: tuple[bytes, ...] = ()
    warnings: tuple[str, ...] = ()
    chain: ChainIdentity = ChainIdentity()
    base_point_ids: tuple[str, ...] = ()
    generation_started: float = 0.0
    storage_class: str = ""


class Listening(Message, frozen=True):
    """Source or target: it listens for this attempt on `port`, or cannot: `error`. The answer to such an endpoint."""

    task_id: str
    port: int = 0
    attempt: int = 0
    error: ErrorInfo | None = None


class KeySlotsWritten(Message, frozen=True):
    """Target: the answer to `UseKeySlots`; `lists` is how many contents lists were written."""

    lists: int


class KeyWanted(Message, frozen=True):
    """Restore mover: the chain is encrypted, and what is to be done needs its key."""

    chain_id: bytes
    key_slots: tuple[KeySlot, ...]


class Progress(Message, frozen=True):
    """Once a second. `busy`: share of time (0 to 1) in which source, compress, network and target were at work."""

    done_bytes: int
    total_bytes: int
    totals: Totals
    busy: dict[str, float] = {}


class DiskDone(Message, frozen=True):
    """Source: everything was sent and the target has confirmed it. `root` names the new map."""

    task_id: str
    root: bytes
    size_bytes: int
    totals: Totals
    compared: bool
    warnings: tuple[str, ...] = ()


class PointCommitted(Message, frozen=True):
    """Target: the point is durable. `stored_bytes` counts what the session has appended so far."""

    point: Point
    stored_bytes: int


class PointRefused(Message, frozen=True):
    """Target: the point was not committed (e.g. the closure check failed); committed ones stand."""

    point_id: str
    error: ErrorInfo


class Forgotten(Message, frozen=True):
    """Target: these are gone; what is pinned or not there was passed over."""

    point_ids: tuple[str, ...]


class UpkeepDone(Message, frozen=True):
    """Target: the answer to `GiveBack` and `Compact`, where None says: little can be dead, so nothing was done."""

    done: GivenBack | None = None


class FullMade(Message, frozen=True):
    """Target: the answer to `MakeFull`: these points are full now, and those of the current generation.

    `error`: it could not be made, and the chain is as it was.
    """

    point_ids: tuple[str, ...] = ()
    done: GivenBack | None = None
    error: ErrorInfo | None = None


class Configuration(Message, frozen=True):
    """Reply to `ReadConfiguration`: a part of it, in order; `Ended` follows the last. A frame holds 16 MiB."""

    data: bytes


class RestoreDone(Message, frozen=True):
    """The disk was written and is durable, or checked: `damaged` ranges as (offset, length)."""

    task_id: str
    totals: Totals
    damaged: tuple[tuple[int, int], ...] = ()


class Examined(Message, frozen=True):
    """The answer to `ExamineWork`."""

    task_id: str
    totals: Totals
    diagnosis: Diagnosis


class Kept(Message, frozen=True):
    """Storage mover: the place is open, which took `connect_s`. `storage_class`: of one that was created."""

    alignment_bytes: int
    storage_class: str = ""
    connect_s: float = 0.0


class Answer(Message, frozen=True):
    """Storage mover: what a question is answered with; which field says it stands with the question.

    `more`: another part follows, with further names.
    """

    number: int
    value: int = 0
    data: bytes = b""
    names: tuple[str, ...] = ()
    more: bool = False
    error: ErrorInfo | None = None


class DamageMarked(Message, frozen=True):
    """Target: the answer to `MarkDamaged`; `marks` were named that had not been so before."""

    marks: int


class Ended(Message, frozen=True):
    """The mover's last message; `stored_bytes` of a target is final."""

    stored_bytes: int = 0


class Failed(Message, frozen=True):
    """The mover's last message when it could not do its work."""

    error: ErrorInfo


class Log(Message, frozen=True):
    """A log line. `time` is the mover's clock."""

    time: float
    level: Literal["debug", "info", "warning", "error"]
    message: str


ToMover = (
    SourceWork
    | TargetWork
    | UseKeySlots
    | ExpectTask
    | VoidTask
    | CommitPoint
    | ForgetPoints
    | GiveBack
    | Compact
    | MakeFull
    | Seal
    | RestoreWork
    | SinkWork
    | CopyWork
    | ReadConfiguration
    | ExamineWork
    | MarkDamaged
    | KeepWork
    | Asked
    | UseKey
    | SetRate
    | Stop
)
FromMover = (
    ChainPoints
    | Ready
    | Listening
    | KeySlotsWritten
    | KeyWanted
    | Progress
    | DiskDone
    | PointCommitted
    | PointRefused
    | Forgotten
    | UpkeepDone
    | FullMade
    | Configuration
    | RestoreDone
    | Examined
    | DamageMarked
    | Kept
    | Answer
    | Ended
    | Failed
    | Log
)
