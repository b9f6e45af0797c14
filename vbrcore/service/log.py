"""`log/service.log`: one JSON object a line, and plain lines on the terminal of a service in the foreground."""

import logging
import os
import sys
import traceback
from pathlib import Path

import msgspec

from vbrcore.model.errors import ErrorInfo


class ServiceLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """`time` is seconds since the epoch. `error`: why the service could not start."""

    time: float
    level: str
    kind: str
    message: str
    pid: int
    error: ErrorInfo | None = None


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message += "\n" + "".join(traceback.format_exception(record.exc_info[1]))
        line = ServiceLine(
            time=record.created,
            level=record.levelname.lower(),
            kind="service",
            message=message,
            pid=record.process or 0,
            error=getattr(record, "error_info", None),
        )
        return msgspec.json.encode(line).decode()


def set_up(path: Path, *, foreground: bool) -> None:
    """Send everything that is logged in this process to the file (0600), in the foreground to the terminal too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    to_file = logging.StreamHandler(os.fdopen(descriptor, "a", encoding="utf-8"))
    to_file.setFormatter(_JsonFormatter())
    handlers: list[logging.Handler] = [to_file]
    if foreground:
        to_terminal = logging.StreamHandler(sys.stderr)
        to_terminal.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(to_terminal)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
