"""What is built for others: each distribution carries its packages, and no folder of the checkout by accident."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


def wheel(folder: str, to: Path) -> list[str]:
    """Build the wheel of one folder without a network; return the names in it."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", to],
        cwd=CHECKOUT / folder,
        check=True,
        capture_output=True,
    )
    (built,) = to.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


@pytest.mark.parametrize(
    ("folder", "packages", "entry_points"),
    [
        (".", {"vbrcore", "vbr_tui"}, "vbrcore = vbrcore.__main__:main"),
        ("plugins/images", {"vbr_images"}, "images = vbr_images.plugin"),
        ("plugins/kvm", {"vbr_kvm"}, "kvm = vbr_kvm.plugin"),
    ],
)
def test_a_wheel_holds_its_packages_and_nothing_else(
    folder: str, packages: set[str], entry_points: str, tmp_path: Path
) -> None:
    names = wheel(folder, tmp_path)
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == packages
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        (text,) = (archive.read(name).decode() for name in names if name.endswith("/entry_points.txt"))
    assert entry_points in text


def test_the_main_wheel_carries_what_is_no_python(tmp_path: Path) -> None:
    names = wheel(".", tmp_path)
    assert {"vbrcore/py.typed", "vbr_tui/tui.tcss"} <= set(names)
    assert any(name.endswith("LICENSE") for name in names)
