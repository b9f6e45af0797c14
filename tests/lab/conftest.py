"""Real hosts in namespaces of this machine (script/lab), made once for all tests here.

`VBRCORE_LAB=DIRECTORY` names a lab that is up already: it is used, and left as it is.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.conftest import Vbr, stop_processes_of
from tests.lab.scene import Scene

SCRIPT = Path(__file__).resolve().parents[2] / "script" / "lab"


class Lab:
    """What a test asks of the lab. `hosts`: name → address, site, role, python, host_key, netns."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = self._json("up")
        self.hosts: dict[str, dict[str, Any]] = self.state["hosts"]
        self.identity = Path(self.state["identity"])
        self.user: str = self.state["user"]
        self.password = Path(self.state["password_file"]).read_text("ascii")
        self.server: str = self.state["server"]  # the backup server's own address: this machine's
        self.share: str = self.state["share"]

    def _command(self, *words: str | Path) -> list[str]:
        return [str(SCRIPT), "--dir", str(self.directory), *map(str, words)]

    def _run(self, *words: str | Path) -> str:
        done = subprocess.run(self._command(*words), check=False, capture_output=True, text=True, timeout=110)
        if done.returncode:
            pytest.fail(f"lab {words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def _json(self, *words: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self._run(*words))
        return value

    def status(self) -> dict[str, Any]:
        return self._json("status")

    def exec(self, host: str, *command: str | Path) -> str:
        """Run a command on a host, as root there; return what it printed. Another exit code than 0 fails the test."""
        return self._run("exec", host, *command)

    def cut(self, host: str) -> None:
        self._run("cut", host)

    def mend(self, host: str) -> None:
        """Connect a host again; one that was killed boots."""
        self._run("mend", host)

    def kill(self, host: str) -> None:
        self._run("kill", host)

    def files(self, host: str, path: str) -> Path:
        """Return where a file in a host's own directories (/srv, /root, /home, /tmp, ...) lies on this machine."""
        return self.directory / "hosts" / host / "own" / path.lstrip("/")

    def ssh(self, host: str, user: str = "root", **options: Any) -> Any:
        """Connect by SSH, with the lab's key and with the host's own key pinned: `async with lab.ssh("kvm1") as c`."""
        known = asyncssh.import_public_key(self.hosts[host]["host_key"])
        pinned: tuple[Any, ...] = ([known], [], [])
        defaults = {"known_hosts": pinned, "client_keys": [str(self.identity)], "agent_path": None}
        return asyncssh.connect(self.hosts[host]["address"], username=user, config=None, **(defaults | options))

    def down(self) -> None:
        self._run("down")


@pytest.fixture(scope="session")
def shared_lab() -> Iterator[Lab]:
    if os.getuid() != 0:
        pytest.skip("no root here: the lab's hosts are namespaces with real sshd, smbd and libvirtd")
    given = os.environ.get("VBRCORE_LAB")
    directory = Path(given) if given else Path(tempfile.mkdtemp(prefix="vbrlab-", dir="/var/tmp"))
    if given:
        yield Lab(directory)
        return
    try:
        made = Lab(directory)
        yield made
        made.down()
    finally:
        subprocess.run([str(SCRIPT), "--dir", str(directory), "down"], check=True, timeout=110)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """Give the lab, all of it connected and alive; what a test cut or killed is mended after it."""
    yield shared_lab
    for name, state in shared_lab.status()["hosts"].items():
        if not state["connected"] or not state["processes"]:
            shared_lab.mend(name)


@pytest.fixture(scope="session")
def shared_scene(shared_lab: Lab) -> Iterator[Scene]:
    home = Path(tempfile.mkdtemp(prefix="vbr-", dir="/tmp"))
    try:
        yield Scene(Vbr(home), shared_lab)
        left = stop_processes_of(home)
    finally:
        stop_processes_of(home)
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(Path(shared_lab.state["images"], home.name), ignore_errors=True)
    assert left == {}, "processes outlived the tests"


@pytest.fixture
def scene(shared_scene: Scene, lab: Lab) -> Scene:  # noqa: ARG001 - which mends what the test broke
    """Give one deployment over the whole lab, made once for all tests."""
    return shared_scene
