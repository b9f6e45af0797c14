"""A lab of real hosts in namespaces of this machine: see `script/lab --help`.

Two sites, each a bridge with its hosts; a router between them, behind a slow link. The backup server is this machine
itself: it stands in site `main` and has a route to the other one. A host has its own network, mounts (what it writes
is its own) and name, and runs sshd; what else it runs stands in HOSTS.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SCRIPTS = Path(__file__).resolve().parent
CHECKOUT = SCRIPTS.parent
USER = "vbr"
SHARE = "backups"
ROOT = "/root"  # of a host
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "USER": "root", "LANG": "C.UTF-8"}


class Kind(NamedTuple):
    """What a host is: its site, what it is for, and whether it has Python."""

    site: str
    role: str
    python: bool = True


HOSTS = {
    "proxy1": Kind("main", "proxy"),
    "proxy2": Kind("main", "proxy"),
    "proxy3": Kind("far", "proxy"),
    "repo1": Kind("main", "repository"),
    "repo2": Kind("far", "repository"),
    "gateway1": Kind("main", "gateway"),
    "share1": Kind("main", "share"),
    "kvm1": Kind("main", "kvm"),
    "kvm2": Kind("far", "kvm", python=False),
}
SITES = ("main", "far")

SSHD = """Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication yes
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile /run/sshd.pid
Subsystem sftp /usr/lib/openssh/sftp-server
"""
SAMBA = f"""[global]
server role = standalone server
map to guest = never
log file = /var/log/samba/log.smbd
load printers = no
disable spoolss = yes
[{SHARE}]
path = /srv/{SHARE}
read only = no
"""


class Refused(Exception):
    """What cannot be done, in words for who asked."""


def run(*command: str | Path, stdin: str = "", check: bool = True) -> str:
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, input=stdin, timeout=120)
    if check and done.returncode:
        raise Refused(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def wait_until(what: Callable[[], bool], words: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise Refused(f"{words}: not within {seconds:.0f} s")
        time.sleep(0.05)


class Lab:
    """One lab: everything about it lies in its directory, its names on this machine carry the directory's tag."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tag = hashlib.sha256(os.fsencode(directory)).hexdigest()[:5]
        self.file = directory / "lab.json"
        self.images = directory / "images"
        self.state: dict[str, Any] = json.loads(self.file.read_text("utf-8")) if self.file.exists() else {}

    # Names

    def netns(self, name: str) -> str:
        return f"vbrlab-{self.tag}-{name}"

    def link(self, name: str) -> str:
        """Name this machine's end of a host's cable."""
        return f"v{self.tag}-{list(HOSTS).index(name)}"

    def bridge(self, site: str) -> str:
        return f"v{self.tag}-{site}"

    def host(self, name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.state["hosts"][name]
        except KeyError:
            raise Refused(f"no host {name} in a lab at {self.directory}: {', '.join(HOSTS)}; is it up?") from None
        return found

    def save(self) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.state, indent=1), "utf-8")
        new.replace(self.file)

    # Processes

    def processes(self, name: str) -> list[int]:
        """Return the processes in a host's network namespace, however they came there."""
        try:
            wanted = Path("/run/netns", self.netns(name)).stat().st_ino
        except FileNotFoundError:
            return []
        return [pid for pid in pids() if inode(pid, "net") == wanted]

    def holders(self) -> list[int]:
        """Return the processes that hold this lab's mount namespaces open."""
        mark = b"VBRCORE_LAB_HOLDS=" + os.fsencode(self.directory)
        return [pid for pid in pids() if mark in environment(pid)]

    def kill(self, name: str) -> int:
        count = 0
        while found := self.processes(name):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            count = max(count, len(found))
            time.sleep(0.02)
        return count

    def inside(self, name: str) -> list[str]:
        """Return the words before a command that runs on a host."""
        pid = self.host(name)["holder"]
        if inode(pid, "mnt") != self.host(name)["mounts"]:
            raise Refused(f"the namespaces of {name} are gone: script/lab down, then up")
        spaces = [f"--mount=/proc/{pid}/ns/mnt", f"--uts=/proc/{pid}/ns/uts", f"--net=/run/netns/{self.netns(name)}"]
        words = ["env", "-i", *(f"{key}={value}" for key, value in ENVIRONMENT.items())]
        return ["nsenter", *spaces, "--wd=/", "--", *words]

    def on(self, name: str, *command: str, stdin: str = "", check: bool = True) -> str:
        return run(*self.inside(name), *command, stdin=stdin, check=check)

    def put(self, name: str, path: str, text: str, mode: str = "644") -> None:
        self.on(
            name, "sh", "-c", 'umask 077; mkdir -p "${1%/*}"; cat >"$1"; chmod "$2" "$1"', "-", path, mode, stdin=text
        )

    # Up

    def up(self, mbit: int, delay_ms: int) -> None:
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        with locked(self.directory / "lock"):
            self.state = json.loads(self.file.read_text("utf-8")) if self.file.exists() else {}
            if self.state.get("complete") and self.whole():
                for name in HOSTS:
                    self.mend(name)
                return
            self.clear()
            self.begin()
            self.network(mbit, delay_ms)
            for name in HOSTS:
                self.furnish(name)
            for name in HOSTS:
                self.start(name)
            for name in HOSTS:
                self.wait_for(name)
            self.state["complete"] = True
            self.save()

    def whole(self) -> bool:
        hosts = self.state["hosts"].values()
        return set(self.state["hosts"]) == set(HOSTS) and all(
            inode(one["holder"], "mnt") == one["mounts"] for one in hosts
        )

    def begin(self) -> None:
        (self.directory / "hosts").mkdir(mode=0o700)
        self.images.mkdir(mode=0o755)
        key = self.directory / "id_ed25519"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", key)
        password = self.directory / "password"
        password.touch(0o600)
        password.write_text(secrets.token_hex(12), "ascii")
        self.state = {
            "directory": str(self.directory),
            "identity": str(key),
            "user": USER,
            "password_file": str(password),
            "share": f"//{{}}/{SHARE}",
            "images": str(self.images),
            "hosts": {},
        }

    def network(self, mbit: int, delay_ms: int) -> None:
        with locked(Path("/run/vbrcore-lab.lock")):
            nets = free_nets()
            for site in SITES:
                run("ip", "link", "add", self.bridge(site), "type", "bridge")
                run("ip", "link", "set", self.bridge(site), "up")
            run("ip", "address", "add", f"{nets[0]}.1/24", "dev", self.bridge("main"))
        router = self.netns("router")
        run("ip", "netns", "add", router)
        run("ip", "-n", router, "link", "set", "lo", "up")
        for site, net in zip(SITES, nets, strict=True):
            self.plug(router, f"v{self.tag}r{site}", self.bridge(site), site, f"{net}.254/24")
        run("ip", "netns", "exec", router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        run("ip", "route", "add", f"{nets[1]}.0/24", "via", f"{nets[0]}.254")
        # What goes to the far site waits at the one end of the router, what comes from there at the other.
        words = {self.slow(router, site, mbit, delay_ms) for site in SITES}
        self.state |= {"server": f"{nets[0]}.1", "nets": dict(zip(SITES, nets, strict=True)), "slow_link": words.pop()}
        for number, (name, kind) in enumerate(HOSTS.items(), 10):
            net = self.state["nets"][kind.site]
            run("ip", "netns", "add", self.netns(name))
            run("ip", "-n", self.netns(name), "link", "set", "lo", "up")
            self.plug(self.netns(name), self.link(name), self.bridge(kind.site), "eth0", f"{net}.{number}/24")
            run("ip", "-n", self.netns(name), "route", "add", "default", "via", f"{net}.254")
            self.state["hosts"][name] = {
                "address": f"{net}.{number}",
                "site": kind.site,
                "role": kind.role,
                "python": kind.python,
                "netns": self.netns(name),
            }
        share = next(one["address"] for one in self.state["hosts"].values() if one["role"] == "share")
        self.state["share"] = f"//{share}/{SHARE}"

    @staticmethod
    def plug(netns: str, outer: str, bridge: str, inner: str, address: str) -> None:
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", netns)
        run("ip", "link", "set", outer, "master", bridge, "up")
        run("ip", "-n", netns, "address", "add", address, "dev", inner)
        run("ip", "-n", netns, "link", "set", inner, "up")

    @staticmethod
    def slow(netns: str, device: str, mbit: int, delay_ms: int) -> str:
        """Make one way of the link slow: with netem, or where the kernel has none its rate alone with tbf."""
        add = ["tc", "-n", netns, "qdisc", "add", "dev", device, "root"]
        netem = [*add, "netem", "delay", f"{delay_ms}ms", "rate", f"{mbit}mbit"]
        if subprocess.run(netem, check=False, capture_output=True, timeout=30).returncode == 0:
            return f"netem: {mbit} Mbit/s, {delay_ms} ms"
        run(*add, "tbf", "rate", f"{mbit}mbit", "burst", "64kb", "latency", "100ms")
        return f"tbf: {mbit} Mbit/s (this kernel has no netem: no delay)"

    def furnish(self, name: str) -> None:
        place = self.directory / "hosts" / name
        place.mkdir(parents=True)
        holder = subprocess.Popen(
            ["unshare", "--mount", "--uts", "--propagation", "private", "sleep", "infinity"],
            env={**ENVIRONMENT, "VBRCORE_LAB_HOLDS": str(self.directory)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        outside = inode(os.getpid(), "mnt")
        wait_until(lambda: comm(holder.pid) == "sleep" and inode(holder.pid, "mnt") != outside, f"namespaces of {name}")
        host = self.host(name)
        host |= {"holder": holder.pid, "mounts": inode(holder.pid, "mnt")}
        self.save()
        hidden = {CHECKOUT, (CHECKOUT / ".venv").resolve().parent if (CHECKOUT / ".venv").exists() else CHECKOUT}
        outermost = [
            str(path) for path in hidden if not any(path != other and path.is_relative_to(other) for other in hidden)
        ]
        python = "yes" if host["python"] else "no"
        run(*self.inside(name)[:6], "sh", SCRIPTS / "lab-host", place, name, python, self.images, *outermost)
        names = "".join(f"{one['address']} {other}\n" for other, one in self.state["hosts"].items())
        self.put(name, "/etc/hosts", f"127.0.0.1 localhost\n{self.state['server']} server\n{names}")
        self.put(name, "/etc/hostname", f"{name}\n")
        self.put(name, "/etc/machine-id", f"{uuid.uuid4().hex}\n")
        self.put(name, f"{ROOT}/.ssh/authorized_keys", (self.directory / "id_ed25519.pub").read_text("utf-8"), "600")
        self.put(name, "/etc/ssh/sshd_config", SSHD)
        self.on(
            name,
            "sh",
            "-c",
            "rm -f /etc/ssh/ssh_host_*; exec ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key",
        )
        host["host_key"] = " ".join(self.on(name, "cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()[:2])
        self.add_user(name)
        if host["role"] == "kvm":
            self.put(name, "/etc/libvirt/libvirtd.conf", f'host_uuid = "{uuid.uuid4()}"\n')
            self.put(name, "/etc/libvirt/qemu.conf", "cgroup_controllers = []\n")
            self.on(name, "sh", "-c", "rm -rf /etc/libvirt/qemu/*.xml /etc/libvirt/qemu/autostart")
        if host["role"] == "share":
            self.put(name, "/etc/samba/smb.conf", SAMBA)
            self.on(
                name,
                "install",
                "-d",
                "-o",
                USER,
                f"/srv/{SHARE}",
                "/var/log/samba",
                "/var/lib/samba/private",
                "/var/cache/samba",
            )
            self.on(name, "smbpasswd", "-s", "-a", USER, stdin=f"{self.password}\n{self.password}\n")
        self.save()

    @property
    def password(self) -> str:
        return Path(self.state["password_file"]).read_text("ascii")

    def add_user(self, name: str) -> None:
        """Make the bare account: a password and the lab's key, no rights, nothing in its home."""
        self.on(name, "useradd", "-m", "-s", "/bin/sh", USER)
        crypted = run("openssl", "passwd", "-6", "-stdin", stdin=self.password).strip()
        self.on(name, "chpasswd", "-e", stdin=f"{USER}:{crypted}\n")
        self.on(name, "install", "-d", "-m", "700", "-o", USER, "-g", USER, f"/home/{USER}/.ssh")
        keys = f"/home/{USER}/.ssh/authorized_keys"
        self.on(name, "install", "-m", "600", "-o", USER, "-g", USER, f"{ROOT}/.ssh/authorized_keys", keys)

    # A host's programs

    def start(self, name: str) -> None:
        self.on(name, "/usr/sbin/sshd", "-E", "/var/log/sshd.log")
        role = self.host(name)["role"]
        if role == "share":
            self.on(name, "/usr/sbin/smbd", "-D")
        if role == "kvm":
            self.on(name, "/usr/sbin/virtlogd", "-d")
            # Where process 1 does not reap orphans at once, libvirt waits for its QEMUs: see script/libvirt-up.
            reaper = ["tini", "-s", "--"] if shutil.which("tini") else []
            log = "LIBVIRT_LOG_OUTPUTS=3:file:/var/log/libvirt/libvirtd.log"
            subprocess.Popen(
                [*self.inside(name), log, *reaper, "/usr/sbin/libvirtd"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait_for(self, name: str) -> None:
        host = self.host(name)
        wait_until(lambda: self.listens(name, 22), f"sshd of {name}")
        if host["role"] == "share":
            wait_until(lambda: self.listens(name, 445), f"smbd of {name}")
        if host["role"] == "kvm":
            probe = [*self.inside(name), "virsh", "-q", "-c", "qemu:///system", "uri"]
            answers = lambda: subprocess.run(probe, check=False, capture_output=True, timeout=60).returncode == 0  # noqa: E731
            wait_until(answers, f"libvirtd of {name}", 60)

    def listens(self, name: str, port: int) -> bool:
        return bool(self.on(name, "ss", "-Hltn", f"sport = :{port}").strip())

    # Accidents

    def cut(self, name: str) -> None:
        self.host(name)
        run("ip", "link", "set", self.link(name), "down")

    def mend(self, name: str) -> None:
        """Connect a host again, and start one that was killed as a machine that boots: with an empty /run."""
        self.host(name)
        run("ip", "link", "set", self.link(name), "up")
        if not self.processes(name):
            self.on(name, "sh", "-c", "find /run -mindepth 1 -delete; install -d /run/sshd /run/samba /run/lock")
            self.start(name)
            self.wait_for(name)

    # Down

    def down(self) -> None:
        if self.directory.exists():
            with locked(self.directory / "lock"):
                self.clear()
            shutil.rmtree(self.directory)
        else:
            self.clear()

    def clear(self) -> None:
        """Take away everything on this machine that carries the tag, and all files but the lock."""
        names = [one for one in run("ip", "netns", "list").split() if one.startswith(self.netns(""))]
        for netns in names:
            self.kill(netns.removeprefix(self.netns("")))
        while holders := self.holders():
            for pid in holders:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for netns in names:
            run("ip", "netns", "delete", netns)
        for one in json.loads(run("ip", "-j", "link", "show")):
            if one["ifname"].startswith((f"v{self.tag}-", f"v{self.tag}r")):
                run("ip", "link", "delete", one["ifname"], check=False)  # the other end's removal took some with it
        for path in self.directory.glob("*"):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        self.state = {}

    def status(self) -> dict[str, Any]:
        cables = {one["ifname"]: "UP" in one["flags"] for one in json.loads(run("ip", "-j", "link", "show"))}
        living = Counter(inode(pid, "net") for pid in pids())
        hosts = {}
        for name, host in self.state.get("hosts", {}).items():
            network = Path("/run/netns", self.netns(name))
            count = living[network.stat().st_ino] if network.exists() else 0
            hosts[name] = host | {"connected": cables.get(self.link(name), False), "processes": count}
        return self.state | {"hosts": hosts, "slow_link_bytes": self.carried()}

    def carried(self) -> dict[str, int]:
        """Count what went over the slow link since the lab is up, per way."""
        if "nets" not in self.state:
            return {}
        links = json.loads(run("ip", "-n", self.netns("router"), "-j", "-s", "link", "show"))
        sent = {one["ifname"]: int(one["stats64"]["tx"]["bytes"]) for one in links}
        return {"to_far": sent["far"], "to_main": sent["main"]}


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def inode(pid: int, space: str) -> int:
    """Return the number of one namespace of a process; 0 where there is no such process."""
    try:
        return Path(f"/proc/{pid}/ns/{space}").stat().st_ino
    except OSError:
        return 0


def comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8").strip()
    except OSError:
        return ""


def environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def free_nets() -> list[str]:
    """Choose two networks that this machine uses nowhere."""
    used = run("ip", "-4", "route", "show", "table", "all")
    for number in range(0, 256, 2):
        nets = [f"10.213.{number}", f"10.213.{number + 1}"]
        if not any(f"{net}." in used for net in nets):
            return nets
    raise Refused("no free network below 10.213.0.0/16")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def arguments() -> argparse.ArgumentParser:
    default = Path("/var/tmp/vbrcore-lab")  # noqa: S108
    parser = argparse.ArgumentParser(prog="lab", description="Real hosts in namespaces of this machine. Needs root.")
    parser.add_argument("--dir", type=Path, default=default, help="everything about the lab lies here (%(default)s)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="make the lab, or mend what is there; prints its status as JSON")
    up.add_argument("--mbit", type=int, default=100, help="rate of the slow link, Mbit/s (%(default)s)")
    up.add_argument("--delay-ms", type=int, default=10, help="its delay each way, where the kernel can (%(default)s)")
    verbs.add_parser("down", help="end every process of it and take everything away")
    verbs.add_parser("status", help="print what there is, as JSON")
    run_on = verbs.add_parser("exec", help="run a command on a host, as root")
    run_on.add_argument("host")
    run_on.add_argument("command", nargs=argparse.REMAINDER)
    for verb, words in (
        ("cut", "take a host's cable out"),
        ("mend", "put it in again, and start a host that was killed"),
        ("kill", "end all processes of a host at once, as a power cut does"),
    ):
        verbs.add_parser(verb, help=words).add_argument("host")
    return parser


def main() -> int:
    options = arguments().parse_args()
    if os.getuid() != 0:
        print("lab: namespaces with real daemons need root", file=sys.stderr)
        return 1
    lab = Lab(options.dir.resolve())
    try:
        match options.verb:
            case "up":
                lab.up(options.mbit, options.delay_ms)
                print(json.dumps(lab.status(), indent=1))
            case "down":
                lab.down()
            case "status":
                print(json.dumps(lab.status(), indent=1))
            case "exec":
                words = lab.inside(options.host)
                os.execvp(words[0], [*words, *(options.command or ["sh"])])  # noqa: S606
            case "kill":
                lab.host(options.host)
                print(f"{lab.kill(options.host)} processes ended")
            case "cut" | "mend":
                getattr(lab, options.verb)(options.host)
    except Refused as refused:
        print(f"lab: {refused}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
