"""Where the files of the distributions in a bundle come from: what is installed here, or a directory of wheels."""

import importlib.metadata
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import msgspec

from vbrcore.model.errors import WheelsMissing

MINORS = (11, 12, 13)  # CPython 3.11 to 3.13
_NEVER = ("__pycache__", ".pyi", ".pyc", ".pxd", ".pyx", ".c", ".h", ".hpp")
_OLD_NAMES = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_GLIBC_OF_WHEELS = ((2, 17), (2, 28), (2, 34))


class Platform(msgspec.Struct, frozen=True):
    """What a bundle is for: CPython 3.`minor` on Linux with glibc at least `glibc`."""

    minor: int
    machine: str
    glibc: tuple[int, int]

    def __str__(self) -> str:
        return f"CPython 3.{self.minor} on Linux {self.machine} with glibc {self.glibc[0]}.{self.glibc[1]}"


class Wanted(msgspec.Struct, frozen=True):
    """A distribution for the bundle. `only`: beginnings of the names that are wanted of it (empty: all)."""

    name: str
    only: tuple[str, ...] = ()


class Content(msgspec.Struct, frozen=True):
    """One file for a bundle: its name there, and where it lies: as a file, or as a member of the wheel `path`."""

    name: str
    path: Path
    member: str = ""

    def read(self) -> bytes:
        if not self.member:
            return self.path.read_bytes()
        with zipfile.ZipFile(self.path) as wheel:
            return wheel.read(self.member)


def fits(tag: str, platform: Platform) -> bool:
    """Return whether a wheel with this tag (`cp311-abi3-manylinux_2_28_x86_64`) runs there."""
    pythons, abis, places = (part.split(".") for part in tag.split("-"))
    own = f"cp3{platform.minor}"
    return any(
        (abi == own and python == own)
        or (abi == "abi3" and python.startswith("cp3") and int(python[3:] or 0) <= platform.minor)
        or (abi == "none" and python in {"py3", f"py3{platform.minor}", own})
        for python in pythons
        for abi in abis
    ) and any(_runs_at(place, platform) for place in places)


def _runs_at(place: str, platform: Platform) -> bool:
    if place == "any":
        return True
    if not place.endswith(f"_{platform.machine}"):
        return False
    level = place.removesuffix(f"_{platform.machine}")
    if level in _OLD_NAMES:
        return _OLD_NAMES[level] <= platform.glibc
    if level.startswith("manylinux_"):
        major, minor = level.removeprefix("manylinux_").split("_")
        return (int(major), int(minor)) <= platform.glibc
    return level == "linux"  # built on this machine: it runs where this machine's glibc does


def contents(wanted: Iterable[Wanted], platform: Platform, wheels: Path) -> list[Content]:
    """Return the files of all distributions, in the versions that are installed here.

    Raises `WheelsMissing` with all that is missing and the command that fetches it.
    """
    found: list[Content] = []
    missing: list[str] = []
    for item in wanted:
        distribution = importlib.metadata.distribution(item.name)
        files = list(_installed(distribution, item, platform) or _packed(distribution, item, platform, wheels))
        if not files:
            missing.append(f"{item.name}=={distribution.version}")
        found += files
    if missing:
        raise WheelsMissing(
            f"no wheels for {platform}: {', '.join(missing)}; fetch them with: {_command(missing, platform, wheels)}"
        )
    return found


def _installed(
    distribution: importlib.metadata.Distribution, item: Wanted, platform: Platform
) -> Iterator[Content] | None:
    """Return the files as installed here, if they run there too."""
    lines = (distribution.read_text("WHEEL") or "").splitlines()
    tags = [line.removeprefix("Tag:").strip() for line in lines if line.startswith("Tag:")]
    if not any(fits(tag, platform) for tag in tags):
        return None
    names = [str(path) for path in distribution.files or ()]
    return (Content(name, Path(str(distribution.locate_file(name)))) for name in names if _is_wanted(name, item))


def _packed(
    distribution: importlib.metadata.Distribution, item: Wanted, platform: Platform, wheels: Path
) -> Iterator[Content]:
    """Yield the files of the first wheel in the directory that is of this version and runs there."""
    prefix = f"{item.name.replace('-', '_')}-{distribution.version}-".lower()
    for path in sorted(wheels.glob("*.whl")):
        if path.name.lower().startswith(prefix) and fits("-".join(path.stem.split("-")[-3:]), platform):
            with zipfile.ZipFile(path) as wheel:
                names = sorted(wheel.namelist())
            yield from (Content(name, path, name) for name in names if _is_wanted(name, item))
            return


def _is_wanted(name: str, item: Wanted) -> bool:
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == ".." or name.endswith(("/", *_NEVER)) or "__pycache__" in parts:
        return False
    if parts[0].endswith(".dist-info"):
        return "licenses" in parts  # what is copied to other machines keeps its licence
    return not item.only or name.startswith(item.only)


def _command(missing: Iterable[str], platform: Platform, wheels: Path) -> str:
    levels = [f"manylinux_{a}_{b}_{platform.machine}" for a, b in _GLIBC_OF_WHEELS if (a, b) <= platform.glibc]
    levels.append(f"manylinux2014_{platform.machine}")
    places = " ".join(f"--platform {level}" for level in levels)
    return (
        f"python3 -m pip download --no-deps --only-binary=:all: --implementation cp --python-version 3.{platform.minor}"
        f" {places} --dest {wheels} {' '.join(missing)}"
    )
