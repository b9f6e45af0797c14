"""What may be saved, and what may be removed."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vbrcore.api import operations as ops
from vbrcore.api import types as t
from vbrcore.api.client import Client
from vbrcore.api.jobs import JobEdit
from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import (
    AlreadyExists,
    ConfirmationNeeded,
    InUse,
    InvalidValue,
    NotFound,
    PluginUnknown,
    RepositoryExists,
    RepositoryNotEmpty,
)
from vbrcore.model.job import Schedule

NOTHING = t.Nothing()


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """One service for all these tests: none of them needs it new."""
    path = Path(tempfile.mkdtemp(prefix="vbr-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    with Client(home) as opened:
        yield opened
        opened.call(ops.SERVICE_STOP, t.ServiceStop())


@pytest.fixture(scope="module")
def job(home: Path, client: Client) -> t.JobView:
    client.call(ops.HYPERVISOR_ADD, t.HypervisorAdd("images", "images", {"path": str(home / "machines")}))
    client.call(ops.REPOSITORY_ADD, t.RepositoryAdd("backup", str(home / "backup"), reserve_bytes=0))
    return client.call(ops.JOB_CREATE, t.JobCreate("nightly", "images", "backup", ("*",)))


def test_a_new_deployment_has_a_proxy_and_a_repository(client: Client, home: Path) -> None:
    (server,) = client.call(ops.SERVER_LIST, NOTHING)
    assert server.name == "local"
    assert server.proxy_slots >= 2
    assert server.host_budget >= 2
    (repository,) = client.call(ops.REPOSITORY_LIST, NOTHING)
    assert (repository.name, repository.path) == ("default", str(home / "repository"))
    assert repository.slots >= 2
    plugins = {plugin.id: plugin.state for plugin in client.call(ops.PLUGIN_LIST, NOTHING)}
    assert plugins["images"] == "ok"


def test_hypervisors_are_checked_against_their_plugin(client: Client, tmp_path: Path) -> None:
    def add(
        name: str = "lab",
        plugin: str = "images",
        settings: dict[str, str] | None = None,
        secrets: dict[str, str] | None = None,
        server: str = "local",
    ) -> t.HypervisorView:
        return client.call(ops.HYPERVISOR_ADD, t.HypervisorAdd(name, plugin, settings or {}, secrets or {}, server))

    for settings in ({}, {"paht": "/x"}):
        with pytest.raises(InvalidValue):
            add(settings=settings)
    with pytest.raises(PluginUnknown):
        add(plugin="nope")
    for name in ("", "-x", "a/b", " a", "x" * 65, "new\nline"):
        with pytest.raises(InvalidValue):
            add(name=name, settings={"path": str(tmp_path)})
    with pytest.raises(InvalidValue, match="secret"):
        add(settings={"path": str(tmp_path)}, secrets={"password": "x"})
    with pytest.raises(NotFound, match="no server far"):
        add(settings={"path": str(tmp_path)}, server="far")
    view = add(settings={"path": str(tmp_path)})
    assert view.server == "local"
    assert client.call(ops.HYPERVISOR_SHOW, t.ByName("lab")) == view
    with pytest.raises(AlreadyExists):
        add(settings={"path": str(tmp_path)})


def test_repositories_are_made_once_and_never_over_something(client: Client, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()

    def add(name: str, path: Path | str, slots: int | None = None, reserve_bytes: int | None = 0) -> t.RepositoryView:
        return client.call(ops.REPOSITORY_ADD, t.RepositoryAdd(name, str(path), slots, reserve_bytes))

    view = add("main", tmp_path / "new" / "deep")
    assert (view.state, view.files, view.stored_bytes) == ("ok", 0, 0)
    assert view.free_bytes > 0
    with pytest.raises(RepositoryNotEmpty):
        add("other", tmp_path / "full")
    with pytest.raises(RepositoryExists):
        add("other", tmp_path / "new" / "deep")
    with pytest.raises(AlreadyExists):
        add("main", tmp_path / "second")
    assert not (tmp_path / "second").exists()
    with pytest.raises(InvalidValue):
        add("other", "relative")
    with pytest.raises(InvalidValue):
        add("other", tmp_path / "third", slots=0)


def test_a_repository_that_is_not_there_says_so(client: Client, tmp_path: Path) -> None:
    client.call(ops.REPOSITORY_ADD, t.RepositoryAdd("away", str(tmp_path / "r"), reserve_bytes=0))
    (tmp_path / "r").rename(tmp_path / "unmounted")
    view = client.call(ops.REPOSITORY_SHOW, t.ByName("away"))
    assert view.state == "not_mounted"
    (tmp_path / "unmounted").rename(tmp_path / "r")
    assert client.call(ops.REPOSITORY_SHOW, t.ByName("away")).state == "ok"
    big = t.RepositoryAdd("big", str(tmp_path / "b"), reserve_bytes=2**60)
    assert client.call(ops.REPOSITORY_ADD, big).state == "below_reserve"


def test_jobs_are_checked_when_they_are_saved(client: Client, job: t.JobView) -> None:
    def create(**values: object) -> t.JobView:
        request = {"name": "x", "hypervisor": "images", "repository": "backup", "machines": ("*",), **values}
        return client.call(ops.JOB_CREATE, t.JobCreate(**request))  # type: ignore[arg-type]

    for wrong in ({"machines": ()}, {"machines": ("",)}, {"block_size_bytes": 12345}, {"compression": "best"}):
        with pytest.raises(InvalidValue):
            create(**wrong)
    for missing in ({"hypervisor": "nope"}, {"repository": "nope"}):
        with pytest.raises(NotFound):
            create(**missing)
    with pytest.raises(AlreadyExists):
        create(name="nightly")
    assert client.call(ops.JOB_LIST, NOTHING) == (job,)
    assert (job.last_result, job.next_run, job.running) == (None, None, None)


def test_a_job_names_its_proxies_and_says_before_whom_it_runs(client: Client, job: t.JobView) -> None:
    assert (job.proxies, job.wait_for_best, job.priority) == ((), False, "regular")
    edit = JobEdit(job.name, priority="high", proxies=("local", "local"), wait_for_best=True)
    view = client.call(ops.JOB_EDIT, edit)
    assert (view.proxies, view.wait_for_best, view.priority) == (("local",), True, "high")
    assert client.call(ops.JOB_EDIT, JobEdit(job.name, wait_for_best=False)).proxies == ("local",)
    with pytest.raises(NotFound, match="no server far"):
        client.call(ops.JOB_EDIT, JobEdit(job.name, proxies=("far",)))
    with pytest.raises(InvalidValue, match="nothing"):
        client.call(ops.JOB_EDIT, JobEdit(job.name))
    client.call(ops.JOB_EDIT, JobEdit(job.name, priority="regular", proxies=()))
    copy = t.JobCreate("c", "", "default", ("*",), from_repository="backup", proxies=("local",))
    with pytest.raises(InvalidValue, match="copy"):
        client.call(ops.JOB_CREATE, copy)


def test_schedules_say_when_and_warn_without_an_installed_service(client: Client, job: t.JobView) -> None:
    daily = Schedule("daily", "22:00", 0, "Europe/Berlin")
    view = client.call(ops.JOB_SCHEDULE, t.JobSchedule(job.name, daily))
    assert view.next_run is not None
    assert view.next_run.endswith("Z")
    assert "installed" in view.warnings[0]
    for wrong in (Schedule("daily", "25:00"), Schedule("daily", "22:00", 0, "Nowhere/No"), Schedule("every", "", 5)):
        with pytest.raises(InvalidValue):
            client.call(ops.JOB_SCHEDULE, t.JobSchedule(job.name, wrong))
    assert client.call(ops.JOB_SCHEDULE, t.JobSchedule(job.name, Schedule())).next_run is None


def test_removing_keeps_backups_unless_the_name_is_typed(client: Client, job: t.JobView, home: Path) -> None:
    with pytest.raises(InUse):
        client.call(ops.REPOSITORY_REMOVE, t.Remove("backup"))
    with pytest.raises(InUse):
        client.call(ops.HYPERVISOR_REMOVE, t.Remove("images"))
    with pytest.raises(ConfirmationNeeded):
        client.call(ops.JOB_DELETE, t.Remove(job.name, with_backups=True, confirm="Nightly"))
    client.call(ops.JOB_DELETE, t.Remove(job.name))
    client.call(ops.REPOSITORY_REMOVE, t.Remove("backup"))
    assert list((home / "backup").iterdir())  # its identity stays
    client.call(ops.HYPERVISOR_REMOVE, t.Remove("images"))


def test_credentials_show_no_password(client: Client, catalog: Catalog) -> None:
    view = client.call(ops.CREDENTIAL_ADD, t.CredentialAdd("vc", "admin", "Kennwort1234"))
    assert client.call(ops.CREDENTIAL_LIST, NOTHING) == (view,)
    assert catalog.credential_password(catalog.credential_by_name("vc")).reveal() == "Kennwort1234"
    client.call(ops.CREDENTIAL_REMOVE, t.ByName("vc"))
    assert client.call(ops.CREDENTIAL_LIST, NOTHING) == ()
    assert [row.operation for row in catalog.changes(2)] == ["credential_remove", "credential_add"]
