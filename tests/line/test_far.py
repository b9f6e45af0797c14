"""Repositories that other servers open: a directory of one, and a share through a gateway that is chosen."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.line.conftest import Line
from vbrcore.testing.smbd import PASSWORD_TEXT, Smbd
from vbrcore.testing.sshd import Sshd

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def far(line: Line) -> Iterator[Sshd]:
    """This machine once more, as a server that may hold repositories and be a gateway."""
    line("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={line.lab}")
    with Sshd(line.home / "sshd-far") as sshd:
        where = f"{sshd.user}@127.0.0.1:{sshd.port}"
        identity = ("--identity", sshd.directory / "identity", "--accept-host-key")
        roles = ("--role", "repository", "--role", "gateway")
        line("server", "add", "far", "--ssh", where, *identity, *roles, "--site", "cellar")
        yield sshd


def test_a_directory_of_another_server(
    line: Line, far: Sshd, make_disk: Callable[..., Path], sha256: Callable[[Path], str]
) -> None:
    assert str(far.port) in line.json("server", "show", "far")["ssh"]
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1)
    line("repository", "add", "main", "--server", "far", "--path", line.repository, "--slots", "2", "--reserve", "1M")
    view = line.json("repository", "show", "main")
    assert (view["kind"], view["server"], view["state"], view["slots"]) == ("directory", "far", "ok", 2)
    line.refused("repository_exists", "repository", "add", "b", "--server", "far", "--path", f"{line.repository}/")
    line.refused("invalid_value", "repository", "add", "b", "--server", "far", "--path", "relative")
    line.add_job("nightly")
    session_id = line.run_job()["session_id"]
    assert "transport on far started" in line("session", "log", session_id)
    (point,) = line.points()
    assert sha256(line.restore(point["point_id"], "disk.raw")) == sha256(disk)
    assert line.json("health", "check", "nightly")["report"]["chains"][0]["finding_count"] == 0
    assert line.json("repository", "rescan", "main")["removed"] == []

    identity = line.repository / "vbrcore-repository.json"
    identity.rename(line.out / "identity")  # as if nothing was mounted there
    before = sorted(line.repository.rglob("*"))
    line.refused("repository_not_mounted", "repository", "remove", "main", "--with-backups", "--confirm", "main")
    line.refused("repository_not_mounted", "repository", "rescan", "main")
    assert sorted(line.repository.rglob("*")) == before
    (line.out / "identity").rename(identity)
    line("job", "delete", "nightly", "--with-backups", "--confirm", "nightly")
    line("repository", "remove", "main", "--with-backups", "--confirm", "main")
    assert list(line.repository.iterdir()) == []


def test_the_gateway_at_the_site_serves_a_share_until_it_is_gone(
    line: Line, far: Sshd, smbd: Smbd, make_disk: Callable[..., Path], tmp_path: Path
) -> None:
    make_disk(line.lab / "web" / "disk.raw", seed=2)
    (tmp_path / "password").write_text(PASSWORD_TEXT)
    line("credential", "add", "nas", "--username", smbd.user, "--password-file", tmp_path / "password")
    url = f"//127.0.0.1:{smbd.port}/data"
    line("repository", "add", "main", "--smb", url, "--credential", "nas", "--site", "cellar", "--reserve", "1M")
    line.add_job("nightly")
    assert gateway_of(line) == ("far", "same_site")
    assert gateway_of(line) == ("far", "served_the_chain_last")
    far.stop()
    assert gateway_of(line) == ("local", "only_gateway")
    assert len(line.points()) == 3


def gateway_of(line: Line) -> tuple[str, str]:
    """Run the job; return the gateway of its session and why it was taken."""
    session: dict[str, Any] = line.session(line.run_job()["session_id"])
    (choice,) = session["report"]["gateways"]
    (explained,) = line.json("explain", session["session_id"])["gateways"]
    assert (explained["gateway"], explained["reason"]) == (choice["gateway"], choice["reason"])
    assert f"opened by {choice['gateway']} ({choice['reason']}: {explained['words']})" in line(
        "explain", session["session_id"]
    )
    return choice["gateway"], choice["reason"]
