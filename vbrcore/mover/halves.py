"""Readers and writers by their names in a plugin's mover half. Only what a task needs is imported."""

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Protocol, cast

from vbrcore.model.errors import PluginBroken, PluginUnknown
from vbrcore.plugins.api import SinkSpec, SourceSpec
from vbrcore.plugins.mover import ConfigurationReader, Reader, Writer


class MoverHalf(Protocol):
    """The module that a plugin names in the entry-point group `vbrcore.movers`."""

    READERS: Mapping[str, Callable[[SourceSpec], Reader]]
    WRITERS: Mapping[str, Callable[[SinkSpec], Writer]]


def mover_half(plugin: str) -> MoverHalf:
    """Import a plugin's mover half. Raises `PluginUnknown`, `PluginBroken`."""
    for point in entry_points(group="vbrcore.movers", name=plugin):
        try:
            return cast("MoverHalf", point.load())
        except (ImportError, AttributeError) as error:
            raise PluginBroken(f"the mover half of plugin {plugin} cannot be imported: {error}") from error
    raise PluginUnknown(f"plugin {plugin} has no mover half installed here")


def open_source(spec: SourceSpec) -> Reader:
    """Open the source of a disk. Raises what the plugin raises."""
    make = mover_half(spec.plugin).READERS.get(spec.reader)
    if make is None:
        raise PluginUnknown(f"plugin {spec.plugin} has no reader {spec.reader}")
    return make(spec)


def open_configuration(spec: SourceSpec) -> ConfigurationReader:
    """Open the source of a machine's configuration."""
    return cast("ConfigurationReader", open_source(spec))


def open_sink(spec: SinkSpec) -> Writer:
    """Open a sink to restore into. Raises what the plugin raises."""
    if not spec.plugin and spec.writer == "stream":
        from vbrcore.mover.stream import StreamWriter  # noqa: PLC0415 - a source never needs it

        return StreamWriter(spec)
    make = mover_half(spec.plugin).WRITERS.get(spec.writer)
    if make is None:
        raise PluginUnknown(f"plugin {spec.plugin} has no writer {spec.writer}")
    return make(spec)
