"""Managed servers on the command line, over a real sshd: added, looked at, changed, away and back, removed."""

import os
import platform
import pty
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Vbr
from tests.service.conftest import wait_for
from vbrcore.api import operations as ops
from vbrcore.api import types as t
from vbrcore.api.client import Client
from vbrcore.api.servers import ServerEdit, ServerView
from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import CanNeverRun, HostKeyChanged, InUse, InvalidValue, NotFound, ServerUnreachable
from vbrcore.testing.sshd import Sshd, free_port

NOTHING = t.Nothing()


def arguments(sshd: Sshd, name: str = "far") -> list[str | Path]:
    return ["server", "add", name, "--ssh", f"{sshd.user}@127.0.0.1:{sshd.port}", "--role", "proxy", "--slots", "4"]


def test_a_server_is_added_looked_at_changed_and_removed(vbr: Vbr, sshd: Sshd, catalog: Catalog) -> None:
    identity: list[str | Path] = ["--identity", sshd.directory / "identity"]
    added = vbr(*arguments(sshd), *identity, "--accept-host-key", "--site", "berlin", "--json")
    fingerprint = added.stderr.split()[-1]
    assert fingerprint.startswith("SHA256:")
    local, far = sorted(vbr.json("server", "list"), key=lambda one: one["name"] == "far")
    assert local["ssh"] == ""
    assert (far["ssh"], far["login"], far["host_key"]) == (
        f"{sshd.user}@127.0.0.1:{sshd.port}",
        "identity",
        fingerprint,
    )
    assert (far["roles"], far["proxy_slots"], far["proxy_slots_used"], far["site"]) == (["proxy"], 4, 0, "berlin")
    assert (far["state"], far["address"], far["ports"], far["findings"]) == ("ok", "127.0.0.1", [46200, 46299], [])
    assert far["python"].startswith("3.")
    assert "Linux" in far["os"]
    assert far["free_bytes"] > 0
    assert (sshd.home / ".cache" / "vbrcore").is_dir()
    assert catalog.server_secrets(far["server_id"]) == {"identity": sshd.secrets["identity"]}

    assert vbr.json("server", "check", "far")["checked"] > far["checked"]
    assert vbr.json("server", "check", "local")["python"] == platform.python_version()
    edited = vbr.json(
        "server", "edit", "far", "--slots", "3", "--role", "proxy", "--role", "gateway", "--ports", "47000-47009"
    )
    assert (edited["proxy_slots"], edited["roles"], edited["ports"]) == (3, ["proxy", "gateway"], [47000, 47009])
    assert vbr.json("server", "show", "far") == edited
    vbr("server", "remove", "far")
    assert [one["name"] for one in vbr.json("server", "list")] == ["local"]
    assert catalog.server_secrets(far["server_id"]) == {}
    assert catalog.server_states().keys() <= {local["server_id"]}


def test_a_host_key_that_nobody_accepted_is_not_pinned(vbr: Vbr, sshd: Sshd) -> None:
    identity: list[str | Path] = ["--identity", sshd.directory / "identity"]
    refused = vbr(*arguments(sshd), *identity, "--json", exit_code=2)
    assert "host_key_unconfirmed" in refused.stderr
    assert "SHA256:" in refused.stderr
    assert [one["name"] for one in vbr.json("server", "list")] == ["local"]


def on_terminal(vbr: Vbr, *args: str | Path, answers: dict[str, str]) -> str:
    """Run a command on a terminal of its own; answer each question once it is asked. Return what it said there."""
    ours, theirs = pty.openpty()
    said = ""
    try:
        with vbr.start(*args, stdin=theirs, stderr=theirs, start_new_session=True) as command:
            os.close(theirs)
            for question, answer in answers.items():
                while question not in said:
                    said += os.read(ours, 4096).decode()
                os.write(ours, answer.encode())
            command.wait(timeout=60)
        while True:
            said += os.read(ours, 4096).decode()
    except OSError:  # nobody is at the other end any more
        return said
    finally:
        os.close(ours)


def test_on_a_terminal_the_key_is_shown_and_a_password_asked_for(
    vbr: Vbr, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    vbr.environment.pop("SSH_AUTH_SOCK", None)
    refused = on_terminal(vbr, *arguments(sshd), "--json", answers={"Type yes": "no\n"})
    assert "host_key_unconfirmed" in refused
    said = on_terminal(
        vbr, *arguments(sshd), "--json", answers={"Type yes": "yes\n", "Password of": "not the password\n"}
    )
    assert "SSH_AUTH_SOCK" in said  # the agent has nothing, so the password is asked for
    assert "refuses" in said
    assert "not the password" not in said
    assert "login_refused" in vbr(*arguments(sshd), "--accept-host-key", "--json", exit_code=20).stderr
    assert [one["name"] for one in vbr.json("server", "list")] == ["local"]


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["--ssh", "nobody"], 2, "USER@HOST"),
        (["--ssh", "u@h:x"], 2, "USER@HOST"),
        (["--ports", "80-90"], 2, "1024"),
        (["--ports", "9"], 2, "LO-HI"),
        (["--slots", "0"], 2, "slots"),
        (["--host-budget", "0"], 2, "budget"),
        (["--site", "a/b"], 2, "name"),
        (["--identity", "/nonexistent"], 2, "/nonexistent"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_added(
    vbr: Vbr, sshd: Sshd, options: list[str], code: int, word: str
) -> None:
    identity: list[str | Path] = [] if "--identity" in options else ["--identity", sshd.directory / "identity"]
    assert word in vbr(*arguments(sshd), "--accept-host-key", *identity, *options, exit_code=code).stderr
    assert len(vbr.json("server", "list")) == 1


def test_no_secret_is_shown_or_stands_in_a_file(
    vbr: Vbr, home: Path, sshd: Sshd, add_server: Callable[..., ServerView]
) -> None:
    add_server("far")
    middle = sshd.secrets["identity"].reveal().splitlines()[2]
    shown = vbr("server", "show", "far").stdout + vbr("server", "list", "--json").stdout
    assert middle not in shown
    files = [file for file in home.rglob("*") if file.is_file() and sshd.directory not in file.parents]
    assert any(file.name == "catalog.db" for file in files)
    assert not [file for file in files if middle.encode() in file.read_bytes()]


@pytest.fixture
def bare_sshd(home: Path) -> Iterator[Sshd]:
    """A server without Python: its user finds a shell and a handful of programs."""
    programs = home / "bare"
    programs.mkdir()
    for name in ("sh", "uname"):
        (programs / name).symlink_to(shutil.which(name) or "")
    with Sshd(home / "sshd", environment={"PATH": str(programs)}) as running:
        yield running


def test_a_server_without_python_says_what_to_install(vbr: Vbr, bare_sshd: Sshd) -> None:
    identity: list[str | Path] = ["--identity", bare_sshd.directory / "identity", "--accept-host-key"]
    view = vbr.json(*arguments(bare_sshd), *identity)
    (finding,) = view["findings"]
    assert (finding["code"], finding["level"], view["python"]) == ("python_missing", "error", "")
    assert "install" in finding["hint"]
    assert "python_missing" in vbr("server", "check", "far", exit_code=20).stdout
    vbr("server", "edit", "far", "--no-role")  # a hypervisor's host needs none
    assert vbr.json("server", "check", "far")["findings"][0]["level"] == "note"


def test_what_a_login_shell_prints_is_passed_over(add_server: Callable[..., ServerView], sshd: Sshd) -> None:
    (sshd.home / ".bashrc").write_text("echo welcome; echo vbrcore\n")
    assert add_server("far").python


def test_data_ports_that_cannot_be_dialled_are_named(client: Client, add_server: Callable[..., ServerView]) -> None:
    view = add_server("far", address="127.0.0.1.invalid")
    assert [one.code for one in view.findings] == ["data_port_unreachable"]
    client.call(ops.SERVER_EDIT, ServerEdit("far", dials_only=True))
    assert client.call(ops.SERVER_CHECK, t.ByName("far")).findings == ()


def test_another_host_key_closes_the_server_until_the_pinned_one_is_back(
    client: Client, sshd: Sshd, add_server: Callable[..., ServerView]
) -> None:
    add_server("far")
    key, public = ((sshd.directory / name).read_bytes() for name in ("host_key", "host_key.pub"))
    sshd.new_host_key()
    with pytest.raises(HostKeyChanged):
        client.call(ops.SERVER_CHECK, t.ByName("far"))
    view = client.call(ops.SERVER_SHOW, t.ByName("far"))
    assert view.state == "away"
    assert view.next_try is not None
    slots = {one.resource: one for one in client.call(ops.SLOTS, NOTHING)}
    assert slots[f"proxy:{view.server_id}"].closed == "server_away"
    assert "pinned" in slots[f"host:{view.server_id}"].detail
    sshd.stop()
    (sshd.directory / "host_key").write_bytes(key)
    (sshd.directory / "host_key.pub").write_bytes(public)
    sshd.start()
    wait_for(lambda: client.call(ops.SERVER_SHOW, t.ByName("far")).state == "ok", "the server to be tried again")
    assert not any(one.closed for one in client.call(ops.SLOTS, NOTHING))


def test_a_server_that_is_not_there_is_not_added(client: Client, add_server: Callable[..., ServerView]) -> None:
    with pytest.raises(ServerUnreachable):
        add_server("far", port=free_port())
    assert len(client.call(ops.SERVER_LIST, NOTHING)) == 1


@pytest.mark.usefixtures("job")
def test_what_is_used_stays_as_it_is_used(client: Client, add_server: Callable[..., ServerView]) -> None:
    add_server("far", roles=("proxy", "repository"))
    with pytest.raises(InUse, match="this machine"):
        client.call(ops.SERVER_REMOVE, t.Remove("local"))
    with pytest.raises(InUse, match="repository"):
        client.call(ops.SERVER_EDIT, ServerEdit("local", roles=("proxy",)))
    with pytest.raises(InvalidValue, match="nothing"):
        client.call(ops.SERVER_EDIT, ServerEdit("far"))
    with pytest.raises(NotFound):
        client.call(ops.SERVER_REMOVE, t.Remove("nope"))
    client.call(ops.SERVER_REMOVE, t.Remove("far"))
    with pytest.raises(CanNeverRun, match="nightly"):
        client.call(ops.SERVER_EDIT, ServerEdit("local", roles=("repository",)))
    view = client.call(ops.SERVER_EDIT, ServerEdit("local", slots=7, host_budget=9))
    assert (view.proxy_slots, view.host_budget) == (7, 9)
