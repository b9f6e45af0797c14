"""The demonstration; see script/demo. A short story with figures, told while it happens."""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import demo_guest

MIB = 1024 * 1024
NEEDED_BYTES = 4 * 1024 * MIB
# Where real files are taken from, until there are enough: of middle size, because mkfs takes long to copy many.
SOURCES = ("/usr/lib", "/usr/bin", "/usr/share", "/usr/include", "/usr/sbin")
SMALLEST_BYTES, LARGEST_BYTES = 16 * 1024, 8 * MIB


class Failed(Exception):
    """The demonstration did not show what it should."""


class Story:
    """What is said, and how many comparisons were made."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.compared = 0

    def chapter(self, text: str) -> None:
        print(f"\n\N{BLACK RIGHT-POINTING SMALL TRIANGLE} {text}  [{time.monotonic() - self.began:.0f} s]", flush=True)

    def tell(self, text: str) -> None:
        print(textwrap.fill(text, 112, initial_indent="  ", subsequent_indent="  "), flush=True)

    def equal(self, what: str, *, equal: bool) -> None:
        """Count a comparison. Raises `Failed` where the two differ."""
        if not equal:
            raise Failed(f"{what}: NOT equal")
        self.compared += 1
        self.tell(f"= {what}: equal")


class Deployment:
    """A home of its own; each command is shown as a user would type it."""

    def __init__(self, home: Path) -> None:
        self.environment = {**os.environ, "VBRCORE_HOME": str(home)}
        self.home = home

    def __call__(self, *args: str | Path) -> str:
        words = [str(arg) for arg in args]
        print(f"  $ vbrcore {shlex.join(words)}", flush=True)
        done = self._run(words)
        if done.returncode:
            raise Failed(f"exit code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def json(self, *args: str | Path) -> Any:
        return json.loads(self(*args, "--json").splitlines()[-1])

    def stop(self) -> None:
        """Stop the service and whatever it runs. Raises `Failed` where a process stays."""
        self._run(["service", "stop"])
        deadline = time.monotonic() + 15
        while left := self._processes():
            if time.monotonic() > deadline:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                raise Failed(f"processes were left behind: {left}")
            time.sleep(0.1)

    def _run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vbrcore", *words],
            check=False,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def _processes(self) -> list[int]:
        mark = b"VBRCORE_HOME=" + os.fsencode(self.home)
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Run a program to its end. Raises `Failed`."""
    done = subprocess.run(
        [str(word) for word in command], check=False, input=stdin, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise Failed(f"{shlex.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def size(count_bytes: float) -> str:
    return f"{count_bytes / MIB:,.1f} MiB"


# --- the machines -----------------------------------------------------------------------------------


def real_files(skip: int, enough_bytes: int) -> Iterator[Path]:
    """Yield files of this system until there are enough bytes of them, after leaving out `skip` bytes."""
    seen = 0
    for source in SOURCES:
        for directory, _, names in os.walk(source):
            for name in sorted(names):
                path = Path(directory, name)
                if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                    continue
                length = path.stat().st_size
                if not SMALLEST_BYTES <= length <= LARGEST_BYTES:
                    continue
                seen += length
                if seen > skip:
                    yield path
                if seen > skip + enough_bytes:
                    return


def make_file_system(image: Path, size_bytes: int, files: Iterator[Path], scratch: Path) -> None:
    """Make a raw image with an ext4 file system that holds copies of `files`."""
    tree = scratch / "tree"
    for number, path in enumerate(files):
        to = tree / str(path.parent).lstrip("/") / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        if number % 500 == 0 and shutil.disk_usage(scratch).free < 1024 * MIB:
            raise Failed(f"less than 1 GiB is free in {scratch}")
        shutil.copyfile(path, to)
    with image.open("wb") as file:
        file.truncate(size_bytes)
    run("mkfs.ext4", "-q", "-F", "-d", tree, image)
    shutil.rmtree(tree)


def change(image: Path, scratch: Path, seed: str) -> None:
    """Write some files into the file system of a raw image and remove one, as a guest might in a day."""
    text, noise = scratch / "report.txt", scratch / "upload.bin"
    text.write_text("".join(f"{seed} line {number}\n" for number in range(300_000)))
    noise.write_bytes(os.urandom(12 * MIB))
    commands = f"write {text} report.txt\nwrite {noise} upload.bin\nrmdir lost+found\n"
    run("debugfs", "-w", "-f", "-", image, stdin=commands)


class Machines:
    """Two machines of one disk each: `web` with a raw disk, `db` with a qcow2 disk."""

    def __init__(self, root: Path) -> None:
        self.lab, self.scratch, self.kept = root / "machines", root / "scratch", root / "kept"
        for directory in (self.lab / "web", self.lab / "db", self.scratch, self.kept):
            directory.mkdir(parents=True)
        self.web = self.lab / "web" / "root.raw"
        self.db = self.lab / "db" / "root.qcow2"
        self.db_raw = self.scratch / "db.raw"  # what db's disk holds; its qcow2 is made from it

    def make(self) -> None:
        make_file_system(self.web, 2048 * MIB, real_files(0, 250 * MIB), self.scratch)
        make_file_system(self.db_raw, 1024 * MIB, real_files(250 * MIB, 150 * MIB), self.scratch)
        self._convert()

    def keep(self, name: str) -> None:
        """Set aside what the disks hold now, to compare with later."""
        run("cp", "--sparse=always", "--reflink=auto", self.web, self.kept / f"web-{name}.raw")
        run("cp", "--sparse=always", "--reflink=auto", self.db_raw, self.kept / f"db-{name}.raw")

    def change(self) -> None:
        change(self.web, self.scratch, "web")
        change(self.db_raw, self.scratch, "db")
        self._convert()

    def _convert(self) -> None:
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.db_raw, self.scratch / "db.qcow2")
        (self.scratch / "db.qcow2").replace(self.db)


# --- what is shown ------------------------------------------------------------------------------------


def backup(story: Story, vbr: Deployment, job: str) -> dict[str, Any]:
    done: dict[str, Any] = vbr.json("job", "run", job)
    if done["result"] != "success":
        raise Failed(f"the session ended as {done['result']}: {vbr('session', 'log', done['session_id'])}")
    rate = done["read_bytes"] / max(done["duration_s"], 0.001)
    story.tell(
        f"{done['result']} in {done['duration_s']:.1f} s: read {size(done['read_bytes'])} ({size(rate)}/s), "
        f"sent {size(done['transferred_bytes'])}, stored {size(done['stored_bytes'])}"
    )
    return done


def points_of(vbr: Deployment, job: str, machine: str) -> list[dict[str, Any]]:
    return [point for point in vbr.json("point", "list", "--job", job) if point["machine"] == machine]


def show_images(story: Story, vbr: Deployment, root: Path) -> None:
    """Two machines in a directory: full, change, increment, restore of both points."""
    machines = Machines(root)
    story.chapter("Two machines with file systems of this system's own files")
    machines.make()
    for path in (machines.web, machines.db):
        used = path.stat().st_blocks * 512
        story.tell(f"{path.relative_to(machines.lab)}: {size(used)} used")
    machines.keep("before")

    story.chapter("A full backup of both")
    vbr("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={machines.lab}")
    vbr("repository", "add", "main", "--path", root / "repository", "--reserve", "256M")
    vbr("job", "create", "nightly", "--hypervisor", "lab", "--machine", "*", "--repository", "main")
    full = backup(story, vbr, "nightly")

    story.chapter("A day passes: both get new files, one directory goes")
    machines.change()
    machines.keep("after")

    story.chapter("An incremental backup")
    increment = backup(story, vbr, "nightly")
    story.tell(f"stored {increment['stored_bytes'] / max(full['stored_bytes'], 1):.1%} of what the full stored")

    story.chapter("Both points of both machines, restored and compared")
    for machine, disk, image_format in (("web", "root.raw", "raw"), ("db", "root.qcow2", "qcow2")):
        points = points_of(vbr, "nightly", machine)
        if [point["kind"] for point in points] != ["full", "increment"]:
            raise Failed(f"{machine} should have a full and an increment: {points}")
        for point, when in zip(points, ("before", "after"), strict=True):
            output = root / "restored" / f"{machine}-{when}.{image_format}"
            vbr("restore", "disk", point["point_id"], disk, "--output", output, "--format", image_format)
            kept = machines.kept / f"{machine}-{when}.raw"
            story.equal(f"{machine}/{disk} {when} the change", equal=same(kept, output, image_format))
            if image_format == "raw":
                run("e2fsck", "-f", "-n", output)
    vbr("verify", points[-1]["point_id"], "--deep")


def same(kept: Path, restored: Path, image_format: str) -> bool:
    """Compare a raw file with a restored one of any format, byte for byte."""
    if image_format == "raw":
        command = ["cmp", "--silent", str(kept), str(restored)]
    else:
        command = ["qemu-img", "compare", "-f", "raw", "-F", image_format, str(kept), str(restored)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def show_guest(story: Story, vbr: Deployment, root: Path, guest: demo_guest.Guest) -> None:
    """A running guest: backed up while it writes, then once more while it is held, and compared."""
    story.chapter("A guest boots in libvirt and writes numbered records to its file system")
    disk = root / "scratch" / "guest.raw"
    make_file_system(disk, 1024 * MIB, real_files(400 * MIB, 120 * MIB), root / "scratch")
    guest.start(disk)
    guest.wait_for_record(5)
    story.tell(f"{guest.name} runs; record {guest.records()} is on its disk")

    story.chapter("A full backup while it writes")
    vbr("hypervisor", "add", "kvm", "--plugin", "kvm", "--set", f"uri={guest.uri}")
    vbr("job", "create", "live", "--hypervisor", "kvm", "--machine", guest.name, "--repository", "main")
    first = guest.records()
    backup(story, vbr, "live")
    last = guest.records()
    story.tell(f"the guest went on from record {first} to record {last} meanwhile")

    story.chapter("It writes on, is held still, and is backed up incrementally")
    guest.wait_for_record(last + 20)
    guest.hold()
    backup(story, vbr, "live")
    frozen = root / "kept" / "guest.raw"
    run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", guest.image, frozen)
    guest.go_on()

    story.chapter("Both points, restored")
    full, increment = points_of(vbr, "live", guest.name)
    disk_name = full["disks"][0]["name"]
    restored = [root / "restored" / f"guest-{when}.raw" for when in ("running", "held")]
    for point, output in zip((full, increment), restored, strict=True):
        vbr("restore", "disk", point["point_id"], disk_name, "--output", output)
    story.equal("the guest's disk as it was held", equal=same(frozen, restored[1], "raw"))
    run_file_system_check(restored[0])
    records = demo_guest.records_on(restored[0])
    one_moment = records == list(range(1, len(records) + 1)) and first <= len(records) <= last
    story.equal(
        f"the guest's disk while it wrote is one moment: records 1 to {len(records)}, none missing", equal=one_moment
    )


def run_file_system_check(image: Path) -> None:
    """Replay the journal, as the next boot would, and check. Exit code 1 says that it was replayed."""
    done = subprocess.run(["e2fsck", "-f", "-p", str(image)], check=False, capture_output=True, text=True)
    if done.returncode not in {0, 1}:
        raise Failed(f"the file system of {image.name} is damaged: {done.stdout}{done.stderr}")


def demonstrate(story: Story, root: Path) -> None:
    vbr = Deployment(root / "home")
    (root / "restored").mkdir()
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(vbr.stop)
        show_images(story, vbr, root)
        if why := demo_guest.missing():
            story.chapter(f"No running guest is shown: {why}")
            return
        guest = demo_guest.Guest()
        cleanup.callback(guest.remove)
        show_guest(story, vbr, root, guest)


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/demo", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="where to work (/var/tmp)")  # noqa: S108
    args = parser.parse_args()
    end_cleanly_on(signal.SIGTERM, signal.SIGHUP)
    story = Story()
    root = Path(tempfile.mkdtemp(prefix="vbr-demo-", dir=args.directory))
    try:
        if shutil.disk_usage(root).free < NEEDED_BYTES:
            raise Failed(f"{args.directory} has less than {size(NEEDED_BYTES)} free")
        demonstrate(story, root)
    except (Failed, demo_guest.GuestFailed) as error:
        print(f"\n\N{BALLOT X} {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"\n\N{CHECK MARK} {story.compared} comparisons, all equal, in {time.monotonic() - story.began:.0f} s.")
    return 0


def end_cleanly_on(*signals: signal.Signals) -> None:
    """Let a signal end the program as Ctrl-C does, with all that it cleans up."""
    leave: Callable[[int, object], None] = lambda number, _: sys.exit(128 + number)  # noqa: E731
    for number in signals:
        signal.signal(number, leave)


if __name__ == "__main__":
    sys.exit(main())
