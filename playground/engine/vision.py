"""The vision half of the split engine: chat and images in, a prompt of token ids and image embeddings out.

It holds a projector and, without its weights, a language model whose vocabulary and widths it needs. Its output is
what mtmd_helper_eval_chunks would feed to llama_decode (llama.cpp tools/mtmd/mtmd-helper.cpp), for any language
model of the family; tests/engine/test_equality.py proves it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from llama_cpp import llama_cpp as C
from llama_cpp import mtmd_cpp as M

from playground.engine import finite, llama_log, loading, templates
from playground.engine.encoder_inputs import EncoderInputs
from playground.engine.importance import Importance, watching
from playground.engine.protocol import ChatMessage, EncodedPrompt, ImageChunk, MemoryPlan, TextChunk
from playground.engine.vocabulary import Vocabulary
from playground.errors import BadModel, BadPair, BadPrompt, EngineError
from playground.values.request import ANY, Image, ImageTokens

_FLOAT_BYTES = 4
_BLANK_SIDE = 448  # pixels
_M_PERTURB = -6  # of malloc.h


_IGNORED = "This encoder does not read the limits of image tokens: they change nothing."


@contextmanager
def _input_chunks() -> Iterator[object]:
    chunks = M.mtmd_input_chunks_init()
    try:
        yield chunks
    finally:
        M.mtmd_input_chunks_free(chunks)


@contextmanager
def _zeroed_memory() -> Iterator[None]:
    """Host memory that is allocated in the block is zero, with glibc. Costs time for each allocation."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        yield
        return
    set_option(_M_PERTURB, 0xFF)  # malloc(3): allocated bytes are set to the complement
    try:
        yield
    finally:
        set_option(_M_PERTURB, 0)


class VisionModel:
    """Owns a projector and its weightless language model until `close`."""

    def __init__(
        self,
        projector: str,
        model: str,
        *,
        use_gpu: bool,
        n_threads: int | None,
        image_tokens: ImageTokens = ANY,
        importance: Importance | None = None,
        inputs: EncoderInputs | None = None,
    ) -> None:
        """`importance` and `inputs`: one of them watches the encoder, or none."""
        templates.start()  # while the files load
        self._importance = importance
        self._inputs = inputs
        watcher = importance or inputs
        self._model = loading.load_model(model, weights=False)
        self._load_projector = functools.partial(
            loading.load_projector,
            projector,
            self._model,
            use_gpu=use_gpu,
            n_threads=n_threads or loading.default_threads(os.path.getsize(projector)),
            image_tokens=image_tokens,
            observer=watcher and watcher.callback,
        )
        lines: list[str] = []
        try:
            with llama_log.listening(lines.append):
                self._mtmd = self._load_projector()
        except Exception:
            C.llama_model_free(self._model)
            raise
        self.plan = MemoryPlan(None, *llama_log.encoder_plan(lines, on_gpu=use_gpu and loading.GPU_OFFLOAD))
        self._warnings = llama_log.image_warnings(lines)
        if llama_log.ignores_budget(lines, image_tokens):
            self._warnings += (_IGNORED,)
        self._token_side = llama_log.token_side(lines)
        self._vocabulary = Vocabulary(self._model)
        self._template = loading.metadata(self._model, "tokenizer.chat_template")
        self.n_embd: int = C.llama_model_n_embd_inp(self._model)
        self.n_ctx_train: int = C.llama_model_n_ctx_train(self._model)

    def close(self) -> None:
        M.mtmd_free(self._mtmd)
        C.llama_model_free(self._model)

    @property
    def _marker(self) -> str:
        return (M.mtmd_get_marker(self._mtmd) or b"").decode()

    def warm_up(self) -> None:
        """Encode a blank image. On a GPU the first one takes 110-170 ms and later ones 8 (CLIP-L, H100)."""
        blank = Image(bytes(3 * _BLANK_SIDE**2), _BLANK_SIDE, _BLANK_SIDE, "")
        with _input_chunks() as chunks:
            self._tokenize(self._marker, [blank], chunks)
            for i in range(M.mtmd_input_chunks_size(chunks)):
                chunk = M.mtmd_input_chunks_get(chunks, i)
                if M.mtmd_input_chunk_get_type(chunk) != M.MTMD_INPUT_CHUNK_TYPE_TEXT:
                    self._embeddings(chunk)

    def render(
        self,
        messages: Sequence[ChatMessage],
        chat_template: str | None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text, with an image marker where each image goes.

        Raises BadInput for an invalid template, BadModel if there is none or it fails.
        """
        template = chat_template or self._template
        if not template:
            raise BadModel(
                "The language model's file has no chat template. Choose one; the model's card says which. "
                f"llama.cpp has {', '.join(templates.builtin_names()[:6])} and more built in."
            )
        templates.check(template)
        special = {"bos": self._vocabulary.bos, "eos": self._vocabulary.eos}
        text = templates.render(template, messages, self._marker, variables=variables, **special)
        # llama_tokenize adds the BOS token; a template that writes it too would double it.
        if self._vocabulary.adds_bos and self._vocabulary.bos:
            text = text.removeprefix(self._vocabulary.bos)
        return text

    def encode(
        self,
        messages: Sequence[ChatMessage],
        images: Sequence[Image],
        chat_template: str | None,
        variables: Mapping[str, Any] | None = None,
    ) -> EncodedPrompt:
        """Tokenize the chat and encode the images that come with pixels.

        Raises BadModel for a template without a place for the image, BadPair when the vocabulary lacks a token
        that the projector type needs, EngineError when llama.cpp fails or computes NaN.
        """
        try:
            return self._encode(messages, images, chat_template, variables)
        except finite.NotFinite:
            # The graph of Pixtral and Mistral 3 multiplies memory that nothing has set by 0, and NaN times 0 is NaN
            # (llama.cpp tools/mtmd/models/pixtral.cpp). Every encode leaves infinities there, llama.cpp's own warm-up
            # too. The first encode of a context whose memory is zero is sound.
            with _zeroed_memory():
                used, self._mtmd = self._mtmd, self._load_projector(warm=False)
                M.mtmd_free(used)
                return self._encode(messages, images, chat_template, variables)

    def _encode(
        self,
        messages: Sequence[ChatMessage],
        images: Sequence[Image],
        chat_template: str | None,
        variables: Mapping[str, Any] | None,
    ) -> EncodedPrompt:
        rendered = self.render(messages, chat_template, variables)
        names = templates.names(chat_template or self._template or "")
        started = time.perf_counter()
        with watching(self._importance), _input_chunks() as chunks:
            self._tokenize(rendered, images, chunks)
            preprocess_s = time.perf_counter() - started
            encode_s = 0.0
            encoded: list[TextChunk | ImageChunk] = []
            n_past = 0
            for i in range(M.mtmd_input_chunks_size(chunks)):
                chunk = M.mtmd_input_chunks_get(chunks, i)
                if M.mtmd_input_chunk_get_type(chunk) == M.MTMD_INPUT_CHUNK_TYPE_TEXT:
                    text = self._text_chunk(chunk)
                    encoded.append(text)
                    n_past += len(text.token_ids)
                    continue
                image = int(M.mtmd_input_chunk_get_id(chunk))  # all tiles of an image carry its id
                if self._inputs is not None:
                    self._inputs.take()  # of the warm-up
                encode_started = time.perf_counter()
                embeddings = self._embeddings(chunk) if images[image].rgb else b""
                encode_s += time.perf_counter() - encode_started
                finite.check_embeddings(embeddings)
                tile = self._image_chunk(chunk, image, n_past, embeddings)
                encoded.append(tile)
                n_past += tile.n_pos
        if not encoded or not isinstance(encoded[-1], TextChunk):
            raise BadModel("The chat template ends with the image, so no answer can follow. Choose another one.")
        return EncodedPrompt(
            chunks=tuple(encoded),
            n_embd=self.n_embd,
            rendered=rendered.replace(self._marker, "<image>"),
            preprocess_s=preprocess_s,
            encode_s=encode_s if any(image.rgb for image in images) else None,
            template_names=tuple(sorted(names)),
            warnings=self._warnings,
        )

    def _tokenize(self, text: str, images: Sequence[Image], chunks: object) -> None:
        bitmaps = []
        try:
            for i, image in enumerate(images):
                # No copy of ours: mtmd makes one.
                pixels = ctypes.cast(ctypes.c_char_p(image.rgb), ctypes.POINTER(ctypes.c_uint8)) if image.rgb else None
                # Without pixels mtmd plans the same chunks but leaves out the preprocessing.
                bitmap = M.mtmd_bitmap_init(image.width, image.height, pixels)
                M.mtmd_bitmap_set_id(bitmap, str(i).encode())
                bitmaps.append(bitmap)
            raw = text.encode()
            prompt = M.mtmd_input_text(text=raw, text_len=len(raw), add_special=True, parse_special=True)
            array_of = (M.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
            llama_log.clear()
            code = M.mtmd_tokenize(self._mtmd, chunks, ctypes.byref(prompt), array_of, len(bitmaps))
            if code == 1:
                raise BadPrompt("The prompt's number of image markers differs from its number of images.")
            if code:
                raise llama_log.explain("llama.cpp could not prepare the image.")
        finally:
            for bitmap in bitmaps:
                M.mtmd_bitmap_free(bitmap)

    def _text_chunk(self, chunk: object) -> TextChunk:
        count = ctypes.c_size_t()
        tokens = M.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
        token_ids = tuple(tokens[: count.value])
        if any(not 0 <= token < self._vocabulary.n_tokens for token in token_ids):
            # llama.cpp aborts the process on these.
            raise BadPair(
                "The projector needs special tokens around an image that this language model's vocabulary lacks: "
                "they were not made for each other. Use the mmproj file that was published with this model."
            )
        return TextChunk(token_ids=token_ids)

    def _embeddings(self, chunk: object) -> bytes:
        """n_tokens x n_embd float32."""
        llama_log.clear()
        if M.mtmd_encode_chunk(self._mtmd, chunk):
            raise llama_log.explain("llama.cpp could not encode the image.")
        output = M.mtmd_get_output_embd(self._mtmd)
        if not output:
            raise EngineError("llama.cpp returned no embeddings for the image.", llama_log.last_lines())
        n_tokens = int(M.mtmd_input_chunk_get_n_tokens(chunk))
        return ctypes.string_at(output, n_tokens * self.n_embd * _FLOAT_BYTES)

    def _image_chunk(self, chunk: object, image: int, n_past: int, embeddings: bytes) -> ImageChunk:
        n_tokens = int(M.mtmd_input_chunk_get_n_tokens(chunk))
        return ImageChunk(
            image=image,
            # Three times as fast as blake2b where the processor has SHA instructions: 5 ms for 6 MB.
            key=hashlib.sha256(embeddings).hexdigest() if embeddings else "",
            n_tokens=n_tokens,
            n_pos=int(M.mtmd_input_chunk_get_n_pos(chunk)),
            non_causal=bool(M.mtmd_decode_use_non_causal(self._mtmd, chunk)),
            positions=self._positions(chunk, n_tokens, n_past),
            embeddings=embeddings,
            pixels=self._pixels(chunk),
            inputs=self._inputs.take() if self._inputs is not None else (),
        )

    def _pixels(self, chunk: object) -> tuple[int, int] | None:
        if self._token_side is None or not M.mtmd_decode_use_mrope(self._mtmd):
            return None
        tokens = M.mtmd_input_chunk_get_tokens_image(chunk)
        grid = M.mtmd_image_tokens_get_nx(tokens), M.mtmd_image_tokens_get_ny(tokens)
        return int(grid[0]) * self._token_side, int(grid[1]) * self._token_side

    def _positions(self, chunk: object, n_tokens: int, n_past: int) -> bytes:
        """4 x n_tokens int32 in the order t, y, x, z for M-RoPE; empty otherwise."""
        if not M.mtmd_decode_use_mrope(self._mtmd):
            return b""
        positions = (M.mtmd_decoder_pos * n_tokens)()
        M.mtmd_helper_image_get_decoder_pos(M.mtmd_input_chunk_get_tokens_image(chunk), n_past, positions)
        sections = (
            array("i", (p.t for p in positions)),
            array("i", (p.y for p in positions)),
            array("i", (p.x for p in positions)),
            array("i", (p.z for p in positions)),
        )
        return b"".join(section.tobytes() for section in sections)
