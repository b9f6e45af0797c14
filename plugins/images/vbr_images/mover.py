"""The mover half: opens what `hypervisor.py` has described, in another process."""

from pathlib import Path

from vbrcore.model.errors import SinkWriteFailed
from vbrcore.plugins.api import SinkSpec, SourceSpec
from vbrcore.plugins.image import create_image, open_image
from vbrcore.plugins.mover import Reader, Writer


class KeptConfiguration:
    """The configuration is small and was written into the spec."""

    def __init__(self, spec: SourceSpec) -> None:
        self._text = str(spec.settings["text"])

    def read(self) -> bytes:
        return self._text.encode()


def open_source(spec: SourceSpec) -> Reader:
    """`path` and `format` of the image; `directory`: where all of its files must lie."""
    return open_image(str(spec.settings["path"]), str(spec.settings["format"]), str(spec.settings["directory"]))


def open_sink(spec: SinkSpec) -> Writer:
    """`path` and `format` of the new image; `make_directory`: make its directory if no other sink has."""
    path = Path(str(spec.settings["path"]))
    if spec.settings.get("make_directory"):
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise SinkWriteFailed(f"{path.parent} cannot be made: {error.strerror}") from error
    return create_image(str(path), str(spec.settings.get("format", "raw")), spec.size_bytes, spec.confinement)


READERS = {"image": open_source, "configuration": KeptConfiguration}
WRITERS = {"image": open_sink}
