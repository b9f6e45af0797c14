"""Restore points, from the catalog's knowledge of the chains."""

from vbrcore.api import operations, types
from vbrcore.catalog.catalog import StoredPoint
from vbrcore.model.errors import InvalidValue, NotFound
from vbrcore.service.jobs import find_job
from vbrcore.service.routes import Call, Routes
from vbrcore.service.values import moment


def add_routes(routes: Routes) -> None:
    routes.add(operations.POINT_LIST, _list)
    routes.add(operations.POINT_SHOW, _show)
    routes.add(operations.POINT_DELETE, _delete)


def _list(call: Call, request: types.PointQuery) -> tuple[types.PointView, ...]:
    found = _found(call, request)
    names = {repository.repository_id: repository.name for repository in call.service.catalog.repositories()}
    # One that was removed between the two has no points to show any more.
    return tuple(_view(stored, names[stored.repository_id]) for stored in found if stored.repository_id in names)


def _found(call: Call, request: types.PointQuery) -> tuple[StoredPoint, ...]:
    """Points outlive their job: its name is looked for in the points too."""
    catalog = call.service.catalog
    if not request.job:
        return catalog.points(machine=request.machine)
    try:
        return catalog.points(find_job(call, request.job).job_id, request.machine)
    except NotFound:
        named = {request.job}
        found = tuple(
            stored
            for stored in catalog.points(machine=request.machine)
            if named & {stored.point.job_name, stored.point.job_id}
        )
        if not found:
            raise
        return found


def _show(call: Call, request: types.ByName) -> types.PointView:
    stored = call.service.catalog.point(request.name)
    return _view(stored, call.service.catalog.repository(stored.repository_id).name)


def _delete(call: Call, request: types.PointDelete) -> types.SessionStarted:
    if not request.points:
        raise InvalidValue("no point is named")
    stored = [call.service.catalog.point(point_id) for point_id in request.points]
    first = stored[0].point
    one_job = all(one.point.job_id == first.job_id for one in stored)
    session = call.service.start_session(
        "delete",
        job_id=first.job_id if one_job else "",
        name=first.job_name if one_job else "delete",
        request={"points": list(request.points)},
    )
    return types.SessionStarted(session.session_id, session.job_id)


def _view(stored: StoredPoint, repository: str) -> types.PointView:
    point = stored.point
    return types.PointView(
        point_id=point.point_id,
        job=point.job_name,
        machine=point.machine,
        kind=point.kind,
        created=moment(point.created) or "",
        disks=tuple(types.PointDiskView(disk.name, disk.size_bytes) for disk in point.disks),
        repository=repository,
        warnings=point.warnings,
        whole=not stored.damage,
        reason=stored.damage,
    )
