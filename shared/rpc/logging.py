"""Logs of a service: one line a record on stderr, `key=value` fields, the request's id in each."""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

# Set once at the start of a call; gRPC runs every call in a context of its own.
request_id: ContextVar[str] = ContextVar("request_id", default="")


class LineFormatter(logging.Formatter):
    """Formats a record as one line; a traceback becomes an escaped field of it."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {
            "ts": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "request": request_id.get(),
            "msg": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items() if value)


def _quoted(value: str) -> str:
    plain = value.isascii() and value.isprintable() and not set(value) & set(' "=\\')
    return value if plain else json.dumps(value, ensure_ascii=False)


def setup_logging(service: str, level: int = logging.INFO) -> None:
    """Send this process's records to stderr. `service` is the name in each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
