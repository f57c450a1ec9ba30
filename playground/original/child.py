"""Asks the original model: `python -m playground.original.child JOB.json`, where torch and transformers are installed.

The job is a document as measuring/parity_job.py writes it. What comes out lies beside it: for each question NAME.json
and NAME.npz, and NAME.f32 with the natural logarithms of the probabilities at every token of the model's own greedy
answer, and behind the last one. Progress is a JSON document a line on stdout; the last one has `error`, or `done`.
"""

from __future__ import annotations

import inspect
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import PIL.Image
import torch
import transformers

from playground.original import pixel_layout

_SLOT = -1  # in a pair's prompt: an image embedding goes here
_MARKER = "<image>"
_TOKEN_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}  # that are made here


class _Failed(Exception):
    """Its message is for people."""


class _Captured(Exception):
    """The embeddings are there: the language model need not run."""


class _Embedded(NamedTuple):
    """What the language model is given."""

    rows: Any  # float32 (tokens, width); the levels of a deep stack stand behind each other
    positions: Any | None  # int (3, tokens), of M-RoPE


class _Prompt(NamedTuple):
    ids: list[int]
    native: bool  # by the original's own chat template and processor; else the pair's tokens


def _say(**document: Any) -> None:
    print(json.dumps(document), flush=True)


class _Original:
    """The loaded model."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        """Raises _Failed."""
        if job["threads"]:
            torch.set_num_threads(job["threads"])
        self._folder, self._max_tokens = job["model"], job["max_tokens"]
        self._processor: Any = None
        self._image_processor: Any = None
        problems = []
        try:
            self._processor = transformers.AutoProcessor.from_pretrained(self._folder)
            self._image_processor = self._processor.image_processor
        except Exception as error:  # transformers raises what its parts raise
            problems.append(f"AutoProcessor: {error}")
        try:
            self._image_processor = self._image_processor or transformers.AutoImageProcessor.from_pretrained(
                self._folder
            )
            self.tokenizer = getattr(self._processor, "tokenizer", None) or transformers.AutoTokenizer.from_pretrained(
                self._folder
            )
            self._model = transformers.AutoModelForImageTextToText.from_pretrained(
                self._folder, dtype=getattr(torch, job["dtype"])
            ).eval()
        except Exception as error:
            problems.append(str(error))
            raise _Failed(f"transformers cannot load the original. {' '.join(problems)[:1500]}") from None
        if torch.cuda.is_available() and job["gpu"]:
            self._model.to("cuda")
        config = self._model.config
        self._image_token = _first(config, "image_token_id", "image_token_index")
        if self._image_token is None:
            raise _Failed("The original's configuration names no image token (image_token_id).")
        vision = getattr(config, "vision_config", None)
        self._patch = _size(_first(self._image_processor, "patch_size", "encoder_patch_size")) or _size(
            getattr(vision, "patch_size", None)
        )
        self._merge = _size(getattr(self._image_processor, "merge_size", None))
        self._accepted = set(inspect.signature(self._model.forward).parameters)
        self.seen: _Embedded | None = None
        self._stops = False
        self._model.get_decoder().register_forward_pre_hook(self._capture, with_kwargs=True)

    @property
    def vocabulary(self) -> list[str | None]:
        return list(self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer)))))

    def image_inputs(self, image: PIL.Image.Image) -> dict[str, Any]:
        prepared: Mapping[str, Any] = {}
        if self._processor is not None:
            with suppress(Exception):  # it may want what an image processor alone does not
                prepared = self._processor(text=[self._processor.image_token], images=[image], return_tensors="pt")
        if "pixel_values" not in prepared:
            prepared = self._image_processor(images=[image], return_tensors="pt")
        return {name: value for name, value in prepared.items() if name in self._accepted - _TOKEN_INPUTS}

    def pictures(self, inputs: Mapping[str, Any]) -> list[Any] | None:
        return pixel_layout.pictures_of(_arrays(inputs), self._patch, self._merge)

    def with_pictures(self, inputs: Mapping[str, Any], pictures: Sequence[Any]) -> dict[str, Any] | None:
        changed = pixel_layout.with_pictures(_arrays(inputs), pictures, self._patch, self._merge)
        if changed is None:
            return None
        return {name: torch.from_numpy(numpy.ascontiguousarray(value)) for name, value in changed.items()}

    def prompts(self, question: Mapping[str, Any], image: PIL.Image.Image, inputs: Mapping[str, Any]) -> list[_Prompt]:
        """The best first: the original's own, the pair's tokens, the pair's with as many of the image as it takes."""
        prompts = []
        if self._processor is not None:
            with suppress(Exception):  # a template that takes no images, or none at all
                ids = self._templated(question, image)
                if self._image_token in ids:
                    prompts.append(_Prompt(ids, True))
        frame = question["frame"]
        prompts.append(_Prompt([self._image_token if token == _SLOT else token for token in frame], False))
        first, last = frame.index(_SLOT), len(frame) - frame[::-1].index(_SLOT)
        with suppress(Exception):
            prompts.append(_Prompt([*frame[:first], *self._of_image(image), *frame[last:]], False))
        with suppress(Exception):
            slots = [self._image_token] * self._n_features(inputs)
            prompts.append(_Prompt([*frame[:first], *slots, *frame[last:]], False))
        return prompts

    def _templated(self, question: Mapping[str, Any], image: PIL.Image.Image) -> list[int]:
        messages = []
        for message in question["messages"]:
            content = [
                {"type": "image", "image": image} if part == _MARKER else {"type": "text", "text": part}
                for part in message["parts"]
            ]
            messages.append({"role": message["role"], "content": content})
        encoded = self._processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, **question["variables"]
        )
        ids = encoded["input_ids"]
        return list(map(int, ids[0] if isinstance(ids[0], list) else ids))

    def _of_image(self, image: PIL.Image.Image) -> list[int]:
        """The tokens that the processor writes for an image, from the first to the last that is the image's."""
        text = self._processor.image_token
        ids = self._processor(text=[text], images=[image])["input_ids"][0]
        ids = list(map(int, ids))
        first, last = ids.index(self._image_token), len(ids) - ids[::-1].index(self._image_token)
        return ids[first:last]

    def paired(self, frame: Sequence[int], pictures: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
        """The pair's tokens with the pair's pictures, and the places of the image: as they are, and with the original's
        own tokens between rows of such a picture."""
        places = [place for place, token in enumerate(frame) if token == _SLOT]
        tokens = [self._image_token if token == _SLOT else token for token in frame]
        prompts = [(tokens, places)]
        with suppress(Exception):
            (picture,) = pictures
            block = self._of_image(PIL.Image.new("RGB", picture.shape[:0:-1]))
            if len(block) == len(places):
                prompts.append(([*frame[: places[0]], *block, *frame[places[-1] + 1 :]], places))
        return prompts

    def _n_features(self, inputs: Mapping[str, Any]) -> int:
        """How many tokens the encoder makes of an image."""
        model = self._model
        with torch.no_grad():
            features = model.get_image_features(**{name: self._placed(value) for name, value in inputs.items()})
        rows = getattr(features, "pooler_output", features)
        return sum(part.numel() // part.shape[-1] for part in (rows if isinstance(rows, list | tuple) else [rows]))

    def embed(self, ids: Sequence[int], inputs: Mapping[str, Any]) -> _Embedded:
        """Raises what the model raises where the tokens do not fit the image."""
        self.seen, self._stops = None, True
        try:
            with torch.no_grad():
                self._model(**self._inputs(ids, inputs), use_cache=False)
        except _Captured:
            pass
        finally:
            self._stops = False
        if self.seen is None:
            raise _Failed("The original's language model was not reached.")
        return self.seen

    def answer(self, ids: Sequence[int], inputs: Mapping[str, Any]) -> list[int]:
        """The greedy answer's tokens, without the one that ends it.

        A token that stands for an image ends it, too: the model could not read the answer again.
        """
        generation = self._model.generation_config
        ends = generation.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends]) | {self.tokenizer.eos_token_id, self._image_token}
        with torch.no_grad():
            whole = self._model.generate(
                **self._inputs(ids, inputs), max_new_tokens=self._max_tokens, do_sample=False, num_beams=1,
                repetition_penalty=1.0, no_repeat_ngram_size=0, pad_token_id=generation.pad_token_id or 0,
            )  # fmt: skip
        written = list(map(int, whole[0][len(ids) :]))
        end = next((k for k, token in enumerate(written) if token in ends), len(written))
        return written[:end]

    def log_probabilities(self, ids: Sequence[int], answer: Sequence[int], inputs: Mapping[str, Any]) -> Any:
        """float32 (tokens of the answer + 1, vocabulary)."""
        with torch.no_grad():
            logits = self._model(**self._inputs([*ids, *answer], inputs), use_cache=False).logits
        return torch.log_softmax(logits[0, len(ids) - 1 :].double(), -1).float().cpu().numpy()

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids)))

    def slots(self, ids: Sequence[int]) -> list[int]:
        return [place for place, token in enumerate(ids) if token == self._image_token]

    def _inputs(self, ids: Sequence[int], inputs: Mapping[str, Any]) -> dict[str, Any]:
        tokens = torch.tensor([list(ids)])
        kinds = (tokens == self._image_token).long()
        whole = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), **inputs}
        whole |= {name: kinds for name in ("mm_token_type_ids", "token_type_ids") if name in self._accepted}
        return {name: self._placed(value) for name, value in whole.items()}

    def _placed(self, value: Any) -> Any:
        return value.to(self._model.device, self._model.dtype if value.is_floating_point() else value.dtype)

    def _capture(self, _module: Any, _arguments: Any, given: Mapping[str, Any]) -> None:
        rows, positions = given.get("inputs_embeds"), given.get("position_ids")
        if rows is None or rows.shape[1] == 1:
            return
        levels = [rows[0]]
        for level in given.get("deepstack_visual_embeds") or ():
            mask, whole = given["visual_pos_masks"], torch.zeros_like(rows[0])
            whole[mask[0] if mask.ndim == 2 else mask[0, :, 0]] = level.to(whole.dtype)
            levels.append(whole)
        axes = None
        if positions is not None and positions.ndim == 3 and positions.shape[0] >= 3:
            axes = positions[-3:, 0].cpu().numpy()
        self.seen = _Embedded(torch.cat(levels, -1).float().cpu().numpy(), axes)
        if self._stops:
            raise _Captured


def _first(owner: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(owner, name, None)) is not None), None)


def _size(value: Any) -> int | None:
    """A patch's side, however it is written."""
    if isinstance(value, Mapping):
        value = value.get("height")
    if isinstance(value, list | tuple):
        value = value[0]
    return None if value is None else int(value)


def _arrays(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: (value.float() if value.is_floating_point() else value).cpu().numpy() for name, value in inputs.items()
    }


def _ask(original: _Original, folder: Path, question: Mapping[str, Any]) -> None:
    """Writes the files of one question. Raises _Failed."""
    image = PIL.Image.open(folder / question["image"]).convert("RGB")
    inputs = original.image_inputs(image)
    prompt, own, problem = None, None, ""
    for candidate in original.prompts(question, image, inputs):
        try:
            own, prompt = original.embed(candidate.ids, inputs), candidate
            break
        except (ValueError, IndexError, RuntimeError) as error:
            problem = str(error)
    if own is None or prompt is None:
        raise _Failed(f"The original does not take this prompt: {problem[:500]}")
    frame = question["frame"]
    aligned = len(prompt.ids) == len(frame) and all(
        ours == theirs for ours, theirs in zip(prompt.ids, frame, strict=True) if theirs != _SLOT
    )
    framed = [place for place, token in enumerate(frame) if token == _SLOT]
    slots = framed if aligned else original.slots(prompt.ids)
    arrays = {"ids": numpy.array(prompt.ids), "slots": numpy.array(slots), "embeddings": own.rows[slots]}
    if own.positions is not None:
        arrays["positions"] = own.positions[:, slots]
    pictures = original.pictures(inputs)
    for k, picture in enumerate(pictures or ()):
        arrays[f"picture-{k}"] = picture
    with numpy.load(folder / question["inputs"], allow_pickle=False) as file:
        given = [file[name] for name in sorted(file.files, key=int)]
    seen = original.with_pictures(inputs, given)
    if seen is not None:
        same = pictures is not None and [p.shape for p in pictures] == [p.shape for p in given]
        for ids, places in ((prompt.ids, slots), *original.paired(frame, given))[0 if same else 1 :]:
            try:
                arrays["embeddings-of-inputs"] = original.embed(ids, seen).rows[places]
                break
            except (ValueError, IndexError, RuntimeError):
                continue
    answer = original.answer(prompt.ids, inputs)
    original.log_probabilities(prompt.ids, answer, inputs).tofile(folder / f"{question['name']}.f32")
    numpy.savez(folder / f"{question['name']}.npz", **arrays)
    document = {"answer": answer, "text": original.text(answer), "native": prompt.native, "aligned": aligned}
    (folder / f"{question['name']}.json").write_text(json.dumps(document))


def main() -> None:
    path = Path(sys.argv[1])
    job = json.loads(path.read_text())
    try:
        _say(what="The original is loaded")
        original = _Original(job)
        (path.parent / "vocabulary.json").write_text(json.dumps(original.vocabulary))
        for question in job["questions"]:
            _ask(original, path.parent, question)
            _say(what="The original answers", ended=question["name"])
        _say(done=True)
    except _Failed as error:
        _say(error=str(error))
    except torch.OutOfMemoryError:
        _say(error="The original does not fit into the GPU's memory.")
    except Exception as error:  # transformers raises what its parts raise
        traceback.print_exc()
        _say(error=f"transformers failed with the original: {type(error).__name__}: {str(error)[:1000]}")


if __name__ == "__main__":
    main()
