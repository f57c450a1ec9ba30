"""Image embeddings in Ray's object store: the page puts them there once, and each machine fetches them once.

They are encoded once anyway, for the whole cluster: the page keeps them (comparing/embedding_cache.py). A request has
references in place of large ones, so that the next variant on a machine finds them in its memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from threading import Lock
from typing import Any, TypeVar

import msgspec
import ray

from playground.engine import protocol

LEAST_BYTES = 100 * 2**10  # Ray sends smaller ones with the call
SHARE = 0.25  # of the page's object store, for what it keeps there; the rest is still in its own cache

M = TypeVar("M", bound=msgspec.Struct)
References = Mapping[str, Any]  # ray.ObjectRef, by ImageChunk.key


class SharedEmbeddings:
    """Owns the references. Safe to use from several threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = Lock()
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()  # the latest used last

    def sent(self, message: protocol.Message) -> tuple[bytes, References]:
        """The message, encoded, without its large embeddings, and where they are."""
        chunks = [chunk for chunk in _images(message) if len(chunk.embeddings) >= LEAST_BYTES]
        references = {chunk.key: self._put(chunk) for chunk in chunks}
        small = _with(message, dict.fromkeys(references, b"")) if references else message
        return protocol.encoded(small), references

    def _put(self, chunk: protocol.ImageChunk) -> Any:
        with self._lock:
            if chunk.key not in self._kept:
                self._kept[chunk.key] = ray.put(chunk.embeddings), len(chunk.embeddings)
            self._kept.move_to_end(chunk.key)
            reference, _ = self._kept[chunk.key]
            while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > self._most_bytes:
                self._kept.popitem(last=False)  # Ray frees it when no request needs it any more
        return reference


async def put_back(message: M, references: References) -> M:
    """On the other machine."""
    return _with(message, {key: await reference for key, reference in references.items()}) if references else message


def _images(message: msgspec.Struct) -> list[protocol.ImageChunk]:
    prompt = getattr(message, "prompt", None)
    chunks = prompt.chunks if isinstance(prompt, protocol.EncodedPrompt) else ()
    return [chunk for chunk in chunks if isinstance(chunk, protocol.ImageChunk)]


def _with(message: M, embeddings: Mapping[str, bytes]) -> M:
    prompt: protocol.EncodedPrompt = message.prompt  # type: ignore[attr-defined]
    chunks = tuple(
        msgspec.structs.replace(chunk, embeddings=embeddings[chunk.key])
        if isinstance(chunk, protocol.ImageChunk) and chunk.key in embeddings
        else chunk
        for chunk in prompt.chunks
    )
    return msgspec.structs.replace(message, prompt=msgspec.structs.replace(prompt, chunks=chunks))
