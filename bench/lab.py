"""The lab: drift of six variants, a grid, reading an answer against writing it, quantizing against llama-quantize."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy
from gguf import GGUFReader

from playground.engine import protocol
from playground.measuring import question_sets
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.results import Measurement, MeasurementPlan
from playground.measuring.steps import Item
from playground.models.presets import data_folder
from playground.pool.worker_spec import language_spec
from playground.quantizing import quantizer
from playground.settings import Settings
from playground.values.files import Half, Variant
from playground.values.request import Runtime, Sampling
from playground.wiring import Parts, open_parts
from testkit import pairs

_RUNTIME = Runtime(n_ctx=512)
_IMAGES = data_folder() / "tiny-vlm/evaluation"


def measure(folder: Path, tools: Path) -> dict[str, float]:
    with open_parts(Settings(cache_dir=folder / "cache"), any_folder=True) as parts:
        parts.catalog.derive(parts.quantize)
        ladder = parts.catalog.choose(("F16", "Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "Q2_K", "TQ2_0"))
        figures = _timed(parts, ladder, _captions(50), folder, "drift_6_variants_50_items")
        models = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
        grid = parts.catalog.choose(models, ("F16", "Q8_0", "Q4_0", "Q2_K"))
        questions = question_sets.embedded(_IMAGES, level="hard").first(100)
        figures |= _timed(parts, grid, questions, folder, "grid_7_x_4_100_items")
        large = pairs.write_llava(folder, n_embd=1024, n_head=16, n_head_kv=4, n_layer=8, n_ff=4096, name="large")
        opened = parts.catalog.open_pair(large.model, large.projector)
        for name, variant in (("embedded", ladder[0]), ("168m", opened)):
            figures |= _reading(parts, variant, folder, name)
        figures |= _quantizing(parts, large.model, folder, tools)
        figures |= _text_kl(ladder[0], ladder[3], folder, tools)
        figures |= _text_importance(parts, ladder[0], folder, tools)
    return figures


def _captions(n: int) -> question_sets.QuestionSet:
    """Questions with long answers."""
    names = [path.name for path in sorted(_IMAGES.glob("*.png"))[:n]]
    return question_sets.QuestionSet(
        "captions", [question_sets.Question(name, "Describe the image.") for name in names], _IMAGES
    )


def _timed(
    parts: Parts, variants: tuple[Variant, ...], questions: question_sets.QuestionSet, folder: Path, name: str
) -> dict[str, float]:
    measuring = MeasureJob(parts.lab, MeasureRequest(questions, variants, variants[0].id, MeasurementPlan(), _RUNTIME))
    *_, last = measuring.run()
    assert isinstance(last, Measurement)
    tokens = sum(len(item.kl) for item in last.results[1].items)
    return {f"{name}_s": last.elapsed_s, f"{name}_tokens_an_item": tokens / len(last.questions)}


def _reading(parts: Parts, variant: Variant, folder: Path, name: str) -> dict[str, float]:
    """Reading an answer in batches, distributions written, against writing it token by token."""
    item = question_sets.Question("hard-62.png", "What do you see?")
    questions = question_sets.QuestionSet("one", [item], _IMAGES)
    runtime = Runtime(n_ctx=2048)
    measuring = MeasureJob(parts.lab, MeasureRequest(questions, (variant,), variant.id, MeasurementPlan(), runtime))
    prompt = measuring.steps.prompt(variant, Item(item, questions.image(item)))
    ids = measuring.steps.write(variant, prompt).token_ids
    reading, writing = [], []
    with parts.pool.lease(language_spec(variant.model, runtime)) as lease:
        for _ in range(9):
            begun = time.perf_counter()
            finished = lease.request(protocol.Generate(prompt, Sampling(max_tokens=len(ids)), runtime))
            writing.append(time.perf_counter() - begun - (finished.first_token_s or 0))
            begun = time.perf_counter()
            lease.request(protocol.Record(prompt, ids, runtime, str(folder / "record")))
            reading.append(time.perf_counter() - begun - (finished.prompt_s or 0))
    return {f"reading_against_writing_{name}": sorted(writing)[4] / sorted(reading)[4]}


def _text_kl(base: Variant, quantized: Variant, folder: Path, tools: Path) -> dict[str, float]:
    """On the questions as one text: the app's engine, and llama-perplexity, which keeps 16 bits a logit."""
    tool, n_ctx, n_chunks = tools / "llama-perplexity", 128, 8
    if not tool.exists():
        return {}
    text, record = _text(folder), folder / "base.bin"
    files = [base.model.path, quantized.model.path]
    ours = subprocess.run(
        [sys.executable, "-m", "bench.text_kl", *files, str(text), str(n_ctx), str(n_chunks)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    common = ["-f", str(text), "-c", str(n_ctx), "-b", str(n_ctx), "-t", "1", "--chunks", str(n_chunks), "-fa", "off"]
    common += ["--kl-divergence-base", str(record)]
    subprocess.run([str(tool), "-m", files[0], *common], check=True, capture_output=True)
    theirs = subprocess.run(
        [str(tool), "-m", files[1], *common, "--kl-divergence"], check=True, capture_output=True, text=True
    )
    printed = theirs.stdout + theirs.stderr
    figures = {f"text_kl_{name}": value for name, value in json.loads(ours.stdout.splitlines()[-1]).items()}
    for name, pattern in (("mean", r"Mean +KLD: +([\d.]+)"), ("max", r"Maximum KLD: +([\d.]+)")):
        match = re.search(pattern, printed)
        assert match is not None, printed[-2000:]
        figures[f"text_kl_{name}_llama_perplexity"] = float(match[1])
    return figures


def _text(folder: Path) -> Path:
    path = folder / "text.txt"
    lines = (_IMAGES / "items.jsonl").read_text().splitlines()
    path.write_text(" ".join(f"{item['question']} {item['answer']}." for item in map(json.loads, lines)))
    return path


def _text_importance(parts: Parts, variant: Variant, folder: Path, tools: Path) -> dict[str, float]:
    """Importance matrices of the questions as one text, by the app's engine and by llama-imatrix; and what the
    quantizers make of ours: the share of tensors whose bytes are the same."""
    tool, quantize, n_ctx, n_chunks = tools / "llama-imatrix", tools / "llama-quantize", "128", "8"
    if not (tool.exists() and quantize.exists()):
        return {}
    text, ours, theirs, model = _text(folder), folder / "ours.gguf", folder / "theirs.gguf", variant.model.path
    command = [sys.executable, "-m", "bench.text_importance", model, str(text), n_ctx, n_chunks, str(ours)]
    subprocess.run(command, check=True, capture_output=True)
    command = [str(tool), "-m", model, "-f", str(text), "-c", n_ctx, "-b", n_ctx, "-t", "1", "--chunks", n_chunks]
    subprocess.run([*command, "-fa", "off", "--no-ppl", "-o", str(theirs)], check=True, capture_output=True)
    sums, upstreams = _data(ours), _data(theirs)
    assert set(sums) - set(upstreams) == {f"token_embd.weight.{part}" for part in ("in_sum2", "counts")}
    differences = []
    for name, expected in upstreams.items():
        if name.endswith(".counts"):
            assert (sums[name] == expected).all(), name
        else:
            differences.append((abs(sums[name] - expected) / expected).ravel())
    every = numpy.concatenate(differences)
    same = []
    for kind in ("Q2_K", "IQ2_XS"):
        our_file, expected_file = folder / f"ours-{kind}.gguf", folder / f"theirs-{kind}.gguf"
        quantizer.run_request(protocol.Quantize(model, str(our_file), kind, Half.MODEL, imatrix=str(ours)), parts.pool)
        command = [str(quantize), "--imatrix", str(ours), model, str(expected_file), kind, "1"]
        subprocess.run(command, check=True, capture_output=True)
        expected_data, data = _data(expected_file), _data(our_file)
        assert set(data) == set(expected_data)
        same += [numpy.array_equal(data[name], expected_data[name]) for name in data]
    return {
        "importance_tensors_of_llama_imatrix": len(upstreams) / 2,
        "importance_relative_difference_median": float(numpy.median(every)),
        "importance_relative_difference_max": float(every.max()),
        "quantize_with_matrix_same_tensors": sum(same) / len(same),
    }


def _data(path: Path) -> dict[str, numpy.ndarray]:
    return {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}


def _quantizing(parts: Parts, source: Path, folder: Path, tools: Path) -> dict[str, float]:
    """A random pair of 168 M to Q4_K_M, by the worker and by llama-quantize with the same threads."""
    tool = tools / "llama-quantize"
    own_times, theirs = [], []
    for n in range(3):
        target = folder / f"q{n}.gguf"
        begun = time.perf_counter()
        quantizer.run_request(
            protocol.Quantize(str(source), str(target), "Q4_K_M", Half.MODEL, n_threads=2), parts.pool
        )
        own_times.append(time.perf_counter() - begun)
        target.unlink()
        if tool.exists():
            begun = time.perf_counter()
            subprocess.run([str(tool), str(source), str(target), "Q4_K_M", "2"], check=True, capture_output=True)
            theirs.append(time.perf_counter() - begun)
            target.unlink()
    figures = {"quantize_s": sorted(own_times)[1]}
    if theirs:
        figures["quantize_speed_against_llama_quantize"] = sorted(theirs)[1] / sorted(own_times)[1]
    return figures
