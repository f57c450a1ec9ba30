"""Image embeddings, kept by projector and picture: in memory, and on disk for the next start.

One encode then serves every quantization of the language model, every turn, and everybody who asks about the picture.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from threading import Lock

import msgspec
import numpy

from playground.engine.protocol import EncodedPrompt, ImageChunk
from playground.support.byte_cache import BytesCache
from playground.values.files import ModelFile
from playground.values.request import ANY, Image, ImageTokens

_MEMORY_BYTES = 256 * 2**20


class _Tile(msgspec.Struct, frozen=True):
    key: str
    embeddings: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[_Tile, ...])


def _sound(data: bytes) -> bool:
    """Whether it can be decoded and has neither NaN nor infinity. Workers of earlier versions did not look."""
    try:
        return all(numpy.isfinite(numpy.frombuffer(t.embeddings, numpy.float32)).all() for t in _decoder.decode(data))
    except (msgspec.DecodeError, ValueError):
        return False


class EmbeddingCache:
    """Safe to use from several threads. A disk error is reported in `problem` and stops nothing."""

    def __init__(self, folder: Path, size_limit_bytes: int, engine: str) -> None:
        """`engine`: versions of what computes embeddings; another one must not use this one's."""
        self._disk = BytesCache(folder, size_limit_bytes)
        self._engine = engine
        self._lock = Lock()
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._recent_bytes = 0

    @property
    def problem(self) -> str | None:
        return f"Image embeddings are not kept: {self._disk.problem}." if self._disk.problem else None

    def close(self) -> None:
        self._disk.close()

    def key(self, projector: ModelFile, image: Image, tokens: ImageTokens = ANY) -> str:
        # Without a budget as earlier versions wrote it: what they kept is found.
        budget = "" if tokens == ANY else f":{tokens[0]}-{tokens[1]}"
        return hashlib.sha256(f"{self._engine}:{projector.sha256}:{image.sha256}{budget}".encode()).hexdigest()

    def has(self, key: str) -> bool:
        return self._get(key) is not None

    def put(self, key: str, prompt: EncodedPrompt, image: int) -> None:
        """Keep the embeddings of the `image`-th image of a prompt."""
        chunks = (c for c in prompt.chunks if isinstance(c, ImageChunk) and c.image == image)
        tiles = tuple(_Tile(key=c.key, embeddings=c.embeddings) for c in chunks)
        data = _encoder.encode(tiles)
        if not _sound(data):
            return
        self._remember(key, data)
        self._disk.set(key, data)

    def fill(self, prompt: EncodedPrompt, keys: dict[int, str]) -> EncodedPrompt | None:
        """`prompt` with the embeddings of the images in `keys`; None if they are gone or do not fit."""
        tiles: dict[int, list[_Tile]] = {}
        for image, key in keys.items():
            data = self._get(key)
            if data is None:
                return None
            try:
                tiles[image] = list(_decoder.decode(data))
            except msgspec.DecodeError:
                return None
        chunks = []
        for chunk in prompt.chunks:
            if isinstance(chunk, ImageChunk) and chunk.image in tiles:
                left = tiles[chunk.image]
                if not left or len(left[0].embeddings) != chunk.n_tokens * prompt.n_embd * 4:
                    return None
                tile = left.pop(0)
                chunk = msgspec.structs.replace(chunk, key=tile.key, embeddings=tile.embeddings)
            chunks.append(chunk)
        if any(tiles.values()):
            return None
        return msgspec.structs.replace(prompt, chunks=tuple(chunks))

    def _get(self, key: str) -> bytes | None:
        with self._lock:
            if key in self._recent:
                self._recent.move_to_end(key)
                return self._recent[key]
        data = self._disk.find(key)
        if data is None or not _sound(data):
            return None
        self._remember(key, data)
        return data

    def _remember(self, key: str, data: bytes) -> None:
        with self._lock:
            self._recent_bytes += len(data) - len(self._recent.pop(key, b""))
            self._recent[key] = data
            while self._recent_bytes > _MEMORY_BYTES and len(self._recent) > 1:
                self._recent_bytes -= len(self._recent.popitem(last=False)[1])
