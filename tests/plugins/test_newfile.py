"""New files: without a name until they are complete, and where they are confined, below their directories only."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vbrcore.model.errors import AlreadyExists, OutputRefused, SinkWriteFailed
from vbrcore.plugins.api import Confinement
from vbrcore.plugins.image import create_image
from vbrcore.plugins.newfile import NewFile

MIB = 1024 * 1024
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_file_gets_its_name_with_commit(tmp_path: Path, unnamed: bool) -> None:
    file = NewFile(str(tmp_path / "new"), unnamed=unnamed)
    os.write(file.descriptor, b"content")
    assert "new" not in names(tmp_path)
    file.commit()
    file.close()
    assert names(tmp_path) == ["new"]
    assert (tmp_path / "new").read_bytes() == b"content"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("unnamed", [True, False])
def test_without_commit_nothing_remains(tmp_path: Path, unnamed: bool) -> None:
    file = NewFile(str(tmp_path / "new"), unnamed=unnamed)
    os.write(file.descriptor, b"content")
    file.close()
    file.close()
    assert names(tmp_path) == []


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("rival", ["file", "link"])
def test_a_name_that_was_taken_meanwhile_is_not_replaced(tmp_path: Path, unnamed: bool, rival: str) -> None:
    file = NewFile(str(tmp_path / "new"), unnamed=unnamed)
    if rival == "file":
        (tmp_path / "new").write_text("mine")
    else:
        (tmp_path / "new").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AlreadyExists):
        file.commit()
    file.close()
    assert names(tmp_path) == ["new"]
    if rival == "file":
        assert (tmp_path / "new").read_text() == "mine"


def test_what_was_exchanged_in_the_staging_place_is_not_given_the_name(tmp_path: Path) -> None:
    file = NewFile(str(tmp_path / "new"), unnamed=False)
    os.write(file.descriptor, b"ours")
    staged = next(tmp_path.glob(".vbr-*/new"))
    (tmp_path / "theirs").write_bytes(b"theirs")
    staged.rename(tmp_path / "kept")
    staged.symlink_to(tmp_path / "theirs")
    file.commit()
    file.close()
    assert (tmp_path / "new").read_bytes() == b"ours"
    assert not (tmp_path / "new").is_symlink()


@pytest.mark.parametrize("image_format", ["raw", "qcow2", "vmdk", "vhdx"])
def test_after_a_kill_nothing_remains(tmp_path: Path, image_format: str) -> None:
    script = (
        "import sys; from vbrcore.plugins.image import create_image\n"
        "writer = create_image(sys.argv[1], sys.argv[2], 1 << 30)\n"
        "writer.write_from(0, memoryview(b'x' * 512)); print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "new"), image_format]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert names(tmp_path) == []


def test_a_vmdk_notes_its_own_name(tmp_path: Path) -> None:
    writer = create_image(str(tmp_path / "new.vmdk"), "vmdk", MIB)
    writer.finish()
    writer.close()
    assert b'SPARSE "new.vmdk"' in (tmp_path / "new.vmdk").read_bytes()[: 64 * 1024]


# --- confined -----------------------------------------------------------------------------------------


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    """Give a directory for restores; beside it lies one that is none of theirs."""
    for name in ("allowed/inner", "outside/inner"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path / "allowed"


def confined(allowed: Path) -> Confinement:
    return Confinement((str(allowed),))


@pytest.mark.parametrize("place", ["new", "inner/new"])
@pytest.mark.parametrize("image_format", ["raw", "qcow2", "vmdk", "vhdx"])
def test_below_the_directory_a_file_is_made(allowed: Path, place: str, image_format: str) -> None:
    writer = create_image(str(allowed / place), image_format, MIB, confined(allowed))
    writer.finish()
    writer.close()
    assert (allowed / place).is_file()


@as_root
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_file_is_given_to_its_owner(allowed: Path, image_format: str) -> None:
    writer = create_image(str(allowed / "new"), image_format, MIB, Confinement((str(allowed),), 65534, 65533))
    writer.finish()
    writer.close()
    made = (allowed / "new").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (65534, 65533, 0o600)


@pytest.mark.parametrize(
    "place", ["{outside}/new", "{allowed}/../outside/new", "{allowed}/inner/../../outside/new", "{allowed}", "new", "/"]
)
def test_another_place_is_refused(allowed: Path, place: str) -> None:
    path = place.format(allowed=allowed, outside=allowed.parent / "outside")
    with pytest.raises(OutputRefused):
        create_image(path, "raw", MIB, confined(allowed))
    with pytest.raises(OutputRefused):
        create_image(path, "raw", MIB, Confinement(()))
    assert names(allowed.parent / "outside") == ["inner"]


@pytest.mark.parametrize("target", ["../outside", "inner"])
@pytest.mark.parametrize("place", ["link/new", "link/inner/new", "inner/deep/new"])
def test_no_link_is_followed_to_the_place(allowed: Path, target: str, place: str) -> None:
    (allowed / "link").symlink_to(target)
    (allowed / "inner" / "deep").symlink_to(allowed.parent / "outside")
    with pytest.raises(OutputRefused, match="not followed"):
        create_image(str(allowed / place), "raw", MIB, confined(allowed))
    assert names(allowed.parent / "outside") == ["inner"]
    assert names(allowed.parent / "outside" / "inner") == []


def test_no_link_is_followed_at_the_place(allowed: Path) -> None:
    (allowed / "new").symlink_to("../outside/new")
    with pytest.raises(AlreadyExists):
        create_image(str(allowed / "new"), "raw", MIB, confined(allowed))
    assert names(allowed.parent / "outside") == ["inner"]


def test_a_directory_that_becomes_a_link_meanwhile_changes_nothing(allowed: Path) -> None:
    file = NewFile(str(allowed / "inner" / "new"), confined(allowed))
    (allowed / "inner").rename(allowed / "moved")
    (allowed / "inner").symlink_to("../outside")
    file.commit()
    file.close()
    assert names(allowed / "moved") == ["new"]
    assert names(allowed.parent / "outside") == ["inner"]


def test_a_directory_may_be_named_through_the_administrators_own_link(allowed: Path) -> None:
    (allowed.parent / "known-as").symlink_to(allowed)
    directories = Confinement((str(allowed.parent / "known-as"),))
    for path in (allowed.parent / "known-as" / "one", allowed / "two"):
        file = NewFile(str(path), directories)
        file.commit()
        file.close()
    assert names(allowed) == ["inner", "one", "two"]


def test_a_missing_directory_is_a_clear_error(allowed: Path) -> None:
    with pytest.raises(SinkWriteFailed, match="No such file"):
        NewFile(str(allowed / "absent" / "new"), confined(allowed))
