"""One deployment over the whole lab: this machine only directs, its hosts read, write and keep the share."""

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

from tests.conftest import Vbr

MIB = 1 << 20
PROXIES = ("proxy1", "proxy2", "proxy3")
ROLES = {"proxy": "proxy", "repository": "repository", "gateway": "gateway", "kvm": "proxy"}
SECOND_GATEWAY = "repo1"


class Scene:
    """Servers, repositories `repo1`, `repo2` and `share`, and a directory of images that all hosts have."""

    def __init__(self, vbr: Vbr, lab: Any) -> None:
        self.vbr = vbr
        self.lab = lab
        self.images = Path(lab.state["images"], vbr.home.name)  # the lab may be older than this deployment
        self.images.mkdir()
        self.images.chmod(0o1777)  # restored machines are written by the accounts of the repositories' servers
        vbr("server", "edit", "local", "--site", "main", "--address", lab.server, "--role", "repository")
        for name, host in lab.hosts.items():
            if host["role"] != "share":
                self._add_server(name, host)
        vbr("hypervisor", "add", "images", "--plugin", "images", "--set", f"path={self.images}", "--set", "shared=true")
        for name in ("repo1", "repo2"):
            vbr("repository", "add", name, "--server", name, "--path", self.directory(name), "--reserve", "1M")
        vbr("credential", "add", "nas", "--username", lab.user, "--password-file", lab.state["password_file"])
        gateways = ("--gateway", "gateway1", "--gateway", SECOND_GATEWAY)
        share = ("--smb", f"{lab.share}/{vbr.home.name}", "--credential", "nas", "--site", "main", *gateways)
        vbr("repository", "add", "share", *share, "--reserve", "1M")

    def _add_server(self, name: str, host: dict[str, Any]) -> None:
        """Proxies, repositories and the gateway are bare accounts; a libvirt host without Python gets no role."""
        user = "root" if host["role"] == "kvm" else self.lab.user
        login = ("--ssh", f"{user}@{host['address']}", "--identity", self.lab.identity, "--accept-host-key")
        roles = ("--role", ROLES[host["role"]], "--slots", "2") if host["python"] else ()
        second = ("--role", "gateway") if name == SECOND_GATEWAY else ()
        self.vbr("server", "add", name, *login, *roles, *second, "--site", host["site"])

    def machine(self, name: str, seed: int, mib: int = 6) -> bytes:
        """Write the disk of a machine; return its content."""
        generator = random.Random(seed)  # noqa: S311 - contents that can be made again
        content = b"".join(generator.randbytes(512) + bytes(512) for _ in range(mib * 1024))
        directory = self.images / name
        directory.mkdir(mode=0o755, exist_ok=True)
        (directory / "disk.raw").write_bytes(content)
        return content

    def job(self, name: str, machine: str, repository: str, *options: str, hypervisor: str = "images") -> None:
        words = ("--hypervisor", hypervisor, "--machine", machine, "--repository", repository)
        self.vbr("job", "create", name, *words, *options)

    def start(self, job: str) -> str:
        return str(self.vbr.json("job", "run", job, "--detach")["session_id"])

    def run(self, job: str) -> dict[str, Any]:
        """Run a job that succeeds; return its session."""
        return self.session(self.vbr.json("job", "run", job)["session_id"])

    def session(self, session_id: str) -> dict[str, Any]:
        session: dict[str, Any] = self.vbr.json("session", "show", session_id)
        return session

    def end_of(self, session_id: str, timeout_s: float = 200) -> dict[str, Any]:
        return self.until(session_id, lambda session: session["state"] == "ended", timeout_s)

    def until(self, session_id: str, what: Any, timeout_s: float = 60) -> dict[str, Any]:
        """Wait until a session is as it is wanted; return it."""
        deadline = time.monotonic() + timeout_s
        while not what(session := self.session(session_id)):
            assert time.monotonic() < deadline, session
            time.sleep(0.2)
        return session

    def disk(self, session: dict[str, Any]) -> dict[str, Any]:
        """Return the task of the one disk of a session."""
        (task,) = (one for one in session["tasks"] if one["disk"] != "configuration")
        return dict(task)

    def reading(self, session_id: str) -> str:
        """Wait until the one disk of a session is being sent; return the server that reads it."""
        sent = self.until(session_id, lambda session: self.disk(session)["totals"].get("transferred_bytes", 0) > MIB)
        return str(self.disk(sent)["server"])

    def points(self, job: str) -> list[str]:
        return [point["point_id"] for point in self.vbr.json("point", "list", "--job", job)]

    def assert_whole(self, job: str, content: bytes) -> None:
        """The chain has no damage, and its newest point is the machine as it is."""
        (chain,) = self.vbr.json("health", "check", job, "--deep")["report"]["chains"]
        assert chain["finding_count"] == 0
        file = self.vbr.home / f"{job}.raw"
        self.vbr("restore", "disk", self.points(job)[-1], "disk.raw", "--output", file, "--format", "raw")
        assert file.read_bytes() == content  # here, wherever the repository is
        file.unlink()
        name = f"restored-{job}"
        self.vbr("restore", "machine", self.points(job)[-1], "--hypervisor", "images", "--name", name)
        try:
            assert (self.images / name / "disk.raw").read_bytes() == content
        finally:
            shutil.rmtree(self.images / name)

    def log(self, session_id: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.vbr("session", "log", session_id, "--json").stdout.splitlines()]

    def processes(self, host: str, *words: str) -> list[int]:
        """Return the processes on a host whose command line has all these words."""
        network = Path("/run/netns", self.lab.hosts[host]["netns"]).stat().st_ino
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                here = (place / "ns" / "net").stat().st_ino == network
            except OSError:
                continue
            if here and all(word in command for word in words):
                found.append(int(place.name))
        return found

    def directory(self, host: str) -> str:
        """Return where the repository on a host lies."""
        return (
            f"/srv/backups/{self.vbr.home.name}" if host == "share1" else f"/home/{self.lab.user}/{self.vbr.home.name}"
        )

    def chain(self, job: str, host: str) -> dict[str, tuple[int, int, bytes]]:
        """Return the backup files of a job as they lie on a host: size, time of change, content."""
        files = self.lab.files(host, self.directory(host)).glob(f"{job}_*/*.vbf")
        return {path.name: (path.stat().st_size, path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    def linked(self) -> int:
        """Return the bytes that went over the slow link since the lab is up."""
        return sum(self.lab.status()["slow_link_bytes"].values())
