"""Backup copies as jobs: what one may be made of."""

from vbrcore.api import types
from vbrcore.manager.copyplan import check_same_encryption
from vbrcore.model.errors import InvalidValue
from vbrcore.model.inventory import Repository
from vbrcore.model.routes import data_route
from vbrcore.service.balancing import check_can_be_used
from vbrcore.service.repositories import find_repository
from vbrcore.service.routes import Call


def copy_source(call: Call, request: types.JobCreate, target: Repository) -> Repository:
    """Return the repository that a new copy job reads. Raises `InvalidValue`, `NotFound`, `CanNeverRun`, `NoRoute`."""
    catalog = call.service.catalog
    if request.hypervisor:
        raise InvalidValue("a job takes machines from a hypervisor or points from a repository, not both")
    if request.quiesce:
        raise InvalidValue("a backup copy has no guests to quiesce")
    if request.per_machine:
        raise InvalidValue("the chains of a backup copy are those of its source: they are not chosen per machine")
    source = find_repository(call, request.from_repository)
    if source.repository_id == target.repository_id:
        raise InvalidValue(f"a backup copy from {source.name} needs another repository than {source.name}")
    encrypted = (catalog.is_encrypted(source.repository_id), catalog.is_encrypted(target.repository_id))
    check_same_encryption(source, target, encrypted)
    between = [check_can_be_used(repository, catalog.servers()) for repository in (source, target)]
    if not source.is_share and not target.is_share:
        data_route(*between)
    return source
