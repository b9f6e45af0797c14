"""The mover half: reads running domains over NBD and images of domains that are off, writes restored images."""

from collections.abc import Callable

from vbr_kvm.configuration import ConfigurationFiles
from vbr_kvm.reader import BackupReader
from vbr_kvm.tunnel import BackupTunnel, ConfigurationTunnel, ImageSinkTunnel, ImageTunnel
from vbrcore.plugins.api import SinkSpec, SourceSpec
from vbrcore.plugins.image import create_image, open_image
from vbrcore.plugins.mover import ConfigurationReader, Reader, Writer


def open_image_source(spec: SourceSpec) -> Reader:
    """Read the image of a machine that is off, so that the machine can still start.

    libvirt's definition says image and format. Neither is the guest's to choose, so files below may lie anywhere.
    """
    return open_image(str(spec.settings["path"]), str(spec.settings["format"]), None, force_share=True)


def create_image_sink(spec: SinkSpec) -> Writer:
    return create_image(str(spec.settings["path"]), str(spec.settings["format"]), spec.size_bytes, spec.confinement)


READERS: dict[str, Callable[[SourceSpec], Reader | ConfigurationReader]] = {
    "nbd": BackupReader,
    "image": open_image_source,
    "configuration": ConfigurationFiles,
    "nbd-tunnel": BackupTunnel,
    "image-tunnel": ImageTunnel,
    "configuration-tunnel": ConfigurationTunnel,
}
WRITERS: dict[str, Callable[[SinkSpec], Writer]] = {
    "image": create_image_sink,
    "image-tunnel": ImageSinkTunnel,
}
