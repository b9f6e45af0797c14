"""What travels to another server: all that a mover there imports, for its Python, the same bytes for the same files."""

import ast
import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest

import vbrcore
from vbrcore.model.errors import ServerUnsuitable, WheelsMissing
from vbrcore.transport import boot
from vbrcore.transport.bundle import Bundle, Bundles, collect, mover_halves, platform_of
from vbrcore.transport.wheels import Platform, Wanted, contents, fits

HERE = Platform(sys.version_info.minor, os.uname().machine, (2, 36))
OTHER = Platform(12 if HERE.minor != 12 else 13, HERE.machine, (2, 36))
OURS = ("vbrcore", "vbr_images", "vbr_kvm")


@pytest.mark.parametrize(
    ("tag", "fitting"),
    [
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", True),
        ("cp312-cp312-manylinux2014_x86_64", False),
        ("cp311-abi3-manylinux_2_28_x86_64", True),
        ("cp36-abi3-manylinux2010_x86_64", True),
        ("cp313-abi3-manylinux_2_28_x86_64", False),
        ("cp311-abi3-manylinux_2_34_x86_64", False),
        ("cp311-abi3-manylinux_2_28_aarch64", False),
        ("cp311-cp311-musllinux_1_2_x86_64", False),
        ("cp311-cp311-win_amd64", False),
        ("cp311-cp311-macosx_11_0_x86_64", False),
        ("cp311-cp311-linux_x86_64", True),
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp311-none-any", True),
        ("pp311-pypy311_pp73-manylinux2014_x86_64", False),
    ],
)
def test_a_wheel_is_taken_for_what_runs_it(tag: str, *, fitting: bool) -> None:
    assert fits(tag, Platform(11, "x86_64", (2, 31))) is fitting


def test_the_program_that_starts_there_can_stand_between_apostrophes() -> None:
    text = Path(boot.__file__).read_text()
    assert "'" not in text
    assert "\\" not in text


def test_what_is_there_is_understood_or_named() -> None:
    facts = {"python": [3, 12, 1], "implementation": "cpython", "system": "Linux", "machine": "x86_64"}
    assert platform_of(facts | {"libc": "glibc 2.31"}, "far") == Platform(12, "x86_64", (2, 31))
    for change, words in (
        ({"libc": ""}, "another libc"),
        ({"implementation": "pypy"}, "far has pypy"),
        ({"system": "FreeBSD"}, "on FreeBSD"),
        ({"python": [3, 14, 0]}, "far has Python 3.14"),
        ({"python": "3.12"}, "cannot be understood"),
    ):
        with pytest.raises(ServerUnsuitable, match=words):
            platform_of(facts | {"libc": "glibc 2.31"} | change, "far")


def imports_of(path: Path) -> set[str]:
    """Return what a module imports, wherever in it, but for the eyes of a type checker."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def test_what_a_mover_and_a_transport_import_is_in_the_bundle(tmp_path: Path) -> None:
    """Also what they import late: every import statement of every module that is reached from the two entries."""
    there = {name for name in collect(HERE, tmp_path, mover_halves()) if name.endswith(".py")}
    roots = {Path(vbrcore.__file__).parents[1]}
    roots |= {Path(sys.modules[half.package].__file__ or "").parents[1] for half in mover_halves()}
    waiting = ["vbrcore.mover.main", "vbrcore.transport.server", *(half.module for half in mover_halves())]
    seen: set[str] = set()
    outside: set[str] = set()
    while waiting:
        module = waiting.pop()
        name = module.replace(".", "/")
        if module in seen or module.split(".")[0] not in OURS:
            outside |= {module.split(".")[0]} - set(OURS)
            continue
        seen.add(module)
        source = next(
            (
                root / path
                for root in roots
                for path in (f"{name}.py", f"{name}/__init__.py")
                if (root / path).is_file()
            ),
            None,
        )
        if source is None:
            continue  # a name inside a module
        relative = f"{name}.py" if source.name != "__init__.py" else f"{name}/__init__.py"
        assert relative in there, f"{module} is imported there but not in the bundle"
        waiting += sorted(imports_of(source))
    assert "vbrcore.mover.source" in seen
    assert "vbrcore.chain.writer" in seen
    assert "vbr_images.mover" in seen
    packages = {name.split("/")[0].split(".")[0] for name in collect(HERE, tmp_path, mover_halves())}
    assert {name for name in outside if name not in sys.stdlib_module_names} - packages == set()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundles(tmp_path_factory.mktemp("cache")).bundle_for(HERE)


def test_every_mover_module_runs_from_the_bundle_alone(bundle: Bundle, tmp_path: Path) -> None:
    """With nothing else on the path: no site directory, no environment, no checkout."""
    with zipfile.ZipFile(bundle.path) as archive:
        archive.extractall(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "import vbrcore.mover.source, vbrcore.mover.target, vbrcore.mover.restore, vbrcore.mover.copying;"
        "import vbrcore.transport.server, vbrcore.transport.stats, psutil, vbrcore.mover.tls, vbrcore.mover.door;"
        "from vbrcore.plugins.loader import mover_half; print(sorted(mover_half('images').READERS));"
        "print([m for m in sys.modules if m.startswith(('vbrcore.cli', 'vbrcore.service', 'asyncssh', 'sqlite'))])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].startswith("['")
    assert done.stdout.splitlines()[1] == "[]"
    usage = subprocess.run([sys.executable, "-I", "-S", tmp_path, "job-manager"], check=False)
    assert usage.returncode == 2


def test_the_same_files_make_the_same_archive_and_it_is_made_once(bundle: Bundle, tmp_path: Path) -> None:
    bundles = Bundles(tmp_path)
    again = bundles.bundle_for(HERE)
    assert (again.digest, again.archive_sha256) == (bundle.digest, bundle.archive_sha256)
    made = Path(again.path).stat().st_mtime_ns
    assert bundles.bundle_for(HERE) == again
    assert Path(again.path).stat().st_mtime_ns == made
    with Path(again.path).open("r+b") as file:
        file.truncate(1000)
    assert bundles.bundle_for(HERE) == again
    assert Path(again.path).stat().st_size == again.archive_bytes


def test_wheels_that_are_missing_are_named_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(WheelsMissing) as caught:
        collect(OTHER, tmp_path / "wheels", ())
    text = str(caught.value)
    assert f"CPython 3.{OTHER.minor}" in text
    assert "blake3==" in text
    assert "psutil==" not in text  # its installed files serve every version
    assert f"pip download --no-deps --only-binary=:all: --implementation cp --python-version 3.{OTHER.minor}" in text
    assert f"--dest {tmp_path / 'wheels'}" in text


def test_a_wheel_in_the_directory_serves_where_what_is_installed_cannot(tmp_path: Path) -> None:
    version = importlib.metadata.version("msgspec")
    own = f"cp3{OTHER.minor}"
    with zipfile.ZipFile(tmp_path / f"msgspec-{version}-{own}-{own}-manylinux2014_{OTHER.machine}.whl", "w") as wheel:
        wheel.writestr("msgspec/__init__.py", b"there = True")
        wheel.writestr("msgspec/_core.pyi", b"")
        wheel.writestr("msgspec-0.dist-info/RECORD", b"")
    (only,) = contents((Wanted("msgspec"),), OTHER, tmp_path)
    assert (only.name, only.read()) == ("msgspec/__init__.py", b"there = True")
    too_new = msgspec.structs.replace(OTHER, glibc=(2, 12))
    with pytest.raises(WheelsMissing, match=r"glibc 2\.12"):
        contents((Wanted("msgspec"),), too_new, tmp_path)
