"""A restore point's disk as a file or stream of the administrator's."""

from typing import Literal

from vbrcore.plugins.api import Confinement, SinkSpec

Format = Literal["raw", "qcow2", "vmdk", "vhdx"]


def export_sink(path: str, image_format: Format, size_bytes: int, confinement: Confinement | None) -> SinkSpec:
    """A new image file at an absolute path; the writer refuses one that exists."""
    return SinkSpec(
        plugin="images",
        writer="image",
        size_bytes=size_bytes,
        settings={"path": path, "format": image_format},
        confinement=confinement,
    )


def stream_sink(socket_path: str, token: str, size_bytes: int, confinement: Confinement | None) -> SinkSpec:
    """The raw disk, in order, into a Unix socket on which the caller listens; the token proves who sends.

    With a confinement, the one who listens must be its user.
    """
    return SinkSpec(
        plugin="",
        writer="stream",
        size_bytes=size_bytes,
        settings={"socket": socket_path},
        secrets={"token": token},
        confinement=confinement,
    )
