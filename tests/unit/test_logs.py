"""What the log says, and what it must not say."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from playground.support import logs

TOKEN = "hf_" + "aZ09bY18cX27dW36eV45fU54gT63hS"
KEY = "Xy_-0123456789abcdefgh"


def test_json_log_when_an_exception_is_logged_then_one_object_a_line(log: Callable[[], str]) -> None:
    logs.configure(as_json=True)
    logger = logging.getLogger("playground.x")
    logger.info("loaded %s\nin two lines", "ä.gguf", extra={"seconds": 0.5, "place": Path("GPU 0")})
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logger.exception("it failed")
    first, second = map(json.loads, log().splitlines())
    when = datetime.fromisoformat(first.pop("time"))
    assert when.utcoffset() == timedelta(0)
    assert abs(when.timestamp() - time.time()) < 60
    assert first == {
        "level": "INFO", "logger": "playground.x", "message": "loaded ä.gguf\nin two lines", "seconds": 0.5,
        "place": "GPU 0",
    }  # fmt: skip
    assert second["message"] == "it failed"
    assert second["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"refused {TOKEN}, sorry", TOKEN),
        (f"Authorization: Bearer {KEY}", KEY),
        (f"{{'authorization': 'Basic {KEY}', 'accept': '*/*'}}", KEY),
        (f"headers: bearer {KEY}", KEY),
        (f'127.0.0.1 - "GET /?notebook={KEY}&x=1 HTTP/1.1" 200', KEY),
        ('login of anna with "geheim" + more', '"geheim" +'),
    ],
)
def test_log_when_a_secret_passes_through_then_it_is_masked(
    log: Callable[[], str], as_json: bool, text: str, secret: str
) -> None:
    logs.configure(as_json=as_json, secrets=['"geheim" +'])
    logger = logging.getLogger("playground.x")
    logger.warning(text)
    logger.warning("%s, again", text, extra={"seen": text})
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("it failed")
    log_text = log()
    assert secret not in log_text
    assert json.dumps(secret)[1:-1] not in log_text
    assert log_text.count("***") >= 3


def test_log_when_nothing_is_secret_then_nothing_is_masked(log: Callable[[], str]) -> None:
    logs.configure(as_json=False, secrets=["abc"])
    logging.getLogger("playground.x").info("hf_hub_download of a notebook=3: the authorization failed, abc")
    assert "hf_hub_download of a notebook=3: the authorization failed, abc" in log()


def test_server_log_when_uvicorn_configured_its_own_then_it_goes_the_same_way(log: Callable[[], str]) -> None:
    logs.configure(as_json=True)
    server = logging.getLogger("uvicorn")
    server.addHandler(logging.StreamHandler())
    logs.adopt_server()
    logging.getLogger("uvicorn.error").error("Exception in ASGI application, %s", TOKEN, extra={"color_message": "x"})
    (line,) = map(json.loads, log().splitlines())
    assert line["message"] == "Exception in ASGI application, ***"
    assert "color_message" not in line
