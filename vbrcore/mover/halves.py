"""Readers and writers by their names in a plugin's mover half. Only what a task needs is imported."""

from typing import cast

from vbrcore.model.errors import PluginUnknown
from vbrcore.plugins.api import SinkSpec, SourceSpec
from vbrcore.plugins.loader import mover_half
from vbrcore.plugins.mover import ConfigurationReader, Reader, Writer


def open_source(spec: SourceSpec) -> Reader:
    """Open the source of a disk. Raises what the plugin raises."""
    make = mover_half(spec.plugin).READERS.get(spec.reader)
    if make is None:
        raise PluginUnknown(f"plugin {spec.plugin} has no reader {spec.reader}")
    return cast("Reader", make(spec))


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
    return cast("Writer", make(spec))
