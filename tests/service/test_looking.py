"""`server check` has plugins look at hypervisors; whatever a plugin does there is found, and the service lives on."""

import os
from pathlib import Path

import pytest

from tests.conftest import Vbr

PLUGIN = """
import os
import msgspec
from vbrcore.model.serverfacts import Finding
from vbrcore.plugins.api import API_VERSION, PluginInfo


class Settings(msgspec.Struct):
    way: str


class Looker:
    info = PluginInfo("looker", API_VERSION, frozenset(), "separate", Settings, secrets=("password",))

    def check(self, settings, *, has_host):
        pass

    def connect(self, settings, secrets, host):
        raise NotImplementedError

    def transport_modes(self, machine, server, host):
        return ()

    def look(self, settings, secrets, host):
        if settings.way == "raise":
            raise RuntimeError("a plugin with a bug")
        if settings.way == "end":
            os.write(2, b"gone for good")
            os._exit(7)
        print("what a plugin prints is no answer")
        return (Finding("known" if secrets["password"] == "s3cret" else "unknown", str(os.getppid()), "", "warning"),)


PLUGIN = Looker()
"""


@pytest.fixture
def looker(tmp_path: Path, vbr: Vbr) -> Vbr:
    """Give the command line of a deployment that has a plugin of a stranger."""
    information = tmp_path / "site" / "vbr_looker-1.0.dist-info"
    information.mkdir(parents=True)
    (tmp_path / "site" / "vbr_looker.py").write_text(PLUGIN)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: vbr-looker\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[vbrcore.plugins]\nlooker = vbr_looker\n")
    vbr.environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    return vbr


def add(vbr: Vbr, tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    settings = ["--set", f"way={way}", "--set-file", f"password={tmp_path / 'password'}"]
    vbr("hypervisor", "add", name, "--plugin", "looker", *settings)


def test_what_a_plugin_says_is_found_in_a_process_that_knows_the_secrets(looker: Vbr, tmp_path: Path) -> None:
    add(looker, tmp_path, "fine", "say")
    (found,) = looker.json("server", "check", "local")["findings"]
    service = next(one["pid"] for one in looker.json("ps") if one["kind"] == "service")
    assert found == {"code": "known", "text": f"hypervisor fine: {service}", "hint": "", "level": "warning"}


def test_a_plugin_that_fails_or_ends_its_process_is_found(looker: Vbr, tmp_path: Path) -> None:
    add(looker, tmp_path, "raises", "raise")
    add(looker, tmp_path, "ends", "end")
    add(looker, tmp_path, "fine", "say")
    found = looker.json("server", "check", "local", exit_code=20)["findings"]
    assert [(one["code"], one["level"]) for one in found] == [
        ("hypervisor_failed", "error"),
        ("known", "warning"),
        ("hypervisor_failed", "error"),
    ]
    assert found[0]["text"] == "hypervisor ends: the process that looks ended with 7: gone for good"
    assert found[2]["text"] == "hypervisor raises: RuntimeError: a plugin with a bug"
    looker("hypervisor", "remove", "raises")
    looker("hypervisor", "remove", "ends")
    assert looker.json("server", "check", "local")["findings"] == [found[1]]


def test_a_plugin_that_cannot_look_is_asked_to_connect(vbr: Vbr, tmp_path: Path) -> None:
    directory = tmp_path / "images"
    directory.mkdir()
    vbr("hypervisor", "add", "dir", "--plugin", "images", "--set", f"path={directory}")
    assert vbr.json("server", "check", "local")["findings"] == []
    directory.rmdir()
    (found,) = vbr.json("server", "check", "local", exit_code=20)["findings"]
    assert (found["code"], found["text"]) == ("hypervisor_unreachable", f"hypervisor dir: {directory} is no directory")
