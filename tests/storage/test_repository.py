"""Identity and space of a repository."""

import subprocess
from pathlib import Path

import pytest

from vbrcore.model.errors import (
    FormatNewer,
    InvalidValue,
    RepositoryExists,
    RepositoryNotEmpty,
    RepositoryNotMounted,
    RepositoryReadOnly,
)
from vbrcore.storage.local import LocalStorage
from vbrcore.storage.repository import (
    GIB,
    IDENTITY_NAME,
    Space,
    create_repository,
    open_repository,
    reserve_of,
    space_of,
)


def test_absent_and_empty_directories_become_repositories(tmp_path: Path) -> None:
    for path in (tmp_path / "a" / "b", tmp_path / "empty"):
        if path.name == "empty":
            (path / "lost+found").mkdir(parents=True)
        create_repository(path, "id-1")
        assert open_repository(path, "id-1").list("") == (IDENTITY_NAME,)


def test_other_directories_are_refused(tmp_path: Path) -> None:
    create_repository(tmp_path / "taken", "id-1")
    with pytest.raises(RepositoryExists):
        create_repository(tmp_path / "taken", "id-2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(RepositoryNotEmpty):
        create_repository(tmp_path / "full", "id-2")
    with pytest.raises(InvalidValue):
        create_repository(Path("relative"), "id-2")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RepositoryNotEmpty):
        create_repository(tmp_path / "file", "id-2")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "x"


def test_a_path_without_its_identity_is_not_mounted(tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotMounted):
        open_repository(tmp_path / "absent", "id-1")
    assert not (tmp_path / "absent").exists()
    (tmp_path / "mountpoint").mkdir()
    with pytest.raises(RepositoryNotMounted):
        open_repository(tmp_path / "mountpoint", "id-1")
    assert list((tmp_path / "mountpoint").iterdir()) == []
    create_repository(tmp_path / "other", "id-2")
    with pytest.raises(RepositoryNotMounted, match="id-2"):
        open_repository(tmp_path / "other", "id-1")
    (tmp_path / "other" / IDENTITY_NAME).write_bytes(b"\xff torn")
    with pytest.raises(RepositoryNotMounted):
        open_repository(tmp_path / "other", "id-2")


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / IDENTITY_NAME).write_text('{"format": "vbrcore repository", "version": 2, "repository_id": "id-1"}')
    with pytest.raises(FormatNewer):
        open_repository(tmp_path, "id-1")


def test_a_place_where_nothing_can_be_made(small_mount: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_mount)], check=True)
    for path in (small_mount, small_mount / "new"):
        with pytest.raises(RepositoryReadOnly):
            create_repository(path, "id-1")


@pytest.mark.parametrize(
    ("size_gib", "reserve_gib"), [(10, 2), (20, 4), (25, 5), (40, 5), (50, 5), (100, 10), (1000, 100)]
)
def test_reserve(size_gib: int, reserve_gib: int) -> None:
    assert reserve_of(size_gib * GIB) == reserve_gib * GIB


def test_space_levels(tmp_path: Path) -> None:
    assert space_of(LocalStorage(tmp_path), 123).reserve_bytes == 123
    assert space_of(LocalStorage(tmp_path)).size_bytes > 0
    assert not Space(100, 10, 10).below_reserve
    assert Space(100, 9, 10).below_reserve
    assert not Space(100, 5, 10).below_half_reserve
    assert Space(100, 4, 10).below_half_reserve
