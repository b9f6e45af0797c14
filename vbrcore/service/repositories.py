"""Repositories: added, shown with their space, removed; their backups only where that is confirmed by name."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from vbrcore.api import operations, types
from vbrcore.chain.listing import delete_chain_files, list_chains
from vbrcore.model.errors import AlreadyExists, ConfirmationNeeded, InUse, InvalidValue, NotFound, VbrError
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import LOCAL_SERVER, Repository
from vbrcore.secrets.keyfiles import keyfile_of, passphrase_of
from vbrcore.secrets.repositorykey import RepositoryKey
from vbrcore.service.balancing import default_slots
from vbrcore.service.routes import Call, Routes
from vbrcore.service.values import check_name
from vbrcore.storage.capabilities import probe
from vbrcore.storage.repository import IDENTITY_NAME, Space, create_repository, open_repository, repository_space

_BACKUP_FILE_ENDING = ".vbf"
_BLOCK_BYTES = 512  # unit of st_blocks
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
    repository = Repository(
        repository_id=new_id(),
        name=request.name,
        server=LOCAL_SERVER,
        path=request.path,
        slots=slots,
        reserve_bytes=request.reserve_bytes,
        rate_limit_bytes_s=request.rate_limit_bytes_s,
    )
    key = None if request.key is None else key_of(request.key)
    create_repository(Path(request.path), repository.repository_id)
    try:
        found = probe(open_repository(Path(request.path), repository.repository_id))
        repository = msgspec.structs.replace(repository, storage_class=found)
        if key is not None:  # before anybody can see the repository, and write to it in the open
            catalog.set_repository_key(repository.repository_id, key)
        catalog.add_repository(repository)
    except VbrError:
        catalog.forget_repository_key(repository.repository_id)
        (Path(request.path) / IDENTITY_NAME).unlink()
        raise
    return _view(call, repository)


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
    open_repository(Path(repository.path), repository.repository_id)
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
    path = Path(repository.path)
    # Opened first: what is not mounted cannot be deleted, and must not be forgotten as if it were.
    storage = open_repository(path, repository.repository_id) if request.with_backups else None
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


def _view(call: Call, repository: Repository) -> types.RepositoryView:
    path = Path(repository.path)
    state, reason, space = "ok", "", Space(0, 0, 0)
    stored: dict[str, int] = {}
    files = 0
    try:
        open_repository(path, repository.repository_id)
        space = repository_space(path, repository.reserve_bytes)
        stored, files = _stored(path)
    except VbrError as error:
        state, reason = "not_mounted", str(error)
    else:
        if os.statvfs(path).f_flag & os.ST_RDONLY or not os.access(path, os.W_OK):
            state, reason = "read_only", f"{path} cannot be written"
        elif space.below_reserve:
            state, reason = "below_reserve", "no task starts while less than the reserve is free"
    return types.RepositoryView(
        repository_id=repository.repository_id,
        name=repository.name,
        server=repository.server,
        path=repository.path,
        slots=repository.slots,
        slots_used=call.service.catalog.usage()[f"repository:{repository.repository_id}"],
        state=state,
        reason=reason,
        size_bytes=space.size_bytes,
        free_bytes=space.free_bytes,
        reserve_bytes=space.reserve_bytes,
        stored_bytes=sum(stored.values()),
        live_bytes=_live(stored, call.service.catalog.live_bytes(repository.repository_id)),
        files=files,
        encrypted=call.service.catalog.is_encrypted(repository.repository_id),
        storage_class=repository.storage_class,
        rate_limit_bytes_s=repository.rate_limit_bytes_s,
    )


def _stored(path: Path) -> tuple[dict[str, int], int]:
    """Return the bytes that backup files take on the disk, by chain directory, and how many files there are."""
    stored: dict[str, int] = {}
    files = 0
    for found in path.rglob(f"*{_BACKUP_FILE_ENDING}"):
        try:
            taken_bytes = found.stat().st_blocks * _BLOCK_BYTES
        except FileNotFoundError:
            continue  # given back just now
        directory = str(found.parent.relative_to(path))
        stored[directory] = stored.get(directory, 0) + taken_bytes
        files += 1
    return stored, files


def _live(stored: Mapping[str, int], known: Mapping[str, int]) -> int:
    """Return what kept points need; a chain of which that is not known counts whole."""
    return sum(min(taken_bytes, known.get(directory, taken_bytes)) for directory, taken_bytes in stored.items())
