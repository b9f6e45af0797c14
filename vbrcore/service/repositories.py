"""Repositories: added, shown with their space, removed; their backups only where that is confirmed by name."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from vbrcore.api import operations, types
from vbrcore.chain.listing import delete_chain_files, list_chains
from vbrcore.model.errors import (
    AlreadyExists,
    ConfirmationNeeded,
    InUse,
    InvalidValue,
    NotFound,
    RepositoryNotMounted,
    VbrError,
)
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import LOCAL_SERVER, Repository
from vbrcore.model.place import Place, share_of
from vbrcore.secrets.keyfiles import keyfile_of, passphrase_of
from vbrcore.secrets.repositorykey import RepositoryKey
from vbrcore.service.balancing import default_slots
from vbrcore.service.elsewhere import stored_in
from vbrcore.service.routes import Call, Routes
from vbrcore.service.values import check_name
from vbrcore.storage.local import LocalStorage
from vbrcore.storage.places import create_at
from vbrcore.storage.port import Storage
from vbrcore.storage.repository import IDENTITY_NAME, Space, open_repository, space_of
from vbrcore.transport.remotestorage import RemoteStorage
from vbrcore.transport.storages import is_here

_MOST_SLOTS = 10_000
_LARGEST_RESERVE_BYTES = 1 << 60
_LOWEST_RATE_BYTES_S = 64 * 1024  # below that a single block takes longer than anybody waits


def add_routes(routes: Routes) -> None:
    routes.add(operations.REPOSITORY_ADD, _add)
    routes.add(operations.REPOSITORY_LIST, _list)
    routes.add(operations.REPOSITORY_SHOW, _show)
    routes.add(operations.REPOSITORY_PASSPHRASE, _passphrase)
    routes.add(operations.REPOSITORY_REMOVE, _remove)


def check_confirmed(request: types.Remove) -> None:
    """Raise `ConfirmationNeeded` unless the name was typed again for deleting backups."""
    if request.with_backups and request.confirm != request.name:
        raise ConfirmationNeeded(f"deleting the backups of {request.name} must be confirmed with its name")


def _add(call: Call, request: types.RepositoryAdd) -> types.RepositoryView:
    catalog = call.service.catalog
    check_name(request.name)
    if any(one.name == request.name for one in catalog.repositories()):
        raise AlreadyExists(f"there is a repository {request.name} already")
    slots = check_settings(request.slots, request.reserve_bytes)
    if request.rate_limit_bytes_s and not _LOWEST_RATE_BYTES_S <= request.rate_limit_bytes_s <= _LARGEST_RESERVE_BYTES:
        raise InvalidValue(f"a rate limit is at least {_LOWEST_RATE_BYTES_S} bytes a second, or 0 for none")
    repository = _asked_for(call, request, slots)
    key = None if request.key is None else key_of(request.key)
    made: RemoteStorage | None = None
    if is_here(repository):
        found: str = create_at(Place(repository.path), repository.repository_id)
        storage: Storage = LocalStorage(Path(repository.path))
    else:
        _check_new(call, repository)
        storage = made = call.service.elsewhere.create(repository)
        found = made.storage_class
    try:
        repository = msgspec.structs.replace(repository, storage_class=found)
        if key is not None:  # before anybody can see the repository, and write to it in the open
            catalog.set_repository_key(repository.repository_id, key)
        catalog.add_repository(repository)
    except VbrError:
        catalog.forget_repository_key(repository.repository_id)
        storage.remove(IDENTITY_NAME)
        raise
    finally:
        if made is not None:
            call.service.elsewhere.close_storage(made)
    return _view(call, repository)


def _asked_for(call: Call, request: types.RepositoryAdd, slots: int) -> Repository:
    """Return the repository that is to be made. Raises `InvalidValue`, `NotFound`."""
    catalog = call.service.catalog
    repository = Repository(
        repository_id=new_id(),
        name=request.name,
        server=request.server,
        path=request.path,
        slots=slots,
        reserve_bytes=request.reserve_bytes,
        rate_limit_bytes_s=request.rate_limit_bytes_s,
        site=request.site,
        proxy_affinity=tuple(dict.fromkeys(catalog.server_by_name(name).name for name in request.proxy_affinity)),
    )
    if not request.smb:
        if request.credential or request.gateways:
            raise InvalidValue("a credential and gateways belong to a share: a directory is opened by its server")
        if not request.path.startswith("/"):
            raise InvalidValue(f"a repository's path must be absolute: {request.path!r}")
        server = catalog.server_by_name(request.server)
        if "repository" not in server.roles:
            raise InvalidValue(f"server {server.name} has not the role repository")
        return repository
    if request.path or request.server != LOCAL_SERVER:
        raise InvalidValue("a repository is a directory of a server, or a share, not both")
    if not request.credential:
        raise InvalidValue("a share needs a credential: nobody is let in without one")
    for name in request.gateways:
        gateway = catalog.server_by_name(name)
        if gateway.name != LOCAL_SERVER and "gateway" not in gateway.roles:
            raise InvalidValue(f"server {name} has not the role gateway")
    return msgspec.structs.replace(
        repository,
        server="",
        path=str(share_of(request.smb)),
        credential_id=catalog.credential_by_name(request.credential).credential_id,
        gateways=request.gateways,
    )


def _check_new(call: Call, repository: Repository) -> None:
    """Raise `AlreadyExists` where this place is a repository of ours."""
    for one in call.service.catalog.repositories():
        if (one.server, one.path) == (repository.server, repository.path):
            raise AlreadyExists(f"{one.path} is repository {one.name} already")


def check_settings(slots: int | None, reserve_bytes: int | None) -> int:
    """Return the slots of a new repository. Raises `InvalidValue`."""
    slots = default_slots() if slots is None else slots
    if not 1 <= slots <= _MOST_SLOTS:
        raise InvalidValue(f"a repository has 1 to {_MOST_SLOTS} slots, not {slots}")
    if reserve_bytes is not None and not 0 <= reserve_bytes <= _LARGEST_RESERVE_BYTES:
        raise InvalidValue(f"a reserve cannot be {reserve_bytes} bytes")
    return slots


def key_of(files: types.KeyFiles) -> RepositoryKey:
    """Return what these files hold. Raises `InvalidValue` where it is no passphrase or no key file."""
    if files.passphrase is None and files.key_file is None:
        raise InvalidValue("encryption needs a passphrase or a key file")
    return RepositoryKey(
        None if files.passphrase is None else passphrase_of(files.passphrase, "the passphrase file"),
        None if files.key_file is None else keyfile_of(files.key_file, "the key file"),
    )


def _passphrase(call: Call, request: types.RepositoryPassphrase) -> types.SessionStarted:
    """Both keys are sealed first, so that whatever interrupts the session, all chains still open here."""
    catalog = call.service.catalog
    key = key_of(request.key)
    repository = find_repository(call, request.name)
    if not catalog.is_encrypted(repository.repository_id):
        raise InvalidValue(f"repository {repository.name} is not encrypted")
    if catalog.next_repository_key(repository.repository_id) not in {None, key}:
        raise InUse(
            f"an earlier change of the passphrase of {repository.name} was not completed: give that passphrase again"
        )
    call.service.elsewhere.open(repository)
    catalog.begin_key_change(repository.repository_id, key)
    session = call.service.start_session(
        "rekey", job_id="", name=repository.name, request={"repository_id": repository.repository_id}
    )
    return types.SessionStarted(session.session_id, "")


def _list(call: Call, _request: types.Nothing) -> tuple[types.RepositoryView, ...]:
    return tuple(_view(call, repository) for repository in call.service.catalog.repositories())


def _show(call: Call, request: types.ByName) -> types.RepositoryView:
    return _view(call, find_repository(call, request.name))


def find_repository(call: Call, name: str) -> Repository:
    """Return a repository by name or id."""
    try:
        return call.service.catalog.repository_by_name(name)
    except NotFound as error:
        try:
            return call.service.catalog.repository(name)
        except NotFound:
            raise error from None


def _remove(call: Call, request: types.Remove) -> types.Nothing:
    check_confirmed(request)
    catalog = call.service.catalog
    repository = find_repository(call, request.name)
    # Opened first: what is not mounted cannot be deleted, and must not be forgotten as if it were.
    storage = call.service.elsewhere.open(repository) if request.with_backups else None
    used_by = [
        job.name for job in catalog.jobs() if repository.repository_id in {job.repository_id, job.source_repository_id}
    ]
    if used_by:
        raise InUse(f"repository {repository.name} is used by job {', '.join(used_by)}")
    # The catalog's row last: where files cannot be deleted, nothing is forgotten.
    if storage is not None:
        for directory in list_chains(storage):
            delete_chain_files(storage, directory)
        storage.remove(IDENTITY_NAME)
    catalog.remove_repository(repository.repository_id)
    catalog.forget_repository_key(repository.repository_id)
    return types.Nothing()


class _State(msgspec.Struct, frozen=True):
    state: str
    reason: str = ""
    space: Space = Space(0, 0, 0)
    stored_bytes: dict[str, int] = {}
    files: int = 0


def _state(call: Call, repository: Repository) -> _State:
    """Say how a repository is: one of this machine now, others as they were seen lately."""
    if is_here(repository):
        try:
            storage = open_repository(Path(repository.path), repository.repository_id)
            space = space_of(storage, repository.reserve_bytes)
            stored, files = stored_in(storage)
        except VbrError as error:
            return _State("not_mounted", str(error))
        if os.statvfs(repository.path).f_flag & os.ST_RDONLY or not os.access(repository.path, os.W_OK):
            return _State("read_only", f"{repository.path} cannot be written", space, stored, files)
    else:
        seen = call.service.elsewhere.seen(repository)
        if seen.space is None:
            away = isinstance(seen.error, RepositoryNotMounted)
            return _State("not_mounted" if away else "away", str(seen.error))
        space, stored, files = seen.space, seen.stored_bytes, seen.files
    if space.below_reserve:
        reason = "no task starts while less than the reserve is free"
        return _State("below_reserve", reason, space, stored, files)
    return _State("ok", "", space, stored, files)


def _view(call: Call, repository: Repository) -> types.RepositoryView:
    catalog = call.service.catalog
    now = _state(call, repository)
    credentials = {one.credential_id: one.name for one in catalog.credentials()} if repository.is_share else {}
    return types.RepositoryView(
        repository_id=repository.repository_id,
        name=repository.name,
        server=repository.server or call.service.elsewhere.gateway(repository),
        path=repository.path,
        slots=repository.slots,
        slots_used=catalog.usage()[f"repository:{repository.repository_id}"],
        state=now.state,
        reason=now.reason,
        size_bytes=now.space.size_bytes,
        free_bytes=now.space.free_bytes,
        reserve_bytes=now.space.reserve_bytes,
        stored_bytes=sum(now.stored_bytes.values()),
        live_bytes=_live(now.stored_bytes, catalog.live_bytes(repository.repository_id)),
        files=now.files,
        encrypted=catalog.is_encrypted(repository.repository_id),
        storage_class=repository.storage_class,
        rate_limit_bytes_s=repository.rate_limit_bytes_s,
        proxy_affinity=repository.proxy_affinity,
        kind="smb" if repository.is_share else "directory",
        site=repository.site,
        credential=credentials.get(repository.credential_id, ""),
        gateways=repository.gateways,
    )


def _live(stored: Mapping[str, int], known: Mapping[str, int]) -> int:
    """Return what kept points need; a chain of which that is not known counts whole."""
    return sum(min(taken_bytes, known.get(directory, taken_bytes)) for directory, taken_bytes in stored.items())
