"""What a job's retention would do now, and the session that does it."""

from vbrcore.api import operations, types
from vbrcore.catalog.clock import read_clock
from vbrcore.chain.retention import Reason, Verdict, decide
from vbrcore.model.point import Point
from vbrcore.service.jobs import find_job
from vbrcore.service.routes import Call, Routes
from vbrcore.service.values import moment


def add_routes(routes: Routes) -> None:
    routes.add(operations.RETENTION_PREVIEW, _preview)
    routes.add(operations.RETENTION_APPLY, _apply)


def _preview(call: Call, request: types.ByName) -> tuple[types.VerdictView, ...]:
    """From the catalog alone, so no machine counts as deleted: only a backup session knows the inventory."""
    catalog = call.service.catalog
    job = find_job(call, request.name)
    stored = catalog.points(job.job_id)
    clock = read_clock()
    doubt = catalog.clock_doubt(clock, max((one.point.created for one in stored), default=None))
    chains: dict[str, list[Point]] = {}
    for one in stored:
        chains.setdefault(one.directory, []).append(one.point)
    verdicts = [
        verdict
        for _, points in sorted(chains.items())
        for verdict in decide(
            points,
            job.retention,
            clock.time,
            present_machines=None,
            pinned=catalog.points_being_read(),
            clock_trusted=not doubt,
        )
    ]
    return tuple(_view(verdict) for verdict in verdicts)


def _apply(call: Call, request: types.RetentionApply) -> types.SessionStarted:
    job = find_job(call, request.name)
    session = call.service.start_session(
        "retention", job_id=job.job_id, name=job.name, request={"name": job.name, "trust_clock": request.trust_clock}
    )
    return types.SessionStarted(session.session_id, job.job_id)


def _view(verdict: Verdict) -> types.VerdictView:
    return types.VerdictView(
        point_id=verdict.point_id,
        machine=verdict.machine,
        created=moment(verdict.created) or "",
        keep=verdict.keep,
        reasons=tuple(_reason(reason) for reason in verdict.reasons),
    )


def _reason(reason: Reason) -> types.ReasonView:
    return types.ReasonView(reason.code, reason.text, moment(reason.until), reason.after_points)
