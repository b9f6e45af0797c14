"""Who holds which slots, and why what waits is where it is."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from vbrcore.api import balance as views
from vbrcore.api import operations, types
from vbrcore.balancer.demand import Pending
from vbrcore.balancer.estimate import Running, estimate
from vbrcore.balancer.explain import Explanation, ResourceUse, explain
from vbrcore.balancer.gateways import NotTaken
from vbrcore.balancer.rank import EXPECTED_BYTES_S, EXPECTED_START_S
from vbrcore.balancer.room import Capacities, kind_of
from vbrcore.balancer.words import gateway_words
from vbrcore.catalog.catalog import Held
from vbrcore.model.errors import NotFound
from vbrcore.model.session import Session, Task
from vbrcore.service.balancing import capacities_of
from vbrcore.service.jobs import find_job
from vbrcore.service.routes import Call, Routes
from vbrcore.service.values import moment

Holders = Mapping[str, tuple[views.HolderView, ...]]


def add_routes(routes: Routes) -> None:
    routes.add(operations.EXPLAIN, _explain)
    routes.add(operations.SLOTS, _slots)


class _State:
    """What is held and asked for now, with the sessions and tasks that do."""

    def __init__(self, call: Call) -> None:
        catalog = call.service.catalog
        self.capacities: Capacities = capacities_of(catalog, call.service.elsewhere.closed)
        self.held: tuple[Held, ...] = catalog.held()
        self.pending: tuple[Pending, ...] = catalog.pending()
        self.sessions: dict[str, Session] = {one.session_id: one for one in catalog.live_sessions()}
        self.tasks: dict[str, Task] = {
            task.task_id: task for session_id in self.sessions for task in catalog.tasks(session_id)
        }
        self.live = {name: one for session in self.sessions for name, one in call.service.live.tasks(session).items()}
        self.now = time.time()

    def used(self) -> Counter[str]:
        used: Counter[str] = Counter()
        for one in self.held:
            used[one.resource] += one.units
        return used

    def holders(self) -> Holders:
        found: defaultdict[str, list[views.HolderView]] = defaultdict(list)
        for one in self.held:
            task = self.tasks.get(one.scope)
            session = self.sessions.get(one.session_id)
            found[one.resource].append(
                views.HolderView(
                    session_id=one.session_id,
                    name=session.name if session else "",
                    task_id=task.task_id if task else "",
                    machine=task.machine if task else "",
                    disk=task.disk if task else "",
                    units=one.units,
                )
            )
        return {resource: tuple(holders) for resource, holders in found.items()}

    def starts(self) -> dict[str, float]:
        """Return the seconds until each demand starts, as far as anybody can tell."""
        return estimate(self.capacities, self._running(), self.pending, self.now)

    def _running(self) -> Iterable[Running]:
        """A task's units come back when it is done; a session's and a machine's when all of its tasks are."""
        left_s: Counter[str] = Counter()
        for task in self.tasks.values():
            if task.state in ("pending", "assigned", "running"):
                left_s[task.session_id] += round(self._left_s(task))
        for one in self.held:
            own = self.tasks.get(one.scope)
            seconds = self._left_s(own) if own else float(left_s[one.session_id])
            yield Running((one.resource,) * one.units, self.now + seconds)

    def _left_s(self, task: Task) -> float:
        live = self.live.get(task.task_id)
        if live is not None and live.rate_bytes_s > 0:
            return max(0, live.total_bytes - live.done_bytes) / live.rate_bytes_s
        return EXPECTED_START_S + task.size_bytes / EXPECTED_BYTES_S


def _slots(call: Call, _request: types.Nothing) -> tuple[views.SlotView, ...]:
    """List what has a limit, then what is held by its name alone: chains, machines, datastores."""
    state = _State(call)
    used, holders, wanted = state.used(), state.holders(), _wanted(state.pending)
    names = dict.fromkeys((*sorted(state.capacities.limits), *sorted(used)))
    found = []
    for name in names:
        closed = state.capacities.closed.get(name)
        found.append(
            views.SlotView(
                resource=name,
                kind=kind_of(name),
                label=state.capacities.label(name),
                limit=state.capacities.limit(name),
                used=used[name],
                closed=closed.reason if closed else "",
                detail=closed.detail if closed else "",
                waiting=wanted[name],
                holders=holders.get(name, ()),
            )
        )
    return tuple(found)


def _wanted(pending: Iterable[Pending]) -> Counter[str]:
    """Count the demands that could use each resource."""
    wanted: Counter[str] = Counter()
    for one in pending:
        demand = one.demand
        offered = (unit for choice in demand.choices for unit in choice.units)
        wanted.update({unit.resource for unit in (*demand.units, *demand.machine_units, *offered)})
    return wanted


def _explain(call: Call, request: views.Explain) -> views.ExplainView:
    """Explain a task, a session, or the newest session of a job."""
    state = _State(call)
    task = state.tasks.get(request.name)
    session = state.sessions[task.session_id] if task else _session(call, state, request.name)
    mine = {one.demand.demand_id for one in state.pending if one.demand.session_id == session.session_id}
    tasks = [one for one in state.tasks.values() if one.session_id == session.session_id]
    if task:
        mine &= {task.task_id}
        tasks = [task]
    starts, holders = state.starts() if mine else {}, state.holders()
    why = explain(state.capacities, state.used(), state.pending, mine, state.now)
    return views.ExplainView(
        session_id=session.session_id,
        name=session.name,
        state=session.state,
        waits=tuple(_wait(state, session, one, starts.get(one.demand_id), holders) for one in why),
        runs=_runs(state.held, tasks),
        gateways=_gateways(call.service.catalog.session(session.session_id)),
    )


class _Chosen(msgspec.Struct, frozen=True):
    """A choice as it stands in a session's report."""

    repository: str
    gateway: str
    reason: str
    others: tuple[NotTaken, ...]


def _gateways(session: Session) -> tuple[views.GatewayView, ...]:
    return tuple(
        views.GatewayView(
            repository=one.repository,
            gateway=one.gateway,
            reason=one.reason,
            words=gateway_words(one.reason),
            others=tuple(views.ExcludedView(other.gateway, other.reason, other.detail) for other in one.others),
        )
        for one in msgspec.convert(session.report.get("gateways", ()), tuple[_Chosen, ...])
    )


def _session(call: Call, state: _State, name: str) -> Session:
    """Find a session by its id, or the living or newest one of a job. Raises `NotFound`."""
    catalog = call.service.catalog
    try:
        return state.sessions.get(name) or catalog.session(name)
    except NotFound:
        job = find_job(call, name)
    live = [one for one in state.sessions.values() if one.job_id == job.job_id]
    newest = live[-1:] or catalog.sessions(job_id=job.job_id, limit=1)
    if not newest:
        raise NotFound(f"job {job.name} has not run yet")
    return newest[0]


def _wait(
    state: _State, session: Session, why: Explanation, starts_in_s: float | None, holders: Holders
) -> views.WaitView:
    task = state.tasks.get(why.demand_id)
    return views.WaitView(
        demand_id=why.demand_id,
        session_id=session.session_id,
        name=session.name,
        machine=task.machine if task else "",
        disk=task.disk if task else "",
        reason=why.reason,
        detail=why.detail,
        place=why.place,
        of=why.of,
        starts_in_s=starts_in_s,
        rank=views.RankView(why.rank.rank, why.rank.class_rank, why.rank.start, why.rank.ageing),
        passed_since=moment(why.passed_since),
        kept=why.kept,
        resources=_uses(why.resources, holders),
        candidates=_candidates(why, holders),
        ahead=why.ahead,
        excluded=tuple(views.ExcludedView(one.server, one.reason, one.detail) for one in why.excluded),
    )


def _candidates(why: Explanation, holders: Holders) -> tuple[views.CandidateView, ...]:
    return tuple(
        views.CandidateView(one.server, one.mode, one.reason, one.detail, _uses(one.resources, holders), one.merits)
        for one in why.candidates
    )


def _uses(uses: Sequence[ResourceUse], holders: Holders) -> tuple[views.UseView, ...]:
    return tuple(
        views.UseView(
            resource=one.resource,
            label=one.label,
            needs=one.needs,
            limit=one.limit,
            used=one.used,
            kept=one.kept,
            closed=one.closed,
            lacks=one.lacks,
            holders=holders.get(one.resource, ()),
        )
        for one in uses
    )


def _runs(held: Iterable[Held], tasks: Iterable[Task]) -> tuple[views.RunView, ...]:
    """Tasks that hold something."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for one in held:
        names[one.scope].append(one.resource)
    return tuple(
        views.RunView(
            task.task_id,
            task.machine,
            task.disk,
            task.state,
            task.server,
            tuple(names[task.task_id]),
            task.mode,
            task.why,
        )
        for task in tasks
        if task.task_id in names
    )
