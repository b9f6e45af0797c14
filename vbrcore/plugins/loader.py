"""Finds plugins by their entry points. A plugin that does not fit or does not import is a state, never a crash."""

import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast, get_origin

import msgspec

from vbrcore.model.errors import InvalidValue, PluginBroken, PluginUnknown
from vbrcore.plugins.api import API_VERSION, Plugin, PluginInfo

PLUGIN_GROUP = "vbrcore.plugins"
MOVER_GROUP = "vbrcore.movers"
# In a bundle on another server: the modules with the mover halves, by plugin, because nothing is installed there.
MOVERS_FILE = "vbrcore-movers.json"

_EntryPoints = dict[str, tuple[importlib.metadata.EntryPoint, ...]]


class PluginEntry(msgspec.Struct, frozen=True):
    """One installed plugin as `plugins list` shows it. `reason` is empty when the state is ok."""

    id: str
    distribution: str
    version: str
    api: str
    state: Literal["ok", "incompatible", "broken"]
    reason: str
    capabilities: tuple[str, ...]
    proxy_mode: str


class _Found(msgspec.Struct, frozen=True):
    plugin: Plugin | None
    module: ModuleType | None
    state: Literal["ok", "incompatible", "broken"]
    reason: str


def list_plugins() -> list[PluginEntry]:
    """Describe every installed plugin, by id. Imports the plugins' modules, which import their SDKs on `connect`."""
    return [_describe(plugin_id) for plugin_id in sorted(_entry_points(PLUGIN_GROUP))]


def load(plugin_id: str) -> Plugin:
    """Return a plugin that can be used. Raises `PluginUnknown`, `PluginBroken`."""
    found = _find(plugin_id)
    if found.plugin is None or found.state != "ok":
        raise PluginBroken(f"plugin {plugin_id!r} is {found.state}: {found.reason}")
    return found.plugin


def load_module(plugin_id: str) -> ModuleType:
    """Return the module of a usable plugin: what is registered for events. Raises as `load`."""
    load(plugin_id)
    return cast("ModuleType", _find(plugin_id).module)


def mover_module(plugin_id: str) -> str:
    """Return the name of the module that is a plugin's mover half. Raises `PluginUnknown`, `PluginBroken`."""
    point, reason = _only(_entry_points(MOVER_GROUP), plugin_id)
    if point is None:
        raise PluginBroken(f"the mover half of plugin {plugin_id!r} is broken: {reason}")
    return point.module


def mover_half(plugin_id: str) -> ModuleType:
    """Return the module with `READERS` and `WRITERS`. Raises `PluginUnknown`, `PluginBroken`."""
    bundled = _bundled_movers()
    if bundled is None:
        module, reason = _import(_entry_points(MOVER_GROUP), plugin_id)
    elif plugin_id in bundled:
        module, reason = _loaded(lambda: importlib.import_module(bundled[plugin_id]))
    else:
        raise PluginUnknown(f"plugin {plugin_id!r} is not in the bundle (there are: {', '.join(sorted(bundled))})")
    if module is None:
        raise PluginBroken(f"the mover half of plugin {plugin_id!r} is broken: {reason}")
    for name in ("READERS", "WRITERS"):
        if not isinstance(getattr(module, name, None), Mapping):
            raise PluginBroken(f"the mover half of plugin {plugin_id!r} is broken: it has no mapping {name}")
    return module


def settings_from(plugin: Plugin, values: Mapping[str, str]) -> msgspec.Struct:
    """Turn `--set key=value` strings into the plugin's settings; lists are separated by commas.

    Raises `InvalidValue` naming the key that is unknown, missing or of a wrong form.
    """
    config = plugin.info.config
    fields = {field.encode_name: field for field in msgspec.structs.fields(config)}
    for key in values:
        if key not in fields:
            allowed = ", ".join(sorted(fields)) or "none"
            raise InvalidValue(f"plugin {plugin.info.plugin_id!r} has no setting {key!r} (there are: {allowed})")
    converted: dict[str, Any] = {}
    for key, field in fields.items():
        if key in values:
            converted[field.name] = _convert(key, values[key], field.type)
        elif field.required:
            raise InvalidValue(f"plugin {plugin.info.plugin_id!r} needs the setting {key!r}")
    try:
        return config(**converted)
    except ValueError as error:
        raise InvalidValue(f"settings of plugin {plugin.info.plugin_id!r}: {error}") from error


def _convert(key: str, value: str, wanted: Any) -> Any:
    is_list = get_origin(wanted) in (list, tuple, set, frozenset)
    plain = [part.strip() for part in value.split(",") if part.strip()] if is_list else value
    try:
        return msgspec.convert(plain, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidValue(f"setting {key!r}: {value!r} does not fit: {error}") from error


@functools.cache
def _entry_points(group: str) -> _EntryPoints:
    found: dict[str, tuple[importlib.metadata.EntryPoint, ...]] = {}
    for point in importlib.metadata.entry_points(group=group):
        found[point.name] = (*found.get(point.name, ()), point)
    return found


@functools.cache
def _bundled_movers() -> dict[str, str] | None:
    """Return the module names of a bundle, None where this is no bundle."""
    try:
        data = (Path(__file__).parents[2] / MOVERS_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return msgspec.json.decode(data, type=dict[str, str])


def _only(points: _EntryPoints, plugin_id: str) -> tuple[importlib.metadata.EntryPoint | None, str]:
    if plugin_id not in points:
        raise PluginUnknown(f"no plugin {plugin_id!r} is installed (there are: {', '.join(sorted(points)) or 'none'})")
    if len(points[plugin_id]) > 1:
        names = sorted(point.dist.name for point in points[plugin_id] if point.dist)
        return None, f"several distributions bring it: {', '.join(names)}"
    return points[plugin_id][0], ""


def _import(points: _EntryPoints, plugin_id: str) -> tuple[ModuleType | None, str]:
    point, reason = _only(points, plugin_id)
    return (None, reason) if point is None else _loaded(point.load)


def _loaded(load_it: Callable[[], object]) -> tuple[ModuleType | None, str]:
    try:
        module = load_it()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code may fail in any way; the reason is shown
        return None, f"{type(error).__name__}: {error}"
    if not isinstance(module, ModuleType):
        return None, "its entry point is no module"
    return module, ""


@functools.cache
def _find(plugin_id: str) -> _Found:
    module, reason = _import(_entry_points(PLUGIN_GROUP), plugin_id)
    if module is None:
        return _Found(None, None, "broken", reason)
    plugin = getattr(module, "PLUGIN", None)
    info = getattr(plugin, "info", None)
    if not isinstance(info, PluginInfo):
        return _Found(None, module, "broken", "its module has no PLUGIN with an info of type PluginInfo")
    if info.plugin_id != plugin_id:
        return _Found(None, module, "broken", f"it calls itself {info.plugin_id!r}")
    if reason := _incompatible(info.api_version):
        return _Found(plugin, module, "incompatible", reason)
    for method in ("check", "connect", "transport_modes"):
        if not callable(getattr(plugin, method, None)):
            return _Found(None, module, "broken", f"its PLUGIN has no method {method}")
    return _Found(plugin, module, "ok", "")


def _incompatible(version: str) -> str:
    """Return why a plugin made for this API version cannot be used ("": it can): same major, no later minor."""
    ours = tuple(map(int, API_VERSION.split(".")))
    try:
        major, minor = map(int, version.split("."))
    except ValueError:
        return f"its API version {version!r} is not of the form MAJOR.MINOR"
    if major != ours[0] or minor > ours[1]:
        return f"it is made for plugin API {version}, this is {API_VERSION}"
    return ""


def _describe(plugin_id: str) -> PluginEntry:
    found = _find(plugin_id)
    info = found.plugin.info if found.plugin is not None else None
    dist = _entry_points(PLUGIN_GROUP)[plugin_id][0].dist
    return PluginEntry(
        id=plugin_id,
        distribution=dist.name if dist else "",
        version=dist.version if dist else "",
        api=info.api_version if info else "",
        state=found.state,
        reason=found.reason,
        capabilities=tuple(sorted(info.capabilities)) if info else (),
        proxy_mode=info.proxy_mode if info else "",
    )
