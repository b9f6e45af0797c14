"""Which server reads a disk: as the inventory says, elsewhere where one is away, and again there once it is back."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.line.conftest import Line
from vbrcore.testing.sshd import Sshd

PATIENCE_S = 60.0


@pytest.fixture
def sshds(line: Line) -> Iterator[dict[str, Sshd]]:
    """This machine twice more, as others see it: machines lie in a directory that all of them have."""
    line("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={line.lab}", "--set", "shared=true")
    with Sshd(line.home / "sshd-far") as far, Sshd(line.home / "sshd-twin") as twin:
        found = {"far": far, "twin": twin}
        for name, sshd in found.items():
            where = f"{sshd.user}@127.0.0.1:{sshd.port}"
            identity = ("--identity", sshd.directory / "identity", "--accept-host-key")
            line("server", "add", name, "--ssh", where, *identity, "--role", "proxy", "--slots", "2")
        line("repository", "add", "main", "--path", line.repository, "--reserve", "1M", "--proxy-affinity", "far")
        yield found


def task_of(line: Line, session_id: str) -> dict[str, Any]:
    """Return the one task of a session that reads a disk."""
    (task,) = [one for one in line.session(session_id)["tasks"] if one["size_bytes"]]
    return dict(task)


def closed(line: Line, server: str) -> str:
    slots = {one["label"]: one for one in line.json("slots")}
    return str(slots[f"proxy {server}"]["closed"])


def test_the_way_of_a_disk_stands_in_its_session_and_leads_elsewhere_while_a_server_is_away(
    line: Line, sshds: dict[str, Sshd], make_disk: Callable[..., Path]
) -> None:
    make_disk(line.lab / "web" / "web.raw", seed=1)
    line.add_job("nightly", "--proxy", "far", "--proxy", "twin")
    session_id = line.run_job()["session_id"]
    task = task_of(line, session_id)
    assert (task["server"], task["mode"], task["attempt"]) == ("far", "file", 1)
    assert task["why"] == "best transport mode; preferred by the repository"
    assert "far file" in line("session", "show", session_id)

    sshds["far"].stop()
    task = task_of(line, line.run_job()["session_id"])
    assert (task["server"], task["state"], task["attempt"]) == ("twin", "done", 2)
    assert task["why"] == "best transport mode; better ones are full or away"
    assert closed(line, "far") == "server_away"
    assert line.json("server", "show", "far")["state"] == "away"

    line("job", "edit", "nightly", "--proxy", "far")
    session_id = line.start_job()["session_id"]
    until(lambda: task_reason(line, session_id) == "server_away", "the only proxy to be waited for")
    (wait,) = [one for one in line.json("explain", session_id)["waits"] if one["disk"]]
    assert [(one["server"], one["reason"]) for one in wait["candidates"]] == [("far", "server_away")]
    assert wait["candidates"][0]["merits"] == ["best transport mode", "preferred by the repository"]
    assert {one["server"]: one["reason"] for one in wait["excluded"]} == dict.fromkeys(
        ("local", "twin"), "not_in_the_jobs_list"
    )
    assert "not twin: not_in_the_jobs_list" in line("explain", session_id)
    sshds["far"].start()
    until(lambda: line.session(session_id)["state"] == "ended", "the session to go on by itself")
    assert task_of(line, session_id)["server"] == "far"
    assert closed(line, "far") == ""


def task_reason(line: Line, session_id: str) -> str:
    return next((one["reason"] for one in line.session(session_id)["tasks"] if one["size_bytes"]), "")


def until(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > give_up:
            pytest.fail(f"waited in vain for {what}")
        time.sleep(0.2)
