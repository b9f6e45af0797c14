"""What a program pulls in: commands start fast, and a mover is small enough to travel."""

import subprocess
import sys

import pytest

HEAVY = {"textual", "rich", "sqlite_utils", "libvirt", "starlette", "uvicorn"}
# msgspec looks for typing_extensions and does without it, as it must where a mover was sent to.
MOVER = {"vbrcore", "msgspec", "typing_extensions", "zstandard", "xxhash", "blake3", "cryptography"}


def imported(statement: str) -> set[str]:
    """Return the top-level modules that a statement pulls in beyond the standard library and a bare interpreter's."""
    program = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    names = {name.partition(".")[0] for name in done.stdout.split()}
    return {name for name in names if name not in sys.stdlib_module_names and not name.startswith("_cython")}


@pytest.mark.parametrize(
    "statement",
    [
        "import vbrcore",
        "import vbrcore.__main__",
        "import vbrcore.model.errors",
        "import vbrcore.api.operations",
        "import vbrcore.api.client",
        "import vbrcore.cli.main; vbrcore.cli.main.build_parser()",
        "import vbrcore.mover.main",
        "import vbrcore.transport.server",
        "import vbrcore.manager.main",
        "import vbrcore.plugins.loader",
    ],
)
def test_heavy_packages_are_imported_only_where_they_are_used(statement: str) -> None:
    assert imported(statement) & HEAVY == set()


def test_a_source_mover_needs_little() -> None:
    assert imported("import vbrcore.mover.main, vbrcore.mover.source") <= MOVER


def test_a_target_mover_needs_the_index_as_well() -> None:
    assert imported("import vbrcore.mover.main, vbrcore.mover.target") <= MOVER | {"lmdb"}


@pytest.mark.parametrize("package", ["vbr_images", "vbr_kvm"])
def test_the_mover_half_of_a_plugin_needs_little(package: str) -> None:
    assert imported(f"import {package}.mover") <= MOVER | {package}
