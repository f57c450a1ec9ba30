"""The settings that a run takes, and the JSON documents that it gives."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from playground.comparing import run_settings
from playground.errors import BadInput
from playground.measuring.results import Measurement
from playground.rendering import json_documents
from playground.values.answer import ComparisonUpdate, Metrics, Pane, PaneState
from playground.values.files import NO_FILE, ModelFile, Variant
from playground.values.memory import (
    HOST,
    Forecast,
    GpuMemory,
    MemoryParts,
    MemoryReport,
    QueuedRun,
    WorkerMemory,
    WorkerRole,
    WorkerState,
)
from playground.values.request import ImagePlace, Order, Runtime, Sampling
from testkit.ship_cards import ASKED, VARIANTS, N, result

# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [None, {}, {"temperature": None, "stop": None, "order": None}])
def test_settings_when_nothing_is_given_then_the_defaults(document: dict[str, Any] | None) -> None:
    settings = run_settings.read_settings(document)
    assert settings.sampling() == Sampling()
    assert settings.runtime() == Runtime()
    assert (settings.order, settings.reference, settings.chat_template) == (None, None, None)


def test_settings_when_all_are_given_then_each_arrives() -> None:
    sampling: dict[str, Any] = {"temperature": 0.5, "top_k": 10, "top_p": 0.9, "min_p": 0.1, "seed": 7}
    sampling |= {"repeat_penalty": 1.1, "presence_penalty": 1.5, "frequency_penalty": -0.5, "penalty_last_n": 99}
    sampling |= {"dry_multiplier": 0.8, "dry_base": 2.0, "dry_allowed_length": 3, "grammar": 'root ::= "a"'}
    runtime: dict[str, Any] = {"n_ctx": 2048, "n_threads": 2, "n_batch": 64, "n_gpu_layers": 0}
    runtime |= {"flash_attention": False}
    rest = {"order": "race", "reference": "tiny-vlm:F16+mmproj-F16", "chat_template": "chatml", "probabilities": True}
    stops = {"max_tokens": 9, "stop": ["\n", "###"]}
    settings = run_settings.read_settings(json.loads(json.dumps(sampling | stops | runtime | rest)))
    assert settings.sampling() == Sampling(**sampling, max_tokens=9, stop=("\n", "###"))
    assert settings.runtime() == Runtime(**runtime)
    assert settings.order is Order.RACE
    assert (settings.reference, settings.chat_template) == (rest["reference"], "chatml")
    assert settings.probabilities is True


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("temperature", 0, 5), ("top_k", 0, 1000), ("top_p", 0, 1), ("min_p", 0, 1), ("repeat_penalty", 0.5, 2),
        ("seed", 0, 4294967295), ("max_tokens", 1, 8192), ("n_ctx", 64, 262144), ("n_threads", 1, 256),
        ("n_batch", 8, 8192), ("n_gpu_layers", -1, 1000), ("penalty_last_n", 0, 8192), ("presence_penalty", -2, 2),
        ("frequency_penalty", -2, 2), ("dry_multiplier", 0, 5), ("dry_base", 1, 4), ("dry_allowed_length", 1, 1000),
    ],
)  # fmt: skip
def test_setting_when_at_or_beyond_its_limits_then_taken_or_refused(name: str, low: float, high: float) -> None:
    for value in (low, high):
        assert getattr(run_settings.read_settings({name: value}), name) == value
    is_whole = name.startswith("n_") or name in ("top_k", "seed", "max_tokens", "penalty_last_n", "dry_allowed_length")
    step = 1 if is_whole else 0.001
    for value in (low - step, high + step):
        with pytest.raises(BadInput) as refused:
            run_settings.read_settings({name: value})
        assert str(refused.value) == f"{name} has to be between {low} and {high}, not {value}."


def test_settings_when_an_answer_is_bound_to_a_schema_then_it_arrives_as_json_text() -> None:
    schema = {"type": "object", "title": "größe"}
    for source in (schema, json.dumps(schema, ensure_ascii=False)):
        settings = run_settings.read_settings({"json_schema": source})
        assert settings.sampling() == Sampling(json_schema='{"type": "object", "title": "größe"}')


def test_settings_when_how_to_ask_is_given_then_it_arrives() -> None:
    settings = run_settings.read_settings(
        {"system": "", "image_place": "behind", "template_variables": {"enable_thinking": False}}
    )
    assert (settings.system, settings.image_place) == ("", ImagePlace.BEHIND)
    assert settings.template_variables == {"enable_thinking": False}


def test_setting_when_not_limited_then_that_is_known_here() -> None:
    """A new setting gets a limit, or a place in this list."""
    unlimited = {"stop", "flash_attention", "order", "reference", "chat_template", "probabilities"}
    unlimited |= {"projector_on_gpu", "split_gpus", "remedies"}
    unlimited |= {"grammar", "json_schema", "system", "template_variables", "image_place"}
    unlimited |= {"cache_type_k", "cache_type_v", "kv_types", "image_tokens", "branches", "cold"}
    assert set(run_settings.RunSettings.__struct_fields__) - set(run_settings._LIMITS) == unlimited


def test_setting_when_in_the_demo_mode_then_it_is_known_what_it_costs() -> None:
    """A new setting is limited, kept at its default, or free: by what it costs."""
    machine, free = run_settings._MACHINE_SETTINGS, run_settings._FREE_SETTINGS
    assert sorted([*machine, *free, "max_tokens", "n_ctx"]) == sorted(run_settings.RunSettings.__struct_fields__)
    settings = run_settings.read_settings(
        {"order": "race", "grammar": 'root ::= "a"', "template_variables": {"enable_thinking": False}, "system": "Hi"}
    )
    assert settings.limited(100, 2048) == run_settings.RunSettings(
        max_tokens=100, n_ctx=2048, template_variables={"enable_thinking": False}, system="Hi"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": math.nan}, "temperature has to be between 0 and 5, not nan"),
        ({"temperature": math.inf}, "temperature has to be between 0 and 5, not inf"),
        ({"top_p": -math.inf}, "top_p has to be between 0 and 1, not -inf"),
        ({"seed": 10**400}, "seed has to be between"),
        ({"seed": math.inf}, "$.seed"),
        ({"top_k": 1.5}, "$.top_k"),
        ({"top_k": "40"}, "$.top_k"),
        ({"top_k": True}, "$.top_k"),
        ({"temperature": True}, "$.temperature"),
        ({"temperature": [0]}, "$.temperature"),
        ({"flash_attention": 1}, "$.flash_attention"),
        ({"order": "together"}, "$.order"),
        ({"reference": 3}, "$.reference"),
        ({"grammar": "a", "json_schema": {}}, "Give a grammar or a json_schema, not both."),
        ({"json_schema": "{"}, "The json_schema is invalid JSON"),
        ({"json_schema": "[]"}, "The json_schema has to be a JSON object"),
        ({"json_schema": {"a": "x" * 100_001}}, "The json_schema is too long"),
        ({"system": "x" * 100_001}, "The system is too long: at most 100,000 characters."),
        ({"template_variables": {"messages": []}}, "A template variable cannot be called 'messages'."),
        ({"template_variables": {"no name": 1}}, "A template variable cannot be called 'no name'."),
        ({"template_variables": [1]}, "$.template_variables"),
        ({"template_variables": {"a": "\ud800"}}, "template_variables contains an invalid character"),
        ({"image_place": "left"}, "$.image_place"),
        ({"stop": "END"}, "$.stop"),
        ({"stop": [None]}, "$.stop[0]"),
        ({"stop": ["x" * 1001]}, "The stop texts are too long"),
        ({"stop": ["x" * 501, "y" * 500]}, "The stop texts are too long"),
        ({"temprature": 1}, "unknown field `temprature`"),
        ({1: 2}, "The settings cannot be used"),
        ([1], "The settings cannot be used: Expected `object`"),
        ("temperature=1", "The settings cannot be used: Expected `object`"),
    ],
    ids=str,
)
def test_settings_when_unusable_then_refused_naming_the_setting(settings: Any, message: str) -> None:
    with pytest.raises(BadInput) as refused:
        run_settings.read_settings(settings)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("settings", [[], "", 0, False], ids=repr)
def test_settings_when_empty_but_no_object_then_refused_too(settings: Any) -> None:
    with pytest.raises(BadInput, match="The settings cannot be used"):
        run_settings.read_settings(settings)


def test_stop_when_a_million_empty_texts_then_refused() -> None:
    """Together they have no character; each costs the engine a search per token all the same."""
    with pytest.raises(BadInput, match="stop"):
        run_settings.read_settings({"stop": [""] * 1_000_000})


def test_chat_template_when_ten_megabytes_then_refused() -> None:
    with pytest.raises(BadInput, match="chat_template"):
        run_settings.read_settings({"chat_template": "{" * 10_000_000})


@pytest.mark.parametrize("name", ["stop", "chat_template", "reference"])
def test_text_when_it_holds_half_a_character_then_refused(name: str) -> None:
    """JSON may spell it ("\\ud800"), but it cannot be sent to a worker: it is no UTF-8."""
    half = json.loads('"\\ud800"')
    with pytest.raises(BadInput, match=name):
        run_settings.read_settings({name: [half] if name == "stop" else half})


# --- documents --------------------------------------------------------------------------------------------

F16 = ModelFile("/models/a-F16.gguf", 100, "aa", "F16", 50, "llama", "vv")
MMPROJ = ModelFile("/models/mmproj-a-F16.gguf", 40, "bb", "F16", 20, "clip")
VARIANT = Variant("a:F16+mmproj-F16", "a", "F16", F16, MMPROJ, reference=True)

METRICS = {
    "load_s", "encode_s", "encode_cached", "prompt_s", "prompt_tokens", "image_tokens", "ttft_s", "decode_tok_per_s",
    "generated_tokens", "host_rss_bytes", "gpu_bytes",
}  # fmt: skip


def update() -> ComparisonUpdate:
    pane = Pane(
        variant=VARIANT.id,
        state=PaneState.DONE,
        text="<b>a</b> \u2028 ★",
        token_ids=(1, 2, 3),
        metrics=Metrics(load_s=0.5, encode_cached=False, generated_tokens=3),
        first_divergence=2,
        finish_reason="end of text",
    )
    failed = Pane(
        variant="b", state=PaneState.FAILED, error="The worker was killed.", error_code="worker_died", log=("line",)
    )
    return ComparisonUpdate((pane, failed), done=True, notes=("turned upright",), elapsed_s=1.5)


def test_update_when_a_document_then_json_with_the_promised_keys() -> None:
    document = json.loads(json.dumps(json_documents.of_update(update()), allow_nan=False))
    assert {"panes", "done"} <= set(document)
    assert document["done"] is True
    ended, failed = document["panes"]
    for pane in (ended, failed):
        assert {"variant", "state", "text", "metrics", "first_divergence", "error"} <= set(pane)
        assert set(pane["metrics"]) >= METRICS
    assert (ended["variant"], ended["state"], ended["text"]) == (VARIANT.id, "done", "<b>a</b> \u2028 ★")
    assert (ended["first_divergence"], ended["error"]) == (2, None)
    assert (ended["error_code"], failed["error_code"]) == (None, "worker_died")
    assert (failed["state"], failed["error"], failed["first_divergence"]) == (
        "failed",
        "The worker was killed.",
        None,
    )


def test_variant_when_it_answers_elsewhere_then_its_files_are_null() -> None:
    document = json_documents.of_variant(Variant("elsewhere:box", "elsewhere", "box", NO_FILE, NO_FILE, endpoint="box"))
    known = {name: value for name, value in document.items() if value is not None}
    assert known == {
        "id": "elsewhere:box", "family": "elsewhere", "label": "box", "reference": False, "endpoint": "box"
    }  # fmt: skip
    assert json_documents.of_variant(VARIANT).keys() == document.keys()


def test_metrics_when_unknown_then_null_and_not_0() -> None:
    ended, failed = json_documents.of_update(update())["panes"]
    assert (ended["metrics"]["load_s"], ended["metrics"]["encode_cached"]) == (0.5, False)
    assert (ended["metrics"]["gpu_bytes"], ended["metrics"]["ttft_s"]) == (None, None)
    assert set(failed["metrics"].values()) == {None}


@pytest.mark.parametrize("state", PaneState)
def test_state_when_a_document_then_it_is_its_word(state: PaneState) -> None:
    document = json_documents.of_pane(Pane("a", state=state))
    assert json.loads(json.dumps(document))["state"] == str(state)
    assert type(document["state"]) is str


def test_variant_when_a_document_then_json_with_the_promised_keys() -> None:
    document = json.loads(json.dumps(json_documents.of_variant(VARIANT)))
    promised = {"id", "family", "label", "quantization", "projector", "bytes", "sha256", "reference"}
    assert promised <= set(document)
    assert {key: document[key] for key in promised} == {
        "id": "a:F16+mmproj-F16",
        "family": "a",
        "label": "F16",
        "quantization": "F16",
        "projector": "F16",
        "bytes": 100,
        "sha256": "aa",
        "reference": True,
    }
    assert (document["bits_per_weight"], document["projector_bytes"]) == (16.0, 40)
    assert "/models" not in json.dumps(document)  # where files lie is the operator's own business


def test_memory_when_a_document_then_json_with_each_workers_pid_role_state_and_bytes() -> None:
    parts = {"GPU 0": MemoryParts(3, process=1), HOST: MemoryParts(0, process=7)}
    worker = WorkerMemory(
        id="1", pid=42, role=WorkerRole.VISION, state=WorkerState.BUSY, file="mmproj.gguf", place="GPU 0", bytes=5,
        host_rss_bytes=9, gpu_bytes=5, measured_by="process", peak_bytes=6, forecast=Forecast(parts, "header"),
        leases=1, pinned=False, idle_s=0.0,
    )  # fmt: skip
    queue = (QueuedRun("anna", ("a.gguf",), 0.5, "GPU 0"), QueuedRun("bert", ("b.gguf",), 0.1, None))
    report = MemoryReport(1.0, (worker,), (GpuMemory(0, "H100", 80, 10),), 64, 32, {"GPU 0": 25, HOST: 30}, queue)
    document = json.loads(json.dumps(json_documents.of_memory(report)))
    (row,) = document["workers"]
    assert (row["pid"], row["role"], row["state"], row["bytes"]) == (42, "vision", "busy", 5)
    assert (worker.forecast_bytes, row["forecast"]["parts"]["GPU 0"]["weights"]) == (4, 3)
    assert (document["gpus"][0]["name"], document["gpus"][0]["temperature_c"]) == ("H100", None)
    assert (document["budget_bytes"], document["queue_length"]) == (25, 2)
    assert "anna" not in json.dumps(document)  # who waits is nobody's business


def test_measurement_when_it_has_ended_then_its_document_says_what_the_tests_allow() -> None:
    variants = [VARIANTS[name] for name in ("F16", "Q8", "Q4", "Q2")]
    results = (result("F16"), result("Q8", 1e-4), result("Q4", 1e-3, changed=2), result("Q2", 0.1, changed=60))
    document = json_documents.of_news(Measurement(ASKED, ("a",) * N, results), variants, variants[0].id)
    said = {v["variant"]: (v["verdict"], v["enough_questions"]) for v in document["variants"]}
    enough = said[variants[2].id][1]
    assert enough > N
    assert said == {
        variants[0].id: (None, None),
        variants[1].id: ("fit to ship", None),
        variants[2].id: ("not enough questions", enough),
        variants[3].id: ("changes answers", None),
    }
    assert document["variants"][2]["verdict_words"].startswith("Not enough questions: 2 of 150 answers changed")
    assert document["verdict"] == (
        f"Keeps the answers: Q8. Changes more answers than are accepted: Q2. "
        f"Not enough questions to tell: Q4 (about {enough} would be enough)."
    )
    assert json.loads(json.dumps(document)) == document
