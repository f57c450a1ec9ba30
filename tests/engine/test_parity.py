"""Parity with the real engine: the embedded pair against an original whose answers are known beforehand."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy
import pytest
import safetensors.numpy
from typer.testing import CliRunner

from playground.cli.commands import app
from playground.comparing import prompts
from playground.engine.protocol import EncodedPrompt, ImageChunk, TextChunk
from playground.errors import BadInput, BadModel, EngineError
from playground.measuring import original, parity, question_sets
from playground.measuring.parity import Parity, Part
from playground.measuring.parity_job import ParityJob, ParityRequest
from playground.measuring.results import MeasurementPlan
from playground.measuring.steps import Item, Steps
from playground.models.presets import data_folder
from playground.pool.worker_spec import vision_spec
from playground.values.files import Variant
from playground.values.request import PromptForm, Sampling
from playground.wiring import Parts
from testkit import original_child
from testkit.running import SHORT_CONTEXT, measured

QUESTIONS = question_sets.embedded(data_folder() / "tiny-vlm/evaluation", level="hard").first(1)
TOKENS = 6
IMAGE_TOKEN = 3  # the embedded pair's vocabulary has none; the job only needs to know the places


@dataclass
class Prepared:
    """What the original's process writes, as it would be if the pair itself were the original."""

    prompt: EncodedPrompt
    rows: Any  # the pair's embeddings
    pixels: Any
    arrays: dict[str, Any]
    answer: tuple[int, ...]
    aligned: bool = True

    def with_rows(self, rows: Any) -> EncodedPrompt:
        chunks = []
        for chunk in self.prompt.chunks:
            if isinstance(chunk, ImageChunk):
                data = numpy.ascontiguousarray(rows, numpy.float32).tobytes()
                chunk = msgspec.structs.replace(chunk, embeddings=data, key=f"changed {hash(data)}")
            chunks.append(chunk)
        return msgspec.structs.replace(self.prompt, chunks=tuple(chunks))


def prepare(parts: Parts, variant: Variant) -> Prepared:
    item = Item(QUESTIONS.items[0], QUESTIONS.image(QUESTIONS.items[0]))
    steps = Steps(parts.lab, variant, SHORT_CONTEXT, Sampling(max_tokens=TOKENS), lambda: False)
    spec = vision_spec(variant.projector, variant.model, SHORT_CONTEXT, [item.image], keep_inputs=True)
    with parts.pool.lease(spec) as lease:
        prompt = prompts.encode_one(
            lease, None, variant, SHORT_CONTEXT, item.question.question, item.image, PromptForm(), lambda: False
        )
    (image,) = (chunk for chunk in prompt.chunks if isinstance(chunk, ImageChunk))
    (encoder_input,) = image.inputs
    rows = numpy.frombuffer(image.embeddings, numpy.float32).reshape(image.n_tokens, -1)
    pixels = numpy.frombuffer(encoder_input.values, numpy.float32).reshape(encoder_input.shape)[0]
    ids: list[int] = []
    for chunk in prompt.chunks:
        ids += chunk.token_ids if isinstance(chunk, TextChunk) else [IMAGE_TOKEN] * chunk.n_tokens
    start = len(prompt.chunks[0].token_ids) if isinstance(prompt.chunks[0], TextChunk) else 0
    slots = numpy.arange(start, start + image.n_tokens)
    arrays = {
        "ids": numpy.array(ids), "slots": slots, "embeddings": rows, "embeddings-of-inputs": rows, "picture-0": pixels,
    }  # fmt: skip
    return Prepared(prompt, rows, pixels, arrays, steps.answer(variant, item).token_ids)


def asked(
    parts: Parts, variant: Variant, folder: Path, known: Prepared, source: Variant, prompt: EncodedPrompt
) -> Parity:
    """Parity with an original that is `source`'s language model, which was asked `prompt`."""
    prepared = folder / "prepared"
    prepared.mkdir()
    steps = Steps(parts.lab, variant, SHORT_CONTEXT, Sampling(max_tokens=TOKENS), lambda: False)
    steps.record(source, prompt, known.answer, prepared / "0.f32")
    numpy.savez(prepared / "0.npz", **known.arrays)
    document = {"answer": known.answer, "text": "", "native": True, "aligned": known.aligned}
    (prepared / "0.json").write_text(json.dumps(document))
    texts = gguf.GGUFReader(variant.model.path).fields["tokenizer.ggml.tokens"].contents()
    (prepared / "vocabulary.json").write_text(json.dumps(texts))
    (prepared / "last.json").write_text('{"done": true}')
    *_, reading = job(parts, variant, folder, prepared).run()
    assert isinstance(reading, Parity)
    return reading


def job(parts: Parts, variant: Variant, folder: Path, prepared: Path) -> ParityJob:
    weights = folder / "original"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    safetensors.numpy.save_file({"a": numpy.zeros(4, numpy.float32)}, weights / "model.safetensors")
    python = original_child.interpreter(folder, prepared)
    request = ParityRequest(
        variant, QUESTIONS, weights, "tiny", python, 10**6, max_tokens=TOKENS, runtime=SHORT_CONTEXT
    )
    return ParityJob(parts.lab, request, engine=parts.engine)


@pytest.fixture
def pair(parts: Parts) -> Variant:
    return parts.catalog.choose(["F16"])[0]


def test_parity_when_the_pair_is_the_original_then_no_part_differs_and_the_card_says_how_far(
    parts: Parts, pair: Variant, tmp_path: Path
) -> None:
    known = prepare(parts, pair)
    reading = asked(parts, pair, tmp_path, known, pair, known.prompt)
    assert reading.kl < 1e-5
    assert set(reading.parts) == {Part.PREPROCESSING, Part.ENCODER, Part.MODEL}
    assert (reading.culprit, reading.findings, reading.same_answers) == (None, (), 1)
    assert reading.tokens == len(known.answer) + 1
    picture = reading.pictures[0]
    assert picture.tokens == (len(known.rows), len(known.rows))
    assert picture.errors is not None
    assert picture.errors.error == 0
    assert [round(channel.gain, 6) for channel in picture.channels] == [1.0] * 3
    variants = parts.catalog.choose(["F16", "Q2_K"])
    measurement = measured(parts, QUESTIONS, variants, MeasurementPlan())
    assert measurement.parity == reading
    assert "no part differs" in parity.words(measurement.parity)


def test_parity_when_one_part_differs_then_it_is_named(parts: Parts, pair: Variant, tmp_path: Path) -> None:
    known = prepare(parts, pair)
    turned = known.rows[::-1]
    last = known.prompt.chunks[-1]
    assert isinstance(last, TextChunk)
    backwards = last.token_ids[::-1]
    other_text = msgspec.structs.replace(known.prompt, chunks=(*known.prompt.chunks[:-1], TextChunk(backwards)))
    ids = numpy.concatenate([known.arrays["ids"][: -len(backwards)], backwards])
    for part, changed, source, prompt, finding in (
        (
            Part.ENCODER,
            {"embeddings": turned, "embeddings-of-inputs": turned},
            pair,
            known.with_rows(turned),
            "Vision encoder: of the same pixels it makes other embeddings in 1 of 1 pictures",
        ),
        (
            Part.PREPROCESSING,
            {"embeddings": turned, "picture-0": known.pixels + 0.5},
            pair,
            known.with_rows(turned),
            "Preprocessing: the pixels are normalized otherwise",
        ),
        (
            Part.MODEL,
            {},
            parts.catalog.choose(["Q2_K"])[0],
            known.prompt,
            "Language model: with the original's own tokens and image embeddings",
        ),
        (
            Part.PROMPT,
            {"ids": ids},
            pair,
            other_text,
            "Prompt: behind the image the original's chat template gives other tokens than the pair's",
        ),
    ):
        folder = tmp_path / part.name
        folder.mkdir()
        case = replace(known, arrays=known.arrays | changed, aligned=part is not Part.PROMPT)
        reading = asked(parts, pair, folder, case, source, prompt)
        assert reading.culprit is part
        assert max(kl for other, kl in reading.parts.items() if other is not part) < 1e-5
        assert [seen for seen in reading.findings if seen.startswith(finding)], reading.findings


def test_command_when_called_then_it_prints_the_reading_and_its_exit_code_says_whether_a_part_differs(
    parts: Parts, pair: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = prepare(parts, pair)
    monkeypatch.setenv("PLAYGROUND_CACHE_DIR", str(tmp_path / "cache"))
    for source, code, words in (
        (pair, 0, "no part differs by more than 0.01"),
        (parts.catalog.choose(["Q2_K"])[0], 1, "most of it comes from the language model."),
    ):
        folder = tmp_path / source.label
        folder.mkdir()
        reading = asked(parts, pair, folder, known, source, known.prompt)
        command = ["parity", str(folder / "original"), "--model", pair.model.path, "--projector", pair.projector.path]
        command += ["--level", "hard", "-n", "1", "--max-tokens", str(TOKENS), "--python", str(folder / "python")]
        called = CliRunner().invoke(app, command)
        assert called.exit_code == code, called.output
        assert f"language model   {reading.parts[Part.MODEL]:10.3g}" in called.stdout
        assert words in called.stdout
    printed = msgspec.json.decode(CliRunner().invoke(app, [*command, "--json"]).stdout, type=Parity)
    assert (printed.parts, printed.culprit, printed.original) == (reading.parts, Part.MODEL, "original")


def test_command_when_the_interpreter_has_no_torch_then_it_says_what_to_install(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    for path in (python, tmp_path / "none"):
        with pytest.raises(BadInput, match=r"pip install 'vlm-quant-playground\[parity\]'"):
            original.check_interpreter(str(path))


@pytest.mark.parametrize(
    ("last", "error", "message"),
    [
        ('{"error": "The original is broken."}', BadModel, "The original is broken"),
        (None, EngineError, r"ended \(status 1\)"),
    ],
)
def test_parity_when_the_original_fails_then_its_words_are_reported(
    parts: Parts, pair: Variant, tmp_path: Path, last: str | None, error: type[Exception], message: str
) -> None:
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    if last is not None:
        (prepared / "last.json").write_text(last)
    with pytest.raises(error, match=message):
        list(job(parts, pair, tmp_path, prepared).run())
