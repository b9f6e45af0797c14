"""A home or a catalog that cannot be used: one typed error that names it, and it is left as it is."""

import json
import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Vbr, stop_processes_of


def refused(vbr: Vbr, code: str, exit_code: int, *args: str) -> dict[str, Any]:
    done = vbr(*args, "--json", exit_code=exit_code)
    error: dict[str, Any] = json.loads(done.stderr)["error"]
    assert error["code"] == code
    return error


def test_two_services_on_one_home(vbr: Vbr) -> None:
    vbr("job", "list")
    done = vbr("service", "run", exit_code=18)
    assert "a service runs for" in done.stderr
    assert "Traceback" not in done.stderr
    assert vbr.json("service", "status")["home"] == str(vbr.home)


def test_service_stop_where_none_runs(vbr: Vbr) -> None:
    assert vbr.json("service", "stop") == {"stopped": False}
    refused(vbr, "service_unavailable", 18, "service", "status")
    assert list(vbr.home.iterdir()) == [], "nothing was started, nothing made"


def test_a_home_that_others_may_enter_is_refused(vbr: Vbr) -> None:
    vbr("job", "list")
    vbr("service", "stop")
    vbr.home.chmod(0o755)
    error = refused(vbr, "permission_refused", 6, "job", "list")
    assert str(vbr.home) in error["message"]
    assert "0700" in error["message"]
    vbr.home.chmod(0o700)
    vbr("job", "list")


@pytest.mark.parametrize("below", ["", "below/it"])
def test_a_home_that_is_a_file(vbr: Vbr, below: str) -> None:
    (vbr.home / "file").write_text("mine")
    error = refused(vbr, "permission_refused", 6, "--home", str(vbr.home / "file" / below), "job", "list")
    assert str(vbr.home / "file") in error["message"]
    assert (vbr.home / "file").read_text() == "mine"


def test_a_newer_catalog_is_left_alone(vbr: Vbr) -> None:
    vbr("job", "list")
    vbr("service", "stop")
    catalog = sqlite3.connect(vbr.home / "catalog.db")
    catalog.execute("PRAGMA user_version = 9999")
    catalog.close()
    error = refused(vbr, "catalog_newer", 14, "job", "list")
    assert "catalog.db" in error["message"]
    catalog = sqlite3.connect(vbr.home / "catalog.db")
    assert catalog.execute("PRAGMA user_version").fetchone() == (9999,)
    catalog.close()


@pytest.mark.parametrize("damage", ["garbage", "page", "empty"])
def test_a_damaged_catalog_is_named_and_left_alone(vbr: Vbr, damage: str) -> None:
    vbr("job", "list")
    vbr("service", "stop")
    catalog = vbr.home / "catalog.db"
    for rest in ("-wal", "-shm"):
        Path(f"{catalog}{rest}").unlink(missing_ok=True)
    data = bytearray(catalog.read_bytes())
    if damage == "garbage":
        data = bytearray(os.urandom(len(data)))
    elif damage == "page":
        data[100:4096] = bytes(3996)
    else:
        data = bytearray(b"not a catalog")
    catalog.write_bytes(data)
    error = refused(vbr, "catalog_damaged", 13, "job", "list")
    assert "catalog.db" in error["message"]
    assert catalog.read_bytes() == bytes(data)


@pytest.fixture
def deep() -> Iterator[Vbr]:
    """A home whose socket's path would be longer than the kernel takes."""
    with tempfile.TemporaryDirectory(prefix="vbr-", dir="/tmp") as top:
        home = Path(top) / ("deep" * 20) / ("deeper" * 10)
        home.mkdir(parents=True, mode=0o700)
        try:
            yield Vbr(home)
        finally:
            left = stop_processes_of(home)
        assert left == {}


def test_a_home_with_a_path_too_long_for_a_socket_does_the_whole_line(deep: Vbr) -> None:
    lab = deep.home / "lab"
    (lab / "web").mkdir(parents=True)
    (lab / "web" / "disk.raw").write_bytes(b"content" * 1000)
    deep("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={lab}")
    deep("job", "create", "nightly", "--hypervisor", "lab", "--machine", "*", "--repository", "default")
    deep("job", "run", "nightly")
    (point,) = deep.json("point", "list")
    command = [*deep.command, "restore", "disk", point["point_id"], "disk.raw", "--output", "-"]
    done = subprocess.run(command, check=True, capture_output=True, env=deep.environment, timeout=60)
    assert done.stdout == b"content" * 1000
