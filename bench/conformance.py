"""Pairs that llama.cpp's converter wrote, in the split engine and in llama-mtmd-cli. `python -m bench conformance`

`--pairs`: a folder of NAME/NAME-F16.gguf and NAME/mmproj-NAME-F16.gguf. `--source`: llama.cpp's source; the pairs of
bench/tiny_pairs that are not in the folder yet are made there. `--mtmd-cli`: that program, of the llama.cpp that the
installed llama-cpp-python holds (bench/tools.sh builds it). Each pair answers greedily about five pictures, about two
pictures at once, a follow-up question, and about a picture within a budget of tokens; both sides have flash attention
on and no warm-up. `--gpu`: both run on the GPU, else neither does. With `--make`
either half is also quantized, and its drift from F16 is judged (bench/conformance_drift.py). The bench ends with 1 if a
pair is not fine by the doctor, an answer differs, or a quantized half fails or drifts too far.
"""

from __future__ import annotations

import re
import string
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import PIL.Image
import PIL.ImageDraw
from gguf import GGUFReader, TokenType

from bench.conformance_drift import QUANTIZATIONS, HalfDrifts, half_drifts
from bench.tiny_pairs import TITLES
from playground.comparing import compare, comparison_request
from playground.comparing.images import read_image
from playground.comparing.run_settings import RunSettings
from playground.models import doctor, family_signs
from playground.models.gguf.header import read_header
from playground.settings import Settings
from playground.values.answer import ComparisonUpdate
from playground.values.files import Half, Variant
from playground.values.request import Turn
from playground.wiring import Parts, open_parts

PROMPT, FOLLOW_UP = "What is this?", "And what else?"
N_TOKENS = 16
N_CTX = 16_384
SETTINGS = RunSettings(max_tokens=N_TOKENS, n_ctx=N_CTX, temperature=0.0, flash_attention=True, n_threads=1)
BUDGET = 64  # tokens of a picture, at most
_MARKER = "<__media__>"
_TIMEOUT_S = 300
_TRIES = 3  # on a busy machine it ends before its log has written anything
_MORE = 24  # tokens that llama-mtmd-cli is asked for besides: its log may lose the last ones when it ends


class Answers(NamedTuple):
    question: str
    ours: str
    theirs: str
    ended: bool  # ours, before the limit of tokens

    @property
    def equal(self) -> bool:
        return self.theirs == self.ours if self.ended else self.theirs.startswith(self.ours)


class Sides(NamedTuple):
    """The app's settings, and llama-mtmd-cli's arguments that say the same."""

    settings: RunSettings
    program: list[object]

    def within(self, budget: int) -> Sides:
        settings = msgspec.structs.replace(self.settings, image_max_tokens=budget)
        return Sides(settings, [*self.program, "--image-max-tokens", budget])


def build(pairs: Path, source: Path, python: str, names: Collection[str]) -> None:
    """Make the pairs that are not there yet. Raises SystemExit."""
    command = [python, "-m", "bench.tiny_pairs", str(pairs), "--source", str(source), *names]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit("Not all pairs could be made. It needs the extra: pip install '.[conformance]'")


def measure(
    folder: Path, pairs: Path, mtmd_cli: Path | None, *, make: bool, gpu: bool = False, only: Collection[str] = ()
) -> dict[str, float]:
    pictures = _pictures(folder)
    settings = msgspec.structs.replace(SETTINGS, n_gpu_layers=-1 if gpu else 0)
    equal = n_asked = fine = quantized = n_quantizations = beyond = 0
    print("| family | architecture, projector type | doctor | equal answers | projector | language model | seen on |")
    print("| -- | -- | -- | -- | -- | -- | -- |")
    names = [path.name for path in pairs.iterdir() if (path / f"{path.name}-F16.gguf").exists()]
    names = sorted((name for name in names if not only or name in only), key=lambda name: _title(name).lower())
    for name in names:
        model, projector = pairs / name / f"{name}-F16.gguf", pairs / name / f"mmproj-{name}-F16.gguf"
        headers = read_header(model), read_header(projector)
        level = doctor.worst(doctor.diagnose(*headers))
        answers: list[Answers] = []
        drifts: dict[Half, HalfDrifts | None] = {Half.PROJECTOR: None, Half.MODEL: None}
        with open_parts(Settings(cache_dir=folder / f"cache-{name}"), any_folder=True) as parts:
            seen_on = parts.pool.memory().gpus[0].name if gpu else "CPU"
            variant = parts.catalog.open_pair(model, projector)
            if mtmd_cli is not None:
                sides = Sides(settings, _program(mtmd_cli, model, projector, gpu=gpu))
                answers = list(_answers(parts, variant, pictures, sides, model))
            if make:
                drifts = {half: half_drifts(parts, variant, half, folder / name, settings.runtime()) for half in drifts}
        for answer in answers:
            if not answer.equal:
                print(f"  {name}, {answer.question}: {answer.ours!r}, llama-mtmd-cli {answer.theirs!r}", flush=True)
        same = sum(answer.equal for answer in answers)
        equal, n_asked, fine = equal + same, n_asked + len(answers), fine + (level is doctor.Level.FINE)
        for half, drift in drifts.items():
            if drift is not None:
                quantized, n_quantizations = quantized + len(drift.made), n_quantizations + len(QUANTIZATIONS)
                beyond += len(drift.beyond)
                for quantization in drift.beyond:
                    print(f"  {name}, {half.name.lower()}: {quantization} drifts too far", flush=True)
        kinds = f"{headers[0].architecture}, {family_signs.projector_type(headers[1])}"
        counted = f"{same} of {len(answers)}" if answers else "not asked"
        columns = (_title(name), kinds, level.name.lower(), counted, *map(_listed, drifts.values()), seen_on)
        print(f"| {' | '.join(columns)} |", flush=True)
    return {
        "pairs": len(names),
        "fine by the doctor": fine,
        "answers": n_asked,
        "equal to llama-mtmd-cli": equal,
        "quantized halves": n_quantizations,
        "that load and give numbers": quantized,
        "that drift too far": beyond,
        "failures": len(names) - fine + n_asked - equal + n_quantizations - quantized + beyond,
    }


def _pictures(folder: Path) -> dict[str, Path]:
    noise = np.random.default_rng(1).integers(0, 256, (448, 448, 3), np.uint8)
    page = PIL.Image.new("RGB", (840, 1120), "white")
    draw = PIL.ImageDraw.Draw(page)
    for line in range(48):
        draw.text((60, 40 + 22 * line), f"{line + 1:2}. The quick brown fox jumps over the lazy dog. " * 2, "black")
    images = {
        "448x448": PIL.Image.fromarray(noise),
        "1600x300": PIL.Image.fromarray(noise).resize((1600, 300)),
        "1x1": PIL.Image.new("RGB", (1, 1), "red"),
        "12000x3": PIL.Image.fromarray(noise[:3]).resize((12_000, 3)),
        "page": page,
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.png" for name in images}
    for name, image in images.items():
        image.save(paths[name])
    return paths


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _program(mtmd_cli: Path, model: Path, projector: Path, *, gpu: bool) -> list[object]:
    stretch = 1024 if gpu else 512  # tokens of an image that the app decodes at once
    sizes = ["-c", N_CTX, "-b", stretch, "-ub", stretch, "-n", N_TOKENS + _MORE]
    program = [mtmd_cli, "-m", model, "--mmproj", projector, *sizes]
    places = ["-ngl", 999] if gpu else ["-ngl", 0, "--no-mmproj-offload"]
    return [*program, "--temp", 0, "-fa", "on", "-t", 1, "--no-warmup", *places]


def _answers(parts: Parts, variant: Variant, pictures: dict[str, Path], sides: Sides, model: Path) -> Iterator[Answers]:
    control = _control_tokens(model)

    def asked(name: str, paths: list[Path], sides: Sides) -> tuple[ComparisonUpdate, Answers]:
        update = _asked(parts, variant, sides.settings, paths, PROMPT)
        return update, Answers(
            name, _text(update, control), _mtmd(sides.program, paths, update, control), _ended(update)
        )

    updates = []
    for name, path in pictures.items():
        update, answers = asked(name, [path], sides)
        updates.append(update)
        yield answers
    two = [pictures["448x448"], pictures["1600x300"]]
    yield asked("two pictures", two, sides)[1]
    yield asked(f"{BUDGET} tokens", [pictures["page"]], sides.within(BUDGET))[1]
    earlier = (Turn(PROMPT, {variant.id: updates[0].panes[0].text}),)
    update = _asked(parts, variant, sides.settings, two[:1], FOLLOW_UP, earlier)
    yield Answers("follow-up", _text(update, control), _mtmd(sides.program, two[:1], update, control), _ended(update))


def _asked(
    parts: Parts,
    variant: Variant,
    settings: RunSettings,
    paths: list[Path],
    prompt: str,
    earlier: tuple[Turn, ...] = (),
) -> ComparisonUpdate:
    images = [read_image(path) for path in paths]
    request = comparison_request.comparison_of(images, prompt, [variant], settings, earlier)
    *_, last = compare.run(request, parts.lab, compare.StopFlag())
    return last


def _ended(update: ComparisonUpdate) -> bool:
    return update.panes[0].error is not None or update.panes[0].finish_reason == "end of text"


def _text(update: ComparisonUpdate, control: re.Pattern[str]) -> str:
    """All that was written, its reasoning included, without control tokens."""
    pane = update.panes[0]
    if pane.error:
        print(f"  {pane.error}", flush=True)
        return "refused"
    return _whole(control.sub("", pane.text if pane.raw is None else pane.raw))


def _control_tokens(model: Path) -> re.Pattern[str]:
    """Where an answer begins or ends with one, the app and llama-mtmd-cli print it or not."""
    fields = GGUFReader(model).fields
    tokens, types = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    control = (text for text, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL)
    return re.compile("|".join(re.escape(text) for text in control) or "$^")


def _mtmd(program: list[object], paths: list[Path], update: ComparisonUpdate, control: re.Pattern[str]) -> str:
    """What llama-mtmd-cli answers to the prompt that the app rendered, or to the question where it rendered none."""
    command = [*program, *(part for path in paths for part in ("--image", path))]
    if update.rendered_prompt:
        rendered = update.rendered_prompt.replace("<image>", _MARKER)
        command += ["-p", rendered, "--jinja", "--chat-template", "{{ messages[-1].content }}"]
    else:
        command += ["-p", PROMPT, "--jinja"]
    for _ in range(_TRIES):
        process = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
        if process.returncode:
            return "refused"
        if text := _whole(control.sub("", process.stdout.decode(errors="replace"))):
            break
    return text


def _whole(text: str) -> str:
    """Without the part of a character with which an answer may end, and NUL, which C does not print."""
    return text.replace("\0", "").strip(f"\ufffd{string.whitespace}")


def _listed(drifts: HalfDrifts | None) -> str:
    if drifts is None:
        return "not made"
    values = (drifts.made.get(name) for name in QUANTIZATIONS)
    listed = " / ".join("failed" if drift is None else f"{drift:.3f}" for drift in values)
    return f"{listed} ({drifts.rounded:.3f})"
