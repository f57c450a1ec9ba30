"""The log: plain text, or one JSON object per line. Secrets are masked in messages and in exceptions."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

# The text of the first group is kept, the rest is masked.
_SECRETS = (
    re.compile(r"()\bhf_[A-Za-z0-9]{16,}"),  # tokens of the Hub; hf_hub_download is none
    re.compile(r"""(?i)\b(bearer\s+)[^\s'",}]+"""),
    re.compile(r"""(?i)\b(authorization['"]?\s*[:=]\s*['"]?)[^'",}\n]+"""),
    re.compile(r"""(?i)([?&](?:notebook|token)=)[^\s&'"#]+"""),  # who knows a notebook's key may read or change it
)
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class _Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool, secrets: Sequence[str]) -> None:
        super().__init__("%(asctime)s %(name)s %(levelname)s %(message)s")
        self._as_json = as_json
        # A password of two letters would mask parts of every word; SecretStr keeps it out of messages anyway.
        longest_first = sorted((s for s in secrets if len(s) > 3), key=len, reverse=True)
        self._secrets = (*(re.compile(f"(){re.escape(secret)}") for secret in longest_first), *_SECRETS)

    def format(self, record: logging.LogRecord) -> str:
        if not self._as_json:
            return self._masked(super().format(record))
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._masked(record.getMessage()),
        }
        if record.exc_info:
            document["exception"] = self._masked(self.formatException(record.exc_info))
        for name, value in vars(record).items():
            if name not in _USUAL:
                plain = value is None or isinstance(value, bool | int | float)
                document[name] = value if plain else self._masked(str(value))
        return json.dumps(document, ensure_ascii=False)

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = secret.sub(r"\1***", text)
        return text


def configure(*, as_json: bool, secrets: Sequence[str] = ()) -> None:
    """Send everything from INFO on to stderr. `secrets`: texts to mask in addition to tokens and notebooks' keys."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(as_json=as_json, secrets=secrets))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("httpx", "httpx2"):  # gradio polls itself; the Hub's file URLs contain signatures
        logging.getLogger(name).setLevel(logging.WARNING)


def adopt_server() -> None:
    """Call it once uvicorn runs: replaces the handlers of its loggers by ours."""
    for name in ("uvicorn", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
