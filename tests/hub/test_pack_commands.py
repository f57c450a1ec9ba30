"""`pack push` and `pack pull` as a person calls them, against a Hub of the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from huggingface_hub.utils import close_session

from playground.measuring import packs
from testkit.command_line import Called, called
from testkit.hub_server import TOKEN, HubRepo, HubServer, hub_server
from testkit.webapp import running

SHIPPED = Path(__file__).parents[2] / "examples/tiny-vlm-7M-F16-hard-150.safetensors"
Call = Callable[..., Called]


@pytest.fixture
def served() -> Iterator[HubServer]:
    two = {"a.safetensors": b"not a pack", "b.safetensors": b"nor this"}
    with hub_server([HubRepo("acme/two", dict(two), dataset=True)]) as server:
        yield server
        close_session()


@pytest.fixture
def call(served: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    served.patch(monkeypatch, tmp_path / "hf")
    monkeypatch.setenv("PLAYGROUND_CACHE_DIR", str(tmp_path / "cache"))

    def called_with(*words: object, token: str = TOKEN) -> Called:
        monkeypatch.setenv("HF_TOKEN", token)
        return called(monkeypatch, capfd, "pack", *words)

    return called_with


def test_pack_when_pushed_and_pulled_then_the_same_file(call: Call, served: HubServer, tmp_path: Path) -> None:
    pushed = call("push", SHIPPED, "acme/packs", "--private")
    assert pushed.code == 0, pushed.err
    repo = served.repos["datasets/acme/packs"]
    assert repo.private
    assert f"commit {repo.commit[:12]}" in pushed.out
    out = tmp_path / "pulled.safetensors"
    pulled = call("pull", "acme/packs", out)
    assert pulled.code == 0, pulled.err
    assert out.read_bytes() == SHIPPED.read_bytes()
    assert "questions: 150 about" in pulled.out
    assert call("pull", "acme/packs", out).code == 2


def test_pack_when_it_cannot_be_pushed_or_pulled_then_it_is_said_why(
    call: Call, served: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "broken.safetensors").write_bytes(SHIPPED.read_bytes()[:1000])
    assert "damaged or cut short" in call("push", tmp_path / "broken.safetensors", "acme/packs").err
    assert "datasets/acme/packs" not in served.repos
    assert "does not give access" in call("push", SHIPPED, "acme/packs", token="hf_unknown").err
    assert "The repository has: a.safetensors, b.safetensors." in call("pull", "acme/two").err
    out = tmp_path / "out.safetensors"
    assert "a.safetensors is not a reference pack" in call("pull", "acme/two:a.safetensors", out).err
    assert not out.exists()


def test_measure_when_it_names_a_pack_of_the_hub_then_its_reference_is_the_packs(
    served: HubServer, tmp_path: Path
) -> None:
    whole, n = packs.read(SHIPPED), 4
    few = {name: getattr(whole.record, name)[:n] for name in ("questions", "images", "answers")}
    few_questions = packs.Pack(msgspec.structs.replace(whole.record, **few), whole.distributions[:n])
    packs.write(tmp_path / "four.safetensors", few_questions)
    content = (tmp_path / "four.safetensors").read_bytes()
    served.repos["datasets/acme/four"] = HubRepo("acme/four", {"four.safetensors": content}, dataset=True)
    with (
        running(tmp_path / "cache", tmp_path / "log.txt", more=served.environment(tmp_path / "hf")) as app,
        closing(Client(app.url, verbose=False)) as client,
    ):
        q2 = "tiny-vlm:Q2_K+mmproj-F16"
        last = client.predict([q2], pack="acme/four", uploader="acme", api_name="/measure")
        assert (last["done"], last["questions"]) == (True, n)
        (reference, variant) = last["variants"]
        assert reference.get("mean_kl") is None
        assert variant["mean_kl"]["value"] > 0.01
        assert last["results"]["reference"]["pack_sha256"] == packs.read(tmp_path / "four.safetensors").digest
        with pytest.raises(AppError, match=r"The repository has: a\.safetensors, b\.safetensors"):
            client.predict([q2], pack="acme/two", api_name="/measure")
        with pytest.raises(AppError, match=r"The form of the prompts is the pack's\. Leave out system\."):
            client.predict([q2], pack="acme/four", system="Be short.", api_name="/measure")
