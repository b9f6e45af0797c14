"""Hosts die in sessions, and what was cut off comes back: nobody writes twice, and the chain stays whole.

Run by `script/accidents`: each of these takes a minute or two of silence. The short ones are in test_accidents.py.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.scene import MIB, SECOND_GATEWAY, Scene

pytestmark = pytest.mark.timeout(400)

BIG_MIB = 120


def begun(scene: Scene, job: str, host: str, seed: int) -> tuple[str, bytes]:
    """Begin a session of a job whose machine of the same name has changed; return it while its target writes."""
    before = set(scene.chain(job, host))
    content = scene.machine(job, seed, BIG_MIB)
    session_id = scene.start(job)
    directory = scene.lab.files(host, scene.directory(host))

    def written() -> int:
        return sum(path.stat().st_size for path in directory.glob(f"{job}_*/*.vbf") if path.name not in before)

    wait_for(lambda: written() > 4 * MIB, "nothing is written", 60)
    return session_id, content


def wait_for(what: Callable[[], Any], words: str, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, words
        time.sleep(0.1)
    return found


def set_up(scene: Scene, job: str, repository: str, *options: str) -> bytes:
    """Make a job and its first point."""
    content = scene.machine(job, seed=len(job), mib=4)
    scene.job(job, job, repository, "--compression", "high", *options)
    scene.run(job)
    return content


def stop_after_first_failure(scene: Scene, job: str, session_id: str) -> dict[str, Any]:
    """Let a session meet its first failure, and not try again; return it when it has ended."""
    scene.until(session_id, lambda session: session["state"] == "ended" or any(t["error"] for t in session["tasks"]))
    scene.vbr("job", "stop", job, "--now", exit_code=None)  # it may have ended by itself
    return scene.end_of(session_id)


def frozen(scene: Scene, host: str, session_id: str) -> list[int]:
    """Stop a session's transport on a host and all that it started, target mover first."""
    target = scene.processes(host, session_id, "target")
    assert len(target) == 1
    every = target + [pid for pid in scene.processes(host, session_id) if pid not in target]
    for pid in every:
        os.kill(pid, signal.SIGSTOP)
    return every


def thawed(scene: Scene, host: str, session_id: str, pids: list[int]) -> None:
    """Let them go on, and wait until all of them have ended by themselves."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not scene.processes(host, session_id), "what was cut off did not end itself", 45)


def test_a_repository_host_that_dies_fails_the_session_and_the_next_one_goes_on(scene: Scene) -> None:
    set_up(scene, "dies", "repo2")
    points = scene.points("dies")
    session_id, content = begun(scene, "dies", "repo2", seed=13)
    scene.lab.kill("repo2")
    assert stop_after_first_failure(scene, "dies", session_id)["result"] == "failed"
    scene.lab.mend("repo2")
    assert scene.points("dies") == points
    scene.vbr("server", "check", "repo2", exit_code=None)
    scene.run("dies")
    assert len(scene.points("dies")) == len(points) + 1
    scene.assert_whole("dies", content)


def test_while_a_cut_off_target_is_there_nobody_else_writes_and_it_ends_itself(scene: Scene) -> None:
    set_up(scene, "frozen", "repo1")
    session_id, content = begun(scene, "frozen", "repo1", seed=14)
    pids = frozen(scene, "repo1", session_id)
    files = scene.chain("frozen", "repo1")
    ended = stop_after_first_failure(scene, "frozen", session_id)
    assert ended["result"] == "failed"
    locked = scene.vbr.json("job", "run", "frozen", "--detach")["session_id"]
    wait_for(lambda: "chain_locked" in str(scene.log(locked)), "nobody was kept out", 60)
    scene.vbr("job", "stop", "frozen", "--now")
    assert scene.end_of(locked)["result"] == "failed"
    assert scene.chain("frozen", "repo1") == files
    thawed(scene, "repo1", session_id, pids)
    assert scene.chain("frozen", "repo1") == files
    scene.run("frozen")
    scene.assert_whole("frozen", content)


def test_a_gateway_that_comes_back_after_its_successor_wrote_changes_nothing(scene: Scene) -> None:
    set_up(scene, "replaced", "share")
    session_id, content = begun(scene, "replaced", "share1", seed=15)
    gateway = scene.session(session_id)["report"].get("gateways", [{}])[0].get("gateway") or next(
        name for name in ("gateway1", SECOND_GATEWAY) if scene.processes(name, session_id, "target")
    )
    pids = frozen(scene, gateway, session_id)
    scene.lab.cut(gateway)
    scene.lab.kill("share1")  # which forgets who had what open
    scene.lab.mend("share1")
    assert stop_after_first_failure(scene, "replaced", session_id)["result"] == "failed"
    successor = scene.run("replaced")
    assert [one["gateway"] for one in successor["report"]["gateways"]] != [gateway]
    files = scene.chain("replaced", "share1")
    scene.lab.mend(gateway)
    thawed(scene, gateway, session_id, pids)
    assert scene.chain("replaced", "share1") == files
    scene.assert_whole("replaced", content)
