"""What the log says of a Hub that refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from playground.errors import PlaygroundError
from playground.models.hub.client import Hub
from playground.support import logs
from playground.web.replies import Reply
from playground.web.server_function import server_function
from testkit.hub_server import HubRepo, hub_server

TOKEN = "hf_" + "aZ09bY18cX27dW36eV45fU54gT63hS"


def test_hub_when_it_refuses_a_token_then_the_log_does_not_have_it(
    log: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logs.configure(as_json=False)
    with hub_server([HubRepo("acme/gated-GGUF", {"a-Q4_K_M.gguf": b"x"}, gated=True, private=True)]) as served:
        served.patch(monkeypatch, tmp_path)
        hub = Hub(own_token=False)

        def repo(token: str) -> Reply:
            try:
                hub.repo("acme/gated-GGUF", "main", token)
            except PlaygroundError as error:
                raise RuntimeError(f"asked with Authorization: Bearer {token}") from error
            return Reply()

        assert "Unexpected" in server_function(repo)({"token": TOKEN})["error"]
        assert {seen.token for seen in served.seen("GET")} == {f"Bearer {TOKEN}"}
    log_text = log()
    assert "asked with Authorization: ***" in log_text
    assert "is not on the Hub" in log_text
    assert served.url not in log_text  # nor what is asked for: redirects to files are signed
    assert TOKEN not in log_text
