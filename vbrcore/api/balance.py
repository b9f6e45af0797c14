"""What is asked and answered about slots and about why something waits. JSON keys are these field names; they stay."""

import msgspec


class Explain(msgspec.Struct, frozen=True):
    """The id of a task or a session, or the name or id of a job."""

    name: str


class HolderView(msgspec.Struct, frozen=True):
    """Who holds how many units of a resource. `name`: of the session's job; `task_id` "": the session itself."""

    session_id: str
    name: str
    task_id: str
    machine: str
    disk: str
    units: int


class SlotView(msgspec.Struct, frozen=True):
    """A resource: `kind` is proxy, host, repository, chain, machine or datastore.

    `closed`: why it takes nothing new ("": it does); `waiting`: how many that wait could use it.
    """

    resource: str
    kind: str
    label: str
    limit: int
    used: int
    closed: str
    detail: str
    waiting: int
    holders: tuple[HolderView, ...]


class UseView(msgspec.Struct, frozen=True):
    """A resource that something needs. `kept`: free units that are kept for who was passed for too long.

    `lacks`: it stands in the way.
    """

    resource: str
    label: str
    needs: int
    limit: int
    used: int
    kept: int
    closed: str
    lacks: bool
    holders: tuple[HolderView, ...]


class CandidateView(msgspec.Struct, frozen=True):
    """A server and mode in the order in which they are looked at; `reason` "": it could start there now.

    `merits`: what it is preferred for, in the words of the table in docs/operator.md.
    """

    server: str
    mode: str
    reason: str
    detail: str
    resources: tuple[UseView, ...]
    merits: tuple[str, ...] = ()


class ExcludedView(msgspec.Struct, frozen=True):
    """A server that is no candidate: `not_in_the_jobs_list`, `no_proxy_role`, `no_slots`, `server_unsuitable`,
    `no_transport_mode`, `failed_before`.
    """

    server: str
    reason: str
    detail: str


class RankView(msgspec.Struct, frozen=True, rename={"class_rank": "class"}):
    """`rank` is class + start + ageing."""

    rank: int
    class_rank: int
    start: int
    ageing: int


class WaitView(msgspec.Struct, frozen=True):
    """Why something waits. `demand_id` is the task's id, or begins with the session's.

    `place` of `of` in the queue; `starts_in_s`: an estimate, null: nobody can tell. `ahead`: what comes first and needs
    something that this lacks. `kept`: resources of which units are kept for this.
    """

    demand_id: str
    session_id: str
    name: str
    machine: str
    disk: str
    reason: str
    detail: str
    place: int
    of: int
    starts_in_s: float | None
    rank: RankView
    passed_since: str | None
    kept: tuple[str, ...]
    resources: tuple[UseView, ...]
    candidates: tuple[CandidateView, ...]
    ahead: tuple[str, ...]
    excluded: tuple[ExcludedView, ...] = ()


class RunView(msgspec.Struct, frozen=True):
    """A task that has what it needs: where and how, why there, and what it holds."""

    task_id: str
    machine: str
    disk: str
    state: str
    server: str
    resources: tuple[str, ...]
    mode: str = ""
    why: str = ""


class GatewayView(msgspec.Struct, frozen=True):
    """Which server opens a share for a session, why, in a word and in words, and why not others."""

    repository: str
    gateway: str
    reason: str
    words: str
    others: tuple[ExcludedView, ...]


class ExplainView(msgspec.Struct, frozen=True):
    """All of a session, or one task of it. `state` is the session's; nothing waits and runs where it has ended.

    `gateways`: those of the shares that the session has opened so far, also where it has ended.
    """

    session_id: str
    name: str
    state: str
    waits: tuple[WaitView, ...]
    runs: tuple[RunView, ...]
    gateways: tuple[GatewayView, ...] = ()
