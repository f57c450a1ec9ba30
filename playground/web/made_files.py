"""Files that are made here, on the page or by a recipe, within the room that the operator allows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from playground.comparing.compare import StopFlag
from playground.errors import BadInput, NoRoom
from playground.measuring.question_sets import QuestionSet
from playground.measuring.results import Progress
from playground.notebooks.cells import Run
from playground.quantizing import quantizer
from playground.quantizing.make_variant import CheckedVariant, MakeJob, MakeRequest
from playground.quantizing.quantizer import QuantizedFile
from playground.values.files import Half, ModelFile, Variant
from playground.values.request import PromptForm, Runtime
from playground.wiring import Parts

# llama_ftype names, from large to small; the IQ ones want calibration.
TYPES = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q4_0", "Q3_K_M", "Q3_K_S", "IQ3_S", "IQ3_XXS",
    "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS", "TQ2_0",
)  # fmt: skip
HALVES = {"Language model": Half.MODEL, "Projector (mmproj)": Half.PROJECTOR}
_NEED_A_MATRIX = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M")  # llama.cpp refuses these without one
_QUESTIONS = 100  # that judge a new file, where the cell does not say how many


def wants_calibration(quantization: str) -> bool:
    """Types of about three bits and fewer lose much without an importance matrix, or cannot be made."""
    return quantization.strip().upper().startswith(("IQ1_", "IQ2_", "IQ3_"))


@dataclass(frozen=True, slots=True)
class FileChoice:
    """What a person chose. `half`: of HALVES. `exceptions`: PATTERN=TYPE, one a line."""

    half: str
    quantization: str
    exceptions: str
    calibrate: bool

    @property
    def request(self) -> MakeRequest:
        """Without a target. Raises BadInput."""
        types = quantizer.tensor_types(self.exceptions.splitlines())
        request = MakeRequest(HALVES[self.half], self.quantization.strip(), types, calibrate=self.calibrate)
        if request.quantization.upper() in _NEED_A_MATRIX and not self.calibrate:
            raise BadInput(f'{request.quantization} needs an importance matrix: tick "Calibrate with images".')
        if types:
            # No commas: it becomes part of a variant's id, and a command separates these by commas.
            patterns = " ".join(f"{tensor.pattern}={tensor.kind}" for tensor in types)
            return msgspec.structs.replace(request, name=f"{request.quantization} {patterns}".replace(",", ";")[:60])
        if self.calibrate:
            return msgspec.structs.replace(request, name=f"{request.quantization} calibrated")
        return request

    def name(self, source: ModelFile) -> str:
        """Another one for other patterns, and for another publisher's file of the same name."""
        request = self.request
        words = (_plain(request.quantization), "calibrated" * self.calibrate, _plain(self.exceptions))
        slug = "-".join(filter(None, words))[:70]
        key = hashlib.sha256(repr((source.sha256, request.tensor_types)).encode()).hexdigest()[:8]
        return f"{quantizer.stem(Path(source.path))}-{slug}-{key}.gguf"


def make(
    parts: Parts,
    source: Variant,
    wanted: FileChoice,
    questions: QuestionSet,
    form: PromptForm,
    stop: StopFlag,
    n: int | None = None,
    planned: QuantizedFile | None = None,
) -> Generator[Progress | CheckedVariant, None, None]:
    """Quantize a half of `source`, and check it on images. `form`: of the questions.

    `n`: how many questions judge the new file; as many again calibrate it, if that is wanted. `planned`: by `check`.
    Raises BadInput, and what MakeJob raises."""
    job = MakeJob(parts.lab, parts.workshop, Runtime(), stop.wanted, form)
    request = _request(parts, source, wanted)  # another one may have made it, or taken the room, since the check
    n = _QUESTIONS if n is None else n
    yield from job.run(source, request, questions.first(2 * n if wanted.calibrate else n), planned)


def check(parts: Parts, source: Variant, wanted: FileChoice, stop: StopFlag) -> QuantizedFile:
    """What llama.cpp plans. Raises what `make` would refuse, before anybody waits for its turn."""
    request = _request(parts, source, wanted)
    job = MakeJob(parts.lab, parts.workshop, Runtime(), stop.wanted)
    return job.check(Path(source.half(request.half).path), request)


def _request(parts: Parts, source: Variant, wanted: FileChoice) -> MakeRequest:
    """With a target. Raises BadInput, NoRoom."""
    request = wanted.request
    file = source.half(request.half)
    check_room(parts, file.bytes)
    target = parts.catalog.made / wanted.name(file)
    if target.exists():
        raise BadInput(f"{target.name} was made before. It is a variant: tick it at the side.")
    return msgspec.structs.replace(request, target=target)


def files(parts: Parts) -> dict[str, Path]:
    """Those that were made here, by name."""
    return {path.name: path for path in sorted(parts.catalog.made.glob("*.gguf"))}


def delete(parts: Parts, name: str) -> int:
    """Delete a file that was made here; its variants go. Returns the bytes that it took. Raises BadInput."""
    path = files(parts).get(name)
    if path is None:
        raise BadInput("No file of this name was made here.")
    size = path.stat().st_size
    path.unlink()
    parts.catalog.refresh()
    return size


def routes(parts: Parts) -> list[BaseRoute]:
    """Where a file that was made here is downloaded."""

    def download(request: Request) -> Response:
        path = files(parts).get(request.path_params["name"])
        if path is None or parts.settings.demo:
            return PlainTextResponse("No file of this name was made here.", 404)
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    return [Route("/vp-made/{name}", download)]


def check_room(parts: Parts, size: int) -> None:
    """Raises NoRoom if the operator does not allow that many more bytes."""
    made = sum(path.stat().st_size for path in parts.catalog.made.glob("*.gguf"))
    if made + size > parts.settings.made_bytes:
        raise NoRoom(
            f"The files made here take {made / 1e9:.1f} GB, the operator allows {parts.settings.made_bytes / 1e9:.1f} "
            "(PLAYGROUND_MADE_BYTES)."
        )


def keep_recipe(parts: Parts, run: Run) -> None:
    """The files of a recipe that was built become variants."""
    if run.sensitivity is not None and run.sensitivity.built is not None:
        for name in (run.sensitivity.built.model, run.sensitivity.built.projector):
            path = parts.catalog.made / name
            if path.exists():  # a half that the recipe leaves alone is its source
                parts.catalog.add_made(path)


def _plain(text: str) -> str:
    """Fit for a file's name, whatever a person wrote."""
    return "-".join(re.findall(r"[A-Za-z0-9_]+", text))
