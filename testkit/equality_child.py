"""Runs one pair through upstream's helper with the full model, and through the split engine; prints how they compare.

`python equality_child.py MODEL PROJECTOR WIDTH HEIGHT [gpu]`. A process of its own: llama.cpp may abort, and llama_cpp
has to be imported before numpy.
"""

from __future__ import annotations

import ctypes
import json
import random
import sys
from itertools import chain, repeat
from threading import Event
from unittest.mock import patch

from llama_cpp import llama_cpp as C
from llama_cpp import mtmd_cpp as M

from playground.engine import finite, loading
from playground.engine.language import LanguageModel
from playground.engine.protocol import ChatMessage, EncodedPrompt
from playground.engine.vision import VisionModel
from playground.engine.vocabulary import Vocabulary
from playground.values.request import Image, Runtime, Sampling

N_TOKENS = 16
RUNTIME = Runtime(n_ctx=2048, n_batch=512, n_threads=2, flash_attention=False)


def picture(width: int, height: int, seed: int) -> Image:
    rgb = random.Random(seed).randbytes(width * height * 3)
    return Image(rgb=rgb, width=width, height=height, sha256=f"{width}x{height}:{seed}")


def upstream(
    model_path: str,
    projector_path: str,
    text: str,
    images: list[Image],
    *,
    gpu: bool,
    forced: list[int] | None = None,
    steps: list[list[float]] | None = None,
) -> tuple[list[float], list[int]]:
    """Logits behind the prompt, and the greedy tokens, by mtmd_helper_eval_chunks with the full model.

    `forced`: read these tokens instead, 32 at a time, and put the logits behind each into `steps`.
    """
    model = loading.load_model(model_path, n_gpu_layers=-1 if gpu else 0)
    mtmd_params = M.mtmd_context_params_default()
    mtmd_params.use_gpu = gpu
    mtmd_params.n_threads = 1
    mtmd = M.mtmd_init_from_file(projector_path.encode(), model, mtmd_params)
    params = C.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = RUNTIME.n_ctx, RUNTIME.n_batch, RUNTIME.n_batch
    params.n_threads = params.n_threads_batch = RUNTIME.n_threads
    params.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = C.llama_init_from_model(model, params)
    bitmaps = []
    for image in images:
        pixels = (ctypes.c_uint8 * len(image.rgb)).from_buffer_copy(image.rgb)
        bitmaps.append(M.mtmd_bitmap_init(image.width, image.height, pixels))
    raw = text.replace("<image>", M.mtmd_default_marker().decode()).encode()
    prompt = M.mtmd_input_text(text=raw, text_len=len(raw), add_special=True, parse_special=True)
    chunks = M.mtmd_input_chunks_init()
    array = (M.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
    assert M.mtmd_tokenize(mtmd, chunks, ctypes.byref(prompt), array, len(bitmaps)) == 0
    n_past = C.llama_pos(0)
    assert M.mtmd_helper_eval_chunks(mtmd, context, chunks, 0, 0, RUNTIME.n_batch, True, ctypes.byref(n_past)) == 0
    vocabulary = Vocabulary(model)
    logits = C.llama_get_logits_ith(context, -1)[: vocabulary.n_tokens]
    sampler = C.llama_sampler_init_greedy()
    tokens = []
    position = n_past.value
    batch = C.llama_batch_init(1, 0, 1)
    for start in range(0, len(forced or ()), 32):
        part = (forced or [])[start : start + 32]
        many = C.llama_batch_init(len(part), 0, 1)
        many.n_tokens = len(part)
        for i, token in enumerate(part):
            many.token[i], many.pos[i], many.logits[i] = token, position + start + i, 1
            many.n_seq_id[i], many.seq_id[i][0] = 1, 0
        assert C.llama_decode(context, many) == 0
        assert steps is not None
        steps += [C.llama_get_logits_ith(context, i)[: vocabulary.n_tokens] for i in range(len(part))]
    for _ in range(N_TOKENS if forced is None else 0):
        token = C.llama_sampler_sample(sampler, context, -1)
        if vocabulary.ends_text(token):
            break
        tokens.append(token)
        batch.n_tokens, batch.token[0], batch.pos[0], batch.logits[0] = 1, token, position, 1
        batch.n_seq_id[0], batch.seq_id[0][0] = 1, 0
        position += 1
        assert C.llama_decode(context, batch) == 0
    return logits, tokens


def warm_up(model: LanguageModel, prompt: EncodedPrompt) -> None:
    """As on a GPU, where the first prompt of a Qwen2-VL was refused: values of the warm-up were NaN."""
    model.prepare(RUNTIME, prompt)
    assert model._context is not None
    model._context.warm_up_image(model.n_embd)


def logits_of(model: LanguageModel, prompt: EncodedPrompt) -> list[float]:
    model.prepare(RUNTIME, prompt)
    context = model._context
    assert context is not None
    C.llama_set_sampler(context.handle, 0, None)  # with one attached the logits stay on the device
    context.read(prompt, Event())
    return C.llama_get_logits_ith(context.handle, -1)[: model.vocabulary.n_tokens]


def answer(model: LanguageModel, prompt: EncodedPrompt) -> tuple[list[int], int]:
    tokens: list[int] = []
    finished = model.generate(
        prompt,
        Sampling(max_tokens=N_TOKENS),
        RUNTIME,
        cancelled=Event(),
        send=lambda chunk: tokens.extend(chunk.token_ids),
    )
    return tokens, finished.reused_tokens


def difference(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def main() -> None:
    model_path, projector_path, width, height = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    gpu = sys.argv[5:] == ["gpu"]
    loading.start()
    image, other = picture(width, height, 1), picture(width, height, 2)
    vision = VisionModel(projector_path, model_path, use_gpu=gpu, n_threads=1)

    def ask(text: str, images: list[Image]) -> EncodedPrompt:
        return vision.encode([ChatMessage("user", text, len(images))], images, None)

    prompt = ask("Describe it please.", [image])
    followup = ask("And what else? Tell me more of it.", [image])
    two = ask("What differs?", [image, other])
    planned = ask("Describe it please.", [Image(b"", image.width, image.height, image.sha256)])

    with patch.object(finite, "check_embeddings", side_effect=chain([finite.NotFinite("once")], repeat(None))):
        renewed = ask("Describe it please.", [image])  # by a projector that was loaded anew

    fresh = LanguageModel(model_path, n_gpu_layers=-1 if gpu else 0)
    expected_logits, expected = upstream(model_path, projector_path, prompt.rendered, [image], gpu=gpu)
    warm_up(fresh, prompt)
    logits = logits_of(fresh, prompt)
    tokens, _ = answer(fresh, prompt)
    two_logits, two_expected = upstream(model_path, projector_path, two.rendered, [image, other], gpu=gpu)
    two_tokens, _ = answer(fresh, two)

    # The second question with the image kept, against a model that never saw the first one.
    answer(fresh, prompt)
    kept_tokens, reused = answer(fresh, followup)
    kept_logits = logits_of(fresh, followup)
    clean = LanguageModel(model_path, n_gpu_layers=-1 if gpu else 0)
    clean_logits = logits_of(clean, followup)
    clean_tokens, _ = answer(clean, followup)

    def shape(p: EncodedPrompt) -> list[object]:
        return [getattr(c, "token_ids", None) or (c.n_tokens, c.n_pos, c.positions) for c in p.chunks]

    print(
        json.dumps(
            {
                "image_tokens": prompt.n_image_tokens,
                "difference": difference(logits, expected_logits),
                "spread": max(expected_logits) - min(expected_logits),
                "tokens": tokens,
                "expected": expected,
                "two_difference": difference(logits_of(fresh, two), two_logits),
                "two_tokens": two_tokens,
                "two_expected": two_expected,
                "reused": reused,
                "kept_difference": difference(kept_logits, clean_logits),
                "kept_tokens": kept_tokens,
                "clean_tokens": clean_tokens,
                "planned_alike": shape(planned) == shape(prompt),
                "renewed_alike": renewed.chunks == prompt.chunks,
                "other_image_differs": two.chunks != prompt.chunks,
            }
        )
    )


if __name__ == "__main__":
    main()
