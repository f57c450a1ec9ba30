"""The original model of transformers against the pair that llama.cpp's converter wrote. `python -m bench parity`

`--pairs`: a folder where bench/tiny_pairs makes both; `--source`: llama.cpp's source; `--peer`: a Python that has
torch, torchvision and transformers. Each family is asked about two smooth pictures, whose sizes most encoders take as
they are. The language model and the encoder may differ by float noise alone. Then a converter's mistakes are planted,
one at a time, and each has to be found and named by the part that it sits in.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageDraw
from gguf import GGUFReader

from bench.tiny_pairs import TITLES
from playground.errors import PlaygroundError
from playground.measuring import question_sets
from playground.measuring.parity import LIMIT, Parity, Part
from playground.measuring.parity_job import ParityJob, ParityRequest
from playground.settings import Settings
from playground.values.request import Runtime
from playground.wiring import Parts, open_parts

# Families whose classes are part of transformers, and whose small checkpoints it can ask.
FAMILIES = (
    "qwen2vl", "qwen25vl", "qwen3vl", "qwen35", "gemma3", "smolvlm", "idefics3", "internvl", "lfm2vl", "glm4v",
    "paddleocr", "pixtral", "mistral3",
)  # fmt: skip
# Of llama.cpp itself, found by this bench. InternVL: its graph puts the class token behind the patches; the position
# table has it in front, so each patch gets the position of the one before it. With the table's first row moved to the
# end the encoder's part is 5.7e-6.
KNOWN = {"internvl": Part.ENCODER}
_RUNTIME = Runtime(n_ctx=8192, n_gpu_layers=0, n_threads=1)
_TOKENS = 8


class Mistake(NamedTuple):
    """What a converter could do wrong. `plant` changes one of the two files."""

    title: str
    family: str
    part: Part
    in_projector: bool = True
    plant: Callable[[Path], None] = lambda path: None
    runtime: Runtime = _RUNTIME


def _wrong_mean(path: Path) -> None:
    reader = GGUFReader(path, "r+")
    field = reader.fields["clip.vision.image_mean"]
    for place in field.data:
        field.parts[place][:] = 0.3
    reader.data.flush()


def _swapped_positions(path: Path) -> None:
    reader = GGUFReader(path, "r+")
    table = next(tensor for tensor in reader.tensors if tensor.name == "v.position_embd.weight")
    table.data[:] = table.data[::-1].copy()
    reader.data.flush()


def _permuted_queries(path: Path) -> None:
    """As Llama's layout of rotary embeddings wants it, and Qwen's does not."""
    reader = GGUFReader(path, "r+")
    heads = int(reader.fields["qwen2vl.attention.head_count"].contents())
    for tensor in reader.tensors:
        if tensor.name.endswith("attn_q.weight"):
            rows = tensor.data.reshape(heads, 2, -1, tensor.data.shape[-1])
            tensor.data[:] = rows.swapaxes(1, 2).reshape(tensor.data.shape).copy()
    reader.data.flush()


MISTAKES = (
    Mistake("another mean of the pixels", "qwen3vl", Part.PREPROCESSING, plant=_wrong_mean),
    Mistake("position table upside down", "qwen3vl", Part.ENCODER, plant=_swapped_positions),
    Mistake("queries permuted", "qwen2vl", Part.MODEL, in_projector=False, plant=_permuted_queries),
    Mistake(
        "16 image tokens at most", "qwen3vl", Part.PREPROCESSING,
        runtime=Runtime(n_ctx=8192, n_gpu_layers=0, n_threads=1, image_max_tokens=16),
    ),
)  # fmt: skip


def measure(folder: Path, pairs: Path, source: Path | None, python: str, only: Collection[str]) -> dict[str, float]:
    names = [name for name in FAMILIES if not only or name in only]
    if source is not None:
        command = [python, "-m", "bench.tiny_pairs", str(pairs), "--source", str(source), "--originals", *names]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit("Not all pairs could be made. It needs the extra: pip install '.[conformance]'")
    questions = _questions(folder)
    beyond = known = planted = n_named = 0
    print("| family | KL | preprocessing | encoder | language model | floor | same answers |")
    print("| -- | -- | -- | -- | -- | -- | -- |")
    with open_parts(Settings(cache_dir=folder / "cache"), any_folder=True) as parts:
        for name in names:
            try:
                reading = _asked(parts, pairs / name, name, questions, python)
            except PlaygroundError as error:
                print(f"| {TITLES[name]} | {error.message} |", flush=True)
                beyond += 1
                continue
            print(f"| {' | '.join(_columns(TITLES[name], reading))} |", flush=True)
            loud = {part for part in (Part.ENCODER, Part.MODEL) if reading.parts.get(part, 0.0) > LIMIT}
            for finding in reading.findings:
                print(f"  {finding}", flush=True)
            known += bool(loud) and loud == {KNOWN.get(name)}
            beyond += bool(loud) and loud != {KNOWN.get(name)}
        print("\n| planted | named | KL |\n| -- | -- | -- |")
        for mistake in MISTAKES:
            if mistake.family not in names:
                continue
            planted += 1
            reading = _with_mistake(parts, pairs, folder / mistake.title.replace(" ", "-"), mistake, questions, python)
            print(f"| {mistake.title} ({TITLES[mistake.family]}) | {reading.culprit} | {reading.kl:.2g} |", flush=True)
            for finding in reading.findings:
                print(f"  {finding}", flush=True)
            n_named += reading.culprit is mistake.part
    return {
        "families": len(names),
        "beyond float noise, or not asked": beyond,
        "beyond it and known": known,
        "mistakes planted": planted,
        "found and named": n_named,
        "failures": beyond + planted - n_named,
    }


def _questions(folder: Path) -> question_sets.QuestionSet:
    """Smooth pictures of 448x448 and 896x448, which most encoders take as they are."""
    images = folder / "questions"
    images.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, size in (("square", (448, 448)), ("wide", (896, 448))):
        y, x = np.mgrid[: size[1], : size[0]]
        waves = [np.sin(x / 31 + phase) * np.cos(y / 47 - phase) for phase in (0.0, 1.3, 2.1)]
        image = PIL.Image.fromarray((np.stack(waves, -1) * 100 + 128).astype(np.uint8))
        PIL.ImageDraw.Draw(image).ellipse((80, 60, 240, 300), fill=(200, 60, 40))
        image.save(images / f"{name}.png")
        lines.append(json.dumps({"image": f"{name}.png", "question": "What is this?"}))
    (images / "items.jsonl").write_text("\n".join(lines))
    return question_sets.read_questions(images)


def _asked(
    parts: Parts,
    pair: Path,
    name: str,
    questions: question_sets.QuestionSet,
    python: str,
    runtime: Runtime = _RUNTIME,
    original: Path | None = None,
) -> Parity:
    variant = parts.catalog.open_pair(pair / f"{name}-F16.gguf", pair / f"mmproj-{name}-F16.gguf")
    folder = original or pair / "original" / name
    request = ParityRequest(
        variant, questions, folder, name, python, 8 * 10**9, "float32", max_tokens=_TOKENS, runtime=runtime
    )
    *_, reading = ParityJob(parts.lab, request, engine=parts.engine).run()
    assert isinstance(reading, Parity)
    return reading


def _with_mistake(
    parts: Parts, pairs: Path, folder: Path, mistake: Mistake, questions: question_sets.QuestionSet, python: str
) -> Parity:
    name = mistake.family
    folder.mkdir(parents=True)
    for file in (f"{name}-F16.gguf", f"mmproj-{name}-F16.gguf"):
        shutil.copy(pairs / name / file, folder / file)
    mistake.plant(folder / (f"mmproj-{name}-F16.gguf" if mistake.in_projector else f"{name}-F16.gguf"))
    return _asked(parts, folder, name, questions, python, mistake.runtime, pairs / name / "original" / name)


def _columns(title: str, reading: Parity) -> Iterator[str]:
    yield title
    yield f"{reading.kl:.1e}"
    for part in (Part.PREPROCESSING, Part.ENCODER, Part.MODEL):
        kl = reading.parts.get(part)
        yield "not apart" if kl is None else f"{kl:.1e}"
    yield f"{reading.floor:.1e}"
    yield f"{reading.same_answers} of {reading.questions}"
