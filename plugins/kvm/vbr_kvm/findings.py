"""What the user of a managed server may do there with its machines: asked by one constant script, judged purely."""

from collections.abc import Iterator

import msgspec

from vbrcore.model.errors import HypervisorFailed
from vbrcore.model.serverfacts import Finding
from vbrcore.plugins.ssh import SshHost

# The monolithic daemon, or the proxy of the modular ones, knows networks and storage too, so its socket comes first.
_ASK = """
echo "uid $(id -u)"
echo "gid $(id -g)"
for path in /run/libvirt/libvirt-sock /run/libvirt/virtqemud-sock /var/run/libvirt/libvirt-sock; do
    if [ -S "$path" ]; then
        echo "socket $path"
        if [ -w "$path" ]; then echo "socket_writable yes"; fi
        break
    fi
done
if id -nG | tr ' ' '\\n' | grep -qx libvirt; then echo "in_group yes"; fi
for program in qemu-nbd qemu-img; do
    if command -v "$program" >/dev/null 2>&1; then echo "program $program"; fi
done
for version in python3.13 python3.12 python3.11; do
    if command -v "$version" >/dev/null 2>&1; then echo "python $version"; fi
done
images=/var/lib/libvirt/images
if [ -d "$images" ]; then
    if [ -x "$images" ] && [ -w "$images" ]; then echo "images_writable yes"; fi
    unreadable=$(find "$images" -maxdepth 1 -type f ! -readable 2>/dev/null | head -n 1)
    if [ "$unreadable" ]; then echo "unreadable $unreadable"; fi
fi
"""
_LEVELS = ("error", "warning", "note")
_PROGRAMS = ("qemu-nbd", "qemu-img")


class KvmFacts(msgspec.Struct, frozen=True):
    """`socket`: that of libvirt ("": none). `unreadable`: an image that the user cannot read ("": none was found)."""

    user: str
    uid: int
    gid: int
    socket: str = ""
    socket_writable: bool = False
    in_group: bool = False
    programs: frozenset[str] = frozenset()
    python: str = ""
    images_writable: bool = False
    unreadable: str = ""


def ask(host: SshHost) -> KvmFacts:
    """Look what there is. Raises `HypervisorFailed` where the answer makes no sense."""
    text = host.run(_ASK).decode(errors="replace")
    said: dict[str, list[str]] = {}
    for key, _, value in (line.partition(" ") for line in text.splitlines()):
        said.setdefault(key, []).append(value)
    try:
        return KvmFacts(
            user=host.user,
            uid=int(said["uid"][0]),
            gid=int(said["gid"][0]),
            socket=said.get("socket", [""])[0],
            socket_writable="socket_writable" in said,
            in_group="in_group" in said,
            programs=frozenset(said.get("program", [])),
            python=said.get("python", [""])[0],
            images_writable="images_writable" in said,
            unreadable=said.get("unreadable", [""])[0],
        )
    except (KeyError, ValueError) as error:
        raise HypervisorFailed(f"{host.where}: it does not say what is there: {text[:200]!r}") from error


def kvm_findings(facts: KvmFacts) -> tuple[Finding, ...]:
    """Return what keeps machines there from being backed up or restored, worst first, and what to do about it."""
    found = [*_libvirt(facts), *_programs(facts), *_files(facts), *_python(facts)]
    return tuple(sorted(found, key=lambda finding: _LEVELS.index(finding.level)))


def _libvirt(facts: KvmFacts) -> Iterator[Finding]:
    if not facts.socket:
        yield Finding(
            "libvirt_missing",
            "libvirt has no socket below /run/libvirt",
            "install libvirt-daemon-system and start libvirtd, or the modular daemons with virtproxyd",
        )
    elif not facts.socket_writable or (facts.uid and not facts.in_group):
        yield Finding(
            "libvirt_denied",
            f"user {facts.user} may not use libvirt's socket {facts.socket}",
            f"make the user a member of the group: usermod -aG libvirt {facts.user}",
        )


def _programs(facts: KvmFacts) -> Iterator[Finding]:
    missing = [program for program in _PROGRAMS if program not in facts.programs]
    if missing:
        yield Finding(
            "qemu_utils_missing",
            f"{' and '.join(missing)} cannot be found",
            "install qemu-utils (or qemu-img): without it machines that are off are not read, and none is restored",
            level="warning",
        )


def _files(facts: KvmFacts) -> Iterator[Finding]:
    if facts.unreadable:
        yield images_unreadable(facts.user, facts.unreadable)
    if not facts.images_writable:
        yield Finding(
            "images_read_only",
            f"user {facts.user} cannot make files in /var/lib/libvirt/images",
            "restore into a directory of the user's with --directory, or log in as root",
            level="warning",
        )


def images_unreadable(user: str, path: str, others: int = 0) -> Finding:
    """Say that a user cannot read an image, and as many others."""
    return Finding(
        "images_unreadable",
        f"user {user} cannot read {path}" + (f" and {others} other images" if others else ""),
        f"log in as root, or let the user read the images (setfacl -m u:{user}:r FILE, and u:{user}:x for the"
        " directories above): else machines that are off, and their NVRAM and TPM state, are not read",
        level="warning",
    )


def _python(facts: KvmFacts) -> Iterator[Finding]:
    if not facts.python:
        yield Finding(
            "host_mode_missing",
            "no Python from 3.11 to 3.13 is there: mode host is not possible, mode tunnel is, by a proxy elsewhere",
            "nothing need be done; with python3 and the role proxy its disks are read on the host itself",
            level="note",
        )
