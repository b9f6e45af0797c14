"""Plugins hear of sessions and points: a distribution found by entry point, in the real job manager."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Vbr

LISTENER = """
import json
from pathlib import Path
import msgspec
from vbrcore.plugins.api import API_VERSION, PluginInfo
from vbrcore.plugins.hooks import hookimpl


class Settings(msgspec.Struct):
    pass


class Listener:
    info = PluginInfo("listener", API_VERSION, frozenset(), "separate", Settings)

    def check(self, settings, *, has_host):
        raise NotImplementedError

    def connect(self, settings, secrets, host):
        raise NotImplementedError

    def transport_modes(self, machine, server, host):
        return ()


PLUGIN = Listener()

OUT = Path({out!r})


def note(event, value):
    with OUT.open("a") as file:
        file.write(json.dumps([event, msgspec.to_builtins(value)]) + "\\n")


@hookimpl
def vbr_session_started(session):
    note("started", session)


@hookimpl
def vbr_point_committed(point):
    note("committed", point)
    raise RuntimeError("a listener that fails holds nothing up")


@hookimpl
def vbr_session_ended(session):
    note("ended", session)
"""
METADATA = "Metadata-Version: 2.1\nName: vbr-listener\nVersion: 1.0\n"


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a plugin that writes down what it hears, on the path of every process of this test."""
    out = tmp_path / "heard.jsonl"
    site = tmp_path / "site"
    (site / "vbr_listener-1.0.dist-info").mkdir(parents=True)
    (site / "vbr_listener.py").write_text(LISTENER.format(out=str(out)))
    (site / "vbr_listener-1.0.dist-info" / "METADATA").write_text(METADATA)
    (site / "vbr_listener-1.0.dist-info" / "entry_points.txt").write_text(
        "[vbrcore.plugins]\nlistener = vbr_listener\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    return out


def test_listeners_hear_a_session_in_order_and_cannot_break_it(heard: Path, vbr: Vbr, tmp_path: Path) -> None:
    vbr.environment["PYTHONPATH"] = str(heard.parent / "site")
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / "web.raw").write_bytes(b"x" * 10_000)
    vbr("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={lab}")
    vbr("repository", "add", "main", "--path", tmp_path / "repository", "--reserve", "1M")
    vbr("job", "create", "nightly", "--hypervisor", "lab", "--machine", "*", "--repository", "main")
    assert {"listener": "ok"}.items() <= {one["id"]: one["state"] for one in vbr.json("plugins", "list")}.items()
    done = vbr.json("job", "run", "nightly")
    assert done["result"] == "success"
    lines: list[tuple[str, dict[str, Any]]] = [json.loads(text) for text in heard.read_text().splitlines()]
    assert [event for event, _ in lines] == ["started", "committed", "ended"]
    assert lines[1][1]["machine"] == "web"
    assert lines[2][1]["result"] == "success"
