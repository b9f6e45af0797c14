"""Plugins are found by entry point; what does not fit is a state with a reason."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from vbrcore.model.errors import InvalidValue, PluginBroken, PluginUnknown
from vbrcore.model.point import Point
from vbrcore.plugins import loader
from vbrcore.plugins.api import Plugin, PluginInfo
from vbrcore.plugins.hooks import Events, hookimpl

GOOD = """
from types import SimpleNamespace
import msgspec
from vbrcore.plugins.api import PluginInfo
class Config(msgspec.Struct):
    uri: str
info = PluginInfo({id!r}, {api!r}, frozenset({{"live"}}), "on_host", Config)
PLUGIN = SimpleNamespace(info=info, check=None, connect=lambda s, c, h: None)
PLUGIN.check = PLUGIN.transport_modes = PLUGIN.connect
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of installed distributions that is searched first."""
    monkeypatch.syspath_prepend(str(tmp_path))
    _forget()
    yield tmp_path
    _forget()


def _forget() -> None:
    loader._entry_points.cache_clear()
    loader._find.cache_clear()


def _install(site: Path, name: str, module: str, *, group: str = "vbrcore.plugins", distribution: str = "") -> None:
    distribution = distribution or f"vbrtest-{name}"
    module_name = distribution.replace("-", "_")
    (site / f"{module_name}.py").write_text(module)
    info = site / f"{module_name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module_name}\n")


def _entry(plugin_id: str) -> loader.PluginEntry:
    return next(entry for entry in loader.list_plugins() if entry.id == plugin_id)


def test_a_good_plugin_is_described_and_loaded(site: Path) -> None:
    _install(site, "good", GOOD.format(id="good", api="2.0"))
    assert _entry("good") == loader.PluginEntry("good", "vbrtest-good", "1.0", "2.0", "ok", "", ("live",), "on_host")
    assert loader.load("good").info.plugin_id == "good"
    assert loader.load_module("good").__name__ == "vbrtest_good"


@pytest.mark.parametrize(
    ("name", "module", "state", "reason"),
    [
        ("later", GOOD.format(id="later", api="2.7"), "incompatible", "plugin API 2.7"),
        ("older", GOOD.format(id="older", api="0.9"), "incompatible", "plugin API 0.9"),
        ("odd", GOOD.format(id="odd", api="new"), "incompatible", "MAJOR.MINOR"),
        ("other", GOOD.format(id="another", api="2.0"), "broken", "'another'"),
        ("empty", "", "broken", "no PLUGIN"),
        ("raises", "raise RuntimeError('no such SDK')", "broken", "RuntimeError: no such SDK"),
        ("exits", "raise SystemExit(4)", "broken", "SystemExit"),
        ("syntax", "def", "broken", "SyntaxError"),
    ],
)
def test_what_does_not_fit_is_a_state(site: Path, name: str, module: str, state: str, reason: str) -> None:
    _install(site, name, module)
    entry = _entry(name)
    assert entry.state == state
    assert reason in entry.reason
    assert _entry("images").state == "ok"
    with pytest.raises(PluginBroken, match=state):
        loader.load(name)


def test_two_distributions_with_one_plugin_are_not_guessed_between(site: Path) -> None:
    _install(site, "twice", GOOD.format(id="twice", api="2.0"), distribution="vbrtest-one")
    _install(site, "twice", GOOD.format(id="twice", api="2.0"), distribution="vbrtest-two")
    assert "vbrtest-one, vbrtest-two" in _entry("twice").reason


def test_an_unknown_plugin_is_named_with_those_there_are() -> None:
    with pytest.raises(PluginUnknown, match=r"'nothing'.*images"):
        loader.load("nothing")
    with pytest.raises(PluginUnknown, match="'nothing'"):
        loader.mover_half("nothing")


def test_a_mover_half_needs_both_mappings(site: Path) -> None:
    _install(site, "half", "READERS = {}", group="vbrcore.movers")
    with pytest.raises(PluginBroken, match="WRITERS"):
        loader.mover_half("half")
    assert set(loader.mover_half("images").READERS) == {"image", "configuration"}


def test_listing_imports_no_sdk() -> None:
    script = "import sys; from vbrcore.plugins import loader; loader.list_plugins(); print('libvirt' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"


class Config(msgspec.Struct):
    path: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 22
    verify: bool = True
    hosts: list[str] = []

    def __post_init__(self) -> None:
        if self.path == "bad":
            raise ValueError("path must not be bad")


class _WithConfig:
    info = PluginInfo("test", "2.0", frozenset(), "separate", Config)


def _settings(**values: str) -> msgspec.Struct:
    plugin: Plugin = _WithConfig()  # type: ignore[assignment]
    return loader.settings_from(plugin, values)


def test_settings_become_typed() -> None:
    assert _settings(path="/d") == Config("/d")
    assert _settings(path="5", port="443", verify="false", hosts="a, b") == Config("5", 443, False, ["a", "b"])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "'path'"),
        ({"path": "/d", "prot": "1"}, "'prot'"),
        ({"path": "/d", "port": "ssh"}, "'port'"),
        ({"path": "/d", "port": "0"}, "'port'"),
        ({"path": "/d", "verify": "perhaps"}, "'verify'"),
        ({"path": "bad"}, "path must not be bad"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidValue, match=named):
        _settings(**values)


class _Listener:
    def __init__(self) -> None:
        self.points: list[Point] = []

    @hookimpl
    def vbr_point_committed(self, point: Point) -> None:
        self.points.append(point)


class _FailingListener:
    @hookimpl
    def vbr_point_committed(self) -> None:
        raise RuntimeError("listener is ill")


class _WrongListener:
    @hookimpl
    def vbr_point_committed(self, wrong: int) -> None:
        """Asks for what the event does not have."""


def test_events_reach_all_listeners_and_never_raise(caplog: pytest.LogCaptureFixture) -> None:
    point = Point("p", "s", "j", "nightly", "images", "m", "m", "full", 0.0, 1, (), 1 << 20)
    events, first, last = Events(), _Listener(), _Listener()
    for name, listener in (("a", first), ("b", _FailingListener()), ("c", _WrongListener()), ("d", last)):
        events.register(listener, name)
    events.point_committed(point)
    assert first.points == last.points == [point]
    assert "listener is ill" in caplog.text
    assert "events of plugin c are ignored" in caplog.text
