"""An original model on the Hub: how large it is before it is fetched, and which files are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import safetensors.numpy
from huggingface_hub.utils import close_session

from playground.errors import BadInput
from playground.measuring import original
from playground.models.hub.client import Hub
from testkit.hub_server import HubRepo, HubServer, hub_server

ID = "acme/original-VL"
FILES: dict[str, bytes] = {
    "config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": safetensors.numpy.save({"a": numpy.zeros((4, 5), numpy.float16)}),
    "pytorch_model.bin": b"a pickle",
    "modeling_own.py": b"raise SystemExit",
}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    repos = [HubRepo(ID, dict(FILES)), HubRepo("acme/pickle", {"config.json": b"{}", "pytorch_model.bin": b"a"})]
    with hub_server(repos) as server:
        server.patch(monkeypatch, tmp_path)
        yield server
        close_session()


def test_original_when_on_the_hub_then_fetched_without_code_and_pickles(served: HubServer) -> None:
    seen: list[dict[str, int]] = []
    folder = Hub(own_token=False).original(ID, check=lambda counts: seen.append(dict(counts)))
    assert seen == [{"F16": 20}]
    assert sorted(path.name for path in folder.iterdir()) == ["chat_template.jinja", "config.json", "model.safetensors"]
    assert original.tensor_counts(folder) == {"F16": 20}


def test_original_when_it_does_not_fit_then_nothing_is_fetched(served: HubServer) -> None:
    def refuse(counts: object) -> None:
        raise BadInput("too large")

    with pytest.raises(BadInput, match="too large"):
        Hub(own_token=False).original(ID, check=refuse)
    assert not [seen for seen in served.seen("GET") if seen.path.endswith("config.json")]


@pytest.mark.parametrize("id", ["acme/none", "acme/pickle"])
def test_original_when_missing_or_without_safetensors_then_it_is_said(served: HubServer, id: str) -> None:
    with pytest.raises(BadInput, match=id):
        Hub(own_token=False).original(id)
