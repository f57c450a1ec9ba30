"""Importance matrices with the real engine: what is summed, what becomes of it, and what is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from gguf import GGUFReader, GGUFWriter

from playground.comparing import prompts
from playground.comparing.images import read_image
from playground.engine.protocol import (
    ChatMessage,
    Encode,
    EncodedPrompt,
    Generate,
    ImageChunk,
    ImportanceWritten,
    Record,
    Score,
    TensorType,
    TextChunk,
    WriteImportance,
)
from playground.errors import BadInput, EngineError, Interrupted, PlaygroundError
from playground.measuring import question_sets
from playground.measuring.question_sets import Question, QuestionSet
from playground.models.presets import data_folder
from playground.pool.worker_spec import language_spec, vision_spec
from playground.quantizing import importance_matrix, quantizer
from playground.settings import Settings
from playground.values.files import Half, ModelFile, Variant
from playground.values.request import PromptForm, Runtime, Sampling
from playground.wiring import Parts, open_parts
from testkit import pairs
from testkit.running import measured

FOLDER = data_folder() / "tiny-vlm"
MODEL, PROJECTOR = FOLDER / "tiny-vlm-7M-F16.gguf", FOLDER / "mmproj-tiny-vlm-7M-F16.gguf"
IMAGE = FOLDER / "evaluation/hard-62.png"
# All but the MLPs of the first layers: the grids of IQ types take seconds to search, and every type has its own.
REST = (TensorType(r"blk\.[2-9]|attn|embd|mm", "q8_0"),)
RUNTIME = Runtime(n_ctx=512)
HARD = question_sets.embedded(FOLDER / "evaluation", level="hard")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with open_parts(Settings(cache_dir=tmp_path_factory.mktemp("importance")), any_folder=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def pair(parts: Parts) -> Variant:
    return parts.catalog.open_pair(MODEL, PROJECTOR)


@pytest.fixture(scope="module")
def matrices(parts: Parts, pair: Variant, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """Of each half, made from every second picture."""
    folder = tmp_path_factory.mktemp("matrices")
    matrices = {}
    for source, half in ((MODEL, Half.MODEL), (PROJECTOR, Half.PROJECTOR)):
        target = folder / f"{source.stem}.imatrix.gguf"
        matrix = importance_matrix.collect(parts.lab, pair, half, _asked(0).first(8), target, runtime=RUNTIME)
        assert (matrix.path, matrix.problems) == (target, ())
        matrices[source] = target
    return matrices


def _asked(rest: int) -> QuestionSet:
    """The questions about every second picture."""
    names = sorted({item.image for item in HARD.items})[rest::2]
    return QuestionSet(f"pictures {rest}", [item for item in HARD.items if item.image in names], FOLDER / "evaluation")


def sums(path: Path) -> dict[str, numpy.ndarray]:
    """Tensors of a matrix by their names, float64."""
    return {tensor.name: tensor.data.astype(numpy.float64) for tensor in GGUFReader(path).tensors}


def weights(path: Path) -> dict[str, numpy.ndarray]:
    return {tensor.name: tensor.data.astype(numpy.float64) for tensor in GGUFReader(path).tensors}


def text_prompt(ids: list[int]) -> EncodedPrompt:
    return EncodedPrompt((TextChunk(tuple(ids)),), 256, "", 0.0, None)


def written(parts: Parts, model: ModelFile, requests: list[Score], path: Path) -> ImportanceWritten:
    with parts.pool.lease(language_spec(model, RUNTIME, observe=True)) as lease:
        for request in requests:
            lease.request(request)
        reply = lease.request(WriteImportance(str(path), "a test"))
    return reply


# --- what is summed ---------------------------------------------------------------------------------------


def test_first_layer_when_a_text_is_read_then_the_sums_are_those_of_its_normed_embeddings(
    parts: Parts, pair: Variant, tmp_path: Path
) -> None:
    ids = [5, 17, 300, 42, 42, 767, 100, 8, 99, 600, 12, 13, 14]
    path = tmp_path / "matrix.gguf"
    parts.pool.unload(language_spec(pair.model, RUNTIME, observe=True))  # another test may have had it read
    # Short, as answers are; the second prompt has the first one's chunk, which is not to be left out.
    scores = [Score(text_prompt(ids), (9, 10), RUNTIME), Score(text_prompt(ids), (11,), RUNTIME)]
    reply = written(parts, pair.model, scores, path)
    totals, model = sums(path), weights(MODEL)
    read = [*ids, 9, 10, *ids, 11]
    rows = model["token_embd.weight"][read]
    normed = rows / numpy.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5) * model["blk.0.attn_norm.weight"]
    for name in ("attn_q", "attn_k", "attn_v"):
        assert totals[f"blk.0.{name}.weight.in_sum2"].ravel() == pytest.approx((normed**2).sum(axis=0), rel=1e-4)
        assert totals[f"blk.0.{name}.weight.counts"].ravel() == [len(read)]
    assert reply.rows == len(read)  # the warm-up is not among them
    # What only the next token needs is computed where its distribution is wanted: behind the prompt and in the answer.
    assert totals["token_embd.weight.counts"].ravel() == [3 + 2]
    matrices = {tensor.name for tensor in GGUFReader(MODEL).tensors if len(tensor.shape) == 2}
    assert {name.removesuffix(".counts") for name in totals if name.endswith(".counts")} == matrices
    fields = GGUFReader(path).fields
    assert [fields[f"imatrix.{key}"].contents() for key in ("datasets", "chunk_count", "chunk_size")] == [
        ["a test"], 2, len(read) // 2,
    ]  # fmt: skip


def test_first_vision_layer_when_an_image_is_encoded_then_the_sums_are_those_of_its_normed_patches(
    parts: Parts, pair: Variant, tmp_path: Path
) -> None:
    image, path = read_image(IMAGE), tmp_path / "matrix.gguf"
    assert (image.width, image.height) == (192, 192)  # nothing is resized
    question_set = QuestionSet("one", [Question(IMAGE.name, "What?"), Question(IMAGE.name, "And?")], IMAGE.parent)
    matrix = importance_matrix.collect(parts.lab, pair, Half.PROJECTOR, question_set, path, runtime=RUNTIME)
    assert (matrix.readings, matrix.rows) == (1, 144)  # one picture, asked about twice
    tower = weights(PROJECTOR)
    pixels = numpy.frombuffer(image.rgb, numpy.uint8).reshape(12, 16, 12, 16, 3) / 255.0
    patches = ((pixels - 0.5) / 0.5).transpose(0, 2, 4, 1, 3).reshape(144, -1).astype(numpy.float16)
    rows = patches.astype(numpy.float64) @ tower["v.patch_embd.weight"].reshape(256, -1).T
    rows += tower["v.patch_embd.bias"] + tower["v.position_embd.weight"]
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= numpy.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-6)
    normed = rows * tower["v.blk.0.ln1.weight"] + tower["v.blk.0.ln1.bias"]
    summed = sums(path)
    assert summed["v.blk.0.attn_q.weight.in_sum2"].ravel() == pytest.approx((normed**2).sum(axis=0), rel=2e-3)
    assert {name.removesuffix(".counts") for name in summed if name.endswith(".counts")} == {
        name for name, data in tower.items() if data.ndim == 2 and name != "v.position_embd.weight"
    }


def test_experts_when_tokens_are_sent_to_some_then_each_sums_what_it_met(parts: Parts, tmp_path: Path) -> None:
    file = pairs.write_experts(tmp_path, n_experts=4, n_used=2)
    model = ModelFile(str(file), file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest(), "F16", 1, "llama")
    path = tmp_path / "matrix.gguf"
    written(parts, model, [Score(text_prompt(list(range(3, 60))), tuple(range(200, 240)), RUNTIME)], path)
    totals = sums(path)
    # The router reads what the experts read.
    router, n = (totals[f"blk.0.ffn_gate_inp.weight.{part}"] for part in ("in_sum2", "counts"))
    for part in ("gate", "up", "down"):
        squares, rows = (totals[f"blk.0.ffn_{part}_exps.weight.{kind}"] for kind in ("in_sum2", "counts"))
        assert (squares.shape, rows.shape) == ((4, 256), (4, 1))
        assert rows.sum() == 2 * n.sum()
        assert len(set(rows.ravel())) > 1
        if part != "down":
            assert squares.sum(axis=0) == pytest.approx(2 * router.ravel(), rel=1e-4)
    quantized = quantizer.make(file, tmp_path / "new.gguf", "IQ2_XS", parts.pool, half=Half.MODEL, imatrix=path)
    assert quantized.notes == ()


def test_observing_when_compared_with_not_then_the_same_logits_and_embeddings(
    parts: Parts, pair: Variant, tmp_path: Path
) -> None:
    records, embeddings = [], []
    for observe in (False, True):
        with parts.pool.lease(vision_spec(pair.projector, pair.model, RUNTIME, observe=observe)) as lease:
            prompt = lease.request(Encode((ChatMessage("user", "What?", 1),), (read_image(IMAGE),)))
        embeddings.append([chunk.embeddings for chunk in prompt.chunks if isinstance(chunk, ImageChunk)])
        record = tmp_path / f"{observe}"
        with parts.pool.lease(language_spec(pair.model, RUNTIME, observe=observe)) as lease:
            lease.request(Record(prompt, tuple(range(40)), RUNTIME, str(record)))
        records.append(record.read_bytes())
    assert embeddings[0] == embeddings[1]
    assert records[0] == records[1]


def test_reading_when_it_fails_then_nothing_of_it_counts(parts: Parts, pair: Variant, tmp_path: Path) -> None:
    parts.pool.unload(language_spec(pair.model, RUNTIME, observe=True))  # another test may have had it read
    scores, ids = [Score(text_prompt([1, 2, 3]), (4,), RUNTIME)], tuple(range(300))
    with parts.pool.lease(language_spec(pair.model, RUNTIME, observe=True)) as lease:
        with pytest.raises(EngineError):  # a full context, after hundreds of tokens were read
            lease.request(Score(text_prompt([*ids]), ids, RUNTIME))
        with pytest.raises(EngineError, match="Nothing was read"):
            lease.request(WriteImportance(str(tmp_path / "matrix.gguf"), ""))
    assert written(parts, pair.model, scores, tmp_path / "matrix.gguf").rows == 4


def test_ggml_when_another_one_then_said_before_anything_is_read() -> None:
    """A field that moved, as between versions of llama.cpp."""
    code = """
import ctypes
from playground.engine import tensors
from playground.errors import EngineError
fields = list(tensors.Tensor._fields_)
for i in range(len(fields) - 1):
    moved = [*fields[:i], fields[i + 1], fields[i], *fields[i + 2:]]
    changed = [("new", ctypes.c_int64), *fields], [f for f in fields if f[0] != fields[i][0]], moved
    for layout in changed[:3 if i < 9 else 2]:  # data, name and what is behind them have room to spare
        try:
            tensors.check_layout(tensors.Ggml(), type("T", (ctypes.Structure,), {"_fields_": layout}))
        except EngineError as error:
            assert "do not work with this version" in str(error)
        except AttributeError as error:
            assert fields[i][0] in str(error)
        else:
            assert fields[i][0] in ("op_params", "flags", "extra", "padding"), fields[i][0]
tensors.check_layout(tensors.Ggml())
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr[-2000:]


# --- what becomes of it -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "half", "quantization"), [(MODEL, Half.MODEL, "IQ2_XS"), (PROJECTOR, Half.PROJECTOR, "IQ3_XXS")]
)
def test_iq_type_when_with_a_matrix_then_made_and_it_answers_and_without_one_refused(
    parts: Parts, tmp_path: Path, matrices: dict[Path, Path], source: Path, half: Half, quantization: str
) -> None:
    target = tmp_path / f"{'mmproj-' * (half is Half.PROJECTOR)}new-{quantization}.gguf"
    with pytest.raises(EngineError, match="this quantization requires an imatrix"):
        quantizer.make(source, target, quantization, parts.pool, half=half)
    file = quantizer.make(
        source, target, quantization, parts.pool, half=half, imatrix=matrices[source], tensor_types=REST
    )
    assert file.notes == ()
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(target).tensors}
    assert kinds[f"{'v.' * (half is Half.PROJECTOR)}blk.0.ffn_up.weight"] == quantization
    digest = GGUFReader(target).fields["quantize.imatrix.sha256"].contents()
    assert digest == hashlib.sha256(matrices[source].read_bytes()).hexdigest()
    variant = parts.catalog.open_pair(*((MODEL, target) if half is Half.PROJECTOR else (target, PROJECTOR)))
    with parts.pool.lease(vision_spec(variant.projector, variant.model, RUNTIME)) as lease:
        prompt = lease.request(Encode((ChatMessage("user", "What shape is green?", 1),), (read_image(IMAGE),)))
    with parts.pool.lease(language_spec(variant.model, RUNTIME)) as lease:
        text, _ = prompts.answer(lease, Generate(prompt, Sampling(max_tokens=8), RUNTIME), lambda: False)
    assert text == "cross"


def test_drift_when_calibrated_on_other_pictures_then_a_third_at_most(
    parts: Parts, pair: Variant, tmp_path: Path, matrices: dict[Path, Path]
) -> None:
    variants = [pair]
    attention = (TensorType("ffn|embd", "q8_0"),)  # the rest takes seconds to quantize
    for source, quantization, tensor_types in ((MODEL, "IQ3_S", attention), (PROJECTOR, "Q2_K", ())):
        for name, imatrix in (("without", None), ("with", matrices[source])):
            target = tmp_path / f"{source.stem}-{name}-{quantization}.gguf"
            half = parts.catalog.half(source)
            quantizer.make(
                source, target, quantization, parts.pool, half=half, imatrix=imatrix, tensor_types=tensor_types
            )
            variants.append(
                parts.catalog.open_pair(*((MODEL, target) if half is Half.PROJECTOR else (target, PROJECTOR)))
            )
    names = sorted({item.image for item in _asked(1).items})[:6]
    question_set = QuestionSet("captions", [Question(name, "Describe the image.") for name in names], IMAGE.parent)
    results = measured(parts, question_set, tuple(variants)).results[1:]
    kls = [result.mean_kl.value for result in results if result.mean_kl is not None]
    assert kls[1] < kls[0] / 3  # a twentieth at most in each of five such sets of captions; the projector, a twelfth
    assert kls[3] < kls[2] / 3


def test_matrix_when_it_lacks_a_tensor_then_said_or_refused_in_llama_cpps_words(
    parts: Parts, tmp_path: Path, matrices: dict[Path, Path]
) -> None:
    partial = copy(matrices[MODEL], tmp_path / "partial.gguf", leave_out="blk.0.attn_k.weight")
    file = quantizer.make(MODEL, tmp_path / "q4.gguf", "Q4_0", parts.pool, half=Half.MODEL, imatrix=partial)
    assert file.notes == ("quantized without the matrix, which lacks them: blk.0.attn_k.weight",)
    with pytest.raises(EngineError, match=r"Missing importance matrix for tensor blk\.0\.attn_k\.weight"):
        quantizer.make(MODEL, tmp_path / "iq.gguf", "IQ2_XS", parts.pool, half=Half.MODEL, imatrix=partial)
    with pytest.raises(BadInput, match="of another model, or of the other half"):
        quantizer.make(PROJECTOR, tmp_path / "mmproj.gguf", "Q4_0", parts.pool, Half.PROJECTOR, imatrix=matrices[MODEL])
    assert {path.name for path in tmp_path.iterdir()} == {"partial.gguf", "q4.gguf"}


def copy(matrix: Path, target: Path, *, leave_out: str = "", kind: str = "imatrix", value: float | None = None) -> Path:
    writer = GGUFWriter(target, "imatrix")
    writer.add_type(kind)
    for name, data in sums(matrix).items():
        if not leave_out or not name.startswith(leave_out):
            written = data.astype(numpy.float32)
            if value is not None and name == "blk.2.attn_q.weight.in_sum2":
                written[0, 7] = value
            writer.add_tensor(name, written)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_matrix_when_bad_then_refused_and_nothing_is_written(
    parts: Parts, tmp_path: Path, matrices: dict[Path, Path]
) -> None:
    whole, target = matrices[MODEL], tmp_path / "new.gguf"
    bad = {tmp_path / "gone.gguf": "There is no importance matrix", MODEL: "of another kind"}
    size = whole.stat().st_size
    for length in (0, 3, 20, 30, 100, 180, 1000, 3000, size // 2, size - 40):
        bad[pairs.truncate(whole, tmp_path / f"cut-{length}.gguf", length / size)] = (
            "not a GGUF file|not a valid importance"
        )
    (tmp_path / "old.dat").write_bytes(numpy.int32(43).tobytes() + bytes(4000))
    bad[tmp_path / "old.dat"] = "llama-imatrix turns older ones"
    bad[tmp_path] = "not a GGUF file"
    bad[copy(whole, tmp_path / "kind.gguf", kind="model")] = "of another kind"
    bad[copy(whole, tmp_path / "half.gguf", leave_out="blk.0.attn_q.weight.counts")] = "not a GGUF file"
    for value in (numpy.nan, numpy.inf, -1.0):
        bad[copy(whole, tmp_path / f"{value}.gguf", value=value)] = "blk.2.attn_q.weight contains an invalid sum"
    for path, message in bad.items():
        with pytest.raises(BadInput, match=message):
            quantizer.make(MODEL, target, "Q2_K", parts.pool, half=Half.MODEL, imatrix=path)
    assert not target.exists()
    assert list(tmp_path.glob("*.part")) == []


# --- collecting -------------------------------------------------------------------------------------------


def test_collecting_when_an_image_is_broken_then_told_and_the_rest_is_as_if_read_alone(
    parts: Parts, pair: Variant, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "a.png").write_bytes(IMAGE.read_bytes())
    (folder / "broken.png").write_bytes(IMAGE.read_bytes()[:900])
    items = [Question("a.png", "What?"), Question("broken.png", "What?"), Question("a.png", "What shape is green?")]

    def collect(
        name: str, questions: list[Question], answers: list[tuple[int, ...]]
    ) -> importance_matrix.CollectedMatrix:
        return importance_matrix.collect(
            parts.lab, pair, Half.MODEL, QuestionSet("own", questions, folder), tmp_path / name,
            answers=answers, runtime=RUNTIME,
        )  # fmt: skip

    matrix = collect("all.gguf", items, [(7, 8), (), (9,)])
    assert matrix.readings == 2
    assert len(matrix.problems) == 1
    assert "broken.png" in matrix.problems[0]
    collect("first.gguf", items[:1], [(7, 8)])
    collect("last.gguf", items[2:], [(9,)])
    together, first, last = (sums(tmp_path / f"{name}.gguf") for name in ("all", "first", "last"))
    for name, summed in together.items():
        assert summed == pytest.approx(first[name] + last[name], rel=1e-5)
    with pytest.raises(BadInput, match="No question could be read"):
        collect("none.gguf", items[1:2], [()])
    with pytest.raises(BadInput, match="is there already"):
        collect("all.gguf", items[:1], [()])
    with pytest.raises(BadInput, match="2 answers to 1 questions"):
        collect("new.gguf", items[:1], [(), ()])
    assert {path.name for path in tmp_path.iterdir()} == {"own", "all.gguf", "first.gguf", "last.gguf"}


def test_collecting_when_the_questions_have_a_form_then_the_model_reads_it_too(
    parts: Parts, pair: Variant, tmp_path: Path
) -> None:
    rows = []
    for name, form in (("bare", PromptForm()), ("form", PromptForm(system="Be very brief.", chat_template="chatml"))):
        path = tmp_path / f"{name}.gguf"
        matrix = importance_matrix.collect(
            parts.lab, pair, Half.MODEL, _asked(0).first(1), path, answers=[(7, 8)], runtime=RUNTIME, form=form
        )
        rows.append(matrix.rows)
    assert rows[1] > rows[0]


@pytest.mark.parametrize("half", list(Half))
def test_collecting_when_stopped_then_nothing_is_left_and_nothing_is_counted(
    parts: Parts, pair: Variant, tmp_path: Path, half: Half
) -> None:
    calls: list[tuple[int, int]] = []

    def collect(question_set: QuestionSet, *, until: int) -> importance_matrix.CollectedMatrix:
        return importance_matrix.collect(
            parts.lab, pair, half, question_set, tmp_path / "matrix.gguf",
            answers=[(5,)] * len(question_set.items), runtime=RUNTIME, stop=lambda: len(calls) >= until,
            on_item=lambda n_done, total: calls.append((n_done, total)),
        )  # fmt: skip

    with pytest.raises(Interrupted):
        collect(HARD, until=4)
    assert calls == [(k, len(HARD.items)) for k in range(4)]
    assert list(tmp_path.iterdir()) == []
    spec = (
        vision_spec(pair.projector, pair.model, RUNTIME, observe=True)
        if half is Half.PROJECTOR
        else language_spec(pair.model, RUNTIME, observe=True)
    )
    assert spec not in [handle.spec for handle in parts.pool.handles.all()]
    assert all(worker.leases == 0 for worker in parts.pool.memory().workers)
    assert collect(HARD.first(1), until=99).readings == 1
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.gguf"]


def test_collecting_when_the_model_is_damaged_then_an_error(parts: Parts, pair: Variant, tmp_path: Path) -> None:
    """NaN among the weights of a norm: all behind it is no number."""
    damaged = tmp_path / "damaged-F16.gguf"
    damaged.write_bytes(MODEL.read_bytes())
    tensor = next(t for t in GGUFReader(damaged, "r+").tensors if t.name == "blk.1.attn_norm.weight")
    tensor.data[3] = numpy.nan
    tensor.data.base.flush()
    variant = replace(pair, model=replace(pair.model, path=str(damaged), sha256="damaged"))
    with pytest.raises(PlaygroundError, match="NaN"):
        importance_matrix.collect(
            parts.lab, variant, Half.MODEL, HARD.first(1), tmp_path / "matrix.gguf", answers=[(5,)], runtime=RUNTIME,
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == [damaged.name]
