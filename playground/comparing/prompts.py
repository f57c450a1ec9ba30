"""A conversation with images to a prompt that any language model of the family can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from playground.comparing.embedding_cache import EmbeddingCache
from playground.comparing.lab import Lab
from playground.engine import protocol
from playground.errors import BadInput, BadModel, BadPrompt
from playground.pool.handles import Lease
from playground.pool.pool import Pool
from playground.pool.worker_spec import vision_spec
from playground.values.files import Variant
from playground.values.reasoning import Written
from playground.values.request import USUAL_FORM, ConversationMessage, Image, ImagePlace, PromptForm, Runtime

IMAGE_WORD = "<image>"  # in a prompt: an image goes here


def question(prompt: str, n_images: int, place: ImagePlace = ImagePlace.BEFORE) -> protocol.ChatMessage:
    """The message that asks `prompt` about some images.

    They stand where the prompt says <image>, in their order; if it says so nowhere, before it or behind it. Without
    images the word is text. Raises BadPrompt if it names more or fewer places than there are images.
    """
    pieces = prompt.split(IMAGE_WORD)
    named = len(pieces) - 1
    if not named or not n_images:
        at = (len(prompt),) * n_images if place is ImagePlace.BEHIND else ()
        return protocol.ChatMessage("user", prompt, n_images, at)
    if named != n_images:
        raise BadPrompt(
            f"The prompt says {IMAGE_WORD} {named} {'time' if named == 1 else 'times'}, and there "
            f"{'is 1 image' if n_images == 1 else f'are {n_images} images'}. Name each image once, or none."
        )
    places = accumulate(len(piece) for piece in pieces[:-1])
    return protocol.ChatMessage("user", "".join(pieces), n_images, tuple(places))


def with_system(messages: Sequence[protocol.ChatMessage], system: str | None) -> tuple[protocol.ChatMessage, ...]:
    """The messages behind a system message, if there is one."""
    return tuple(messages) if system is None else (protocol.ChatMessage("system", system), *messages)


def spoken(messages: Sequence[protocol.ChatMessage]) -> tuple[ConversationMessage, ...]:
    """The messages for a server elsewhere."""
    return tuple(ConversationMessage(m.role, m.text, m.places or (0,) * m.n_images) for m in messages)


def asked(prompt: str, form: PromptForm) -> tuple[protocol.ChatMessage, ...]:
    """The messages that ask one question about one image. Raises BadPrompt as `question`."""
    return with_system([question(prompt, 1, form.image_place)], form.system)


def encode(
    lease: Lease,
    embeddings: EmbeddingCache | None,
    variant: Variant,
    runtime: Runtime,
    messages: Sequence[protocol.ChatMessage],
    images: Sequence[Image],
    stop: Callable[[], bool],
    template: str | None,
    variables: Mapping[str, Any] | None = None,
    *,
    fresh: bool = False,
) -> tuple[protocol.EncodedPrompt, bool]:
    """Have a vision worker encode what the cache does not have; without a cache, or with `fresh`, everything.

    Returns the prompt, and whether all images came from the cache. Raises Interrupted and what the worker raises.
    """

    def send(known: dict[int, str]) -> protocol.EncodedPrompt:
        sent = tuple(replace(image, rgb=b"") if i in known else image for i, image in enumerate(images))
        return lease.request(protocol.Encode(tuple(messages), sent, template, dict(variables or {})), stop=stop)

    if embeddings is None:
        return send({}), False
    keys = {i: embeddings.key(variant.projector, image, runtime.image_tokens) for i, image in enumerate(images)}
    known = {i: key for i, key in keys.items() if not fresh and embeddings.has(key)}
    prompt = send(known)
    filled = embeddings.fill(prompt, known)
    if filled is None:  # evicted in between, or of another shape
        known = {}
        filled = prompt = send(known)
    for i, key in keys.items():
        if i not in known:
            embeddings.put(key, prompt, i)
    return filled, len(known) == len(images) and bool(images)


def ask(
    lab: Lab,
    variant: Variant,
    prompt: str,
    image: Image,
    runtime: Runtime,
    stop: Callable[[], bool],
    form: PromptForm = USUAL_FORM,
    *,
    fresh: bool = False,
) -> protocol.EncodedPrompt:
    """The prompt of one question about one image, in a turn of its own. `fresh`: without the embedding cache."""
    runtime = runtime.of(variant)
    cache = None if fresh else lab.embeddings
    with lab.pool.use(vision_spec(variant.projector, variant.model, runtime, [image]), stop=stop) as lease:
        return encode_one(lease, cache, variant, runtime, prompt, image, form, stop)


def encode_one(
    lease: Lease,
    embeddings: EmbeddingCache | None,
    variant: Variant,
    runtime: Runtime,
    prompt: str,
    image: Image,
    form: PromptForm,
    stop: Callable[[], bool],
) -> protocol.EncodedPrompt:
    """The prompt of one question about one image. Raises as `encode`."""
    messages, template = asked(prompt, form), form.template_of(variant)
    encoded, _ = encode(lease, embeddings, variant, runtime, messages, [image], stop, template, form.template_variables)
    return encoded


def planned(
    lease: Lease, variant: Variant, prompt: str, image: Image, form: PromptForm, stop: Callable[[], bool]
) -> protocol.EncodedPrompt:
    """The prompt of one question about one image without the image's embeddings: nothing is encoded."""
    bare, variables = replace(image, rgb=b""), dict(form.template_variables)
    request = protocol.Encode(asked(prompt, form), (bare,), form.template_of(variant), variables)
    return lease.request(request, stop=stop)


def answer(lease: Lease, request: protocol.Generate, stop: Callable[[], bool]) -> tuple[str, tuple[int, ...]]:
    """Have a language worker answer: the text without its reasoning, all token ids. Raises what the worker raises."""
    text, ids, _ = answer_and_end(lease, request, stop)
    return text, ids


def answer_and_end(
    lease: Lease, request: protocol.Generate, stop: Callable[[], bool]
) -> tuple[str, tuple[int, ...], protocol.Finished]:
    """The same, and how the answer ended."""
    written = Written()
    ids: list[int] = []

    def on_chunk(chunk: protocol.Chunk) -> None:
        nonlocal written
        written = written.then(chunk.written)
        ids.extend(chunk.token_ids)

    finished = lease.request(request, on_chunk=on_chunk, stop=stop)
    return written.answer, tuple(ids), finished


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a question becomes under a chat template; `problem` in place of it if the template cannot be used."""

    template: str  # "in the file", or a name
    text: str = ""
    token_ids: tuple[tuple[int, ...], ...] = ()  # of the text before, between and behind images
    n_image_tokens: int = 0
    problem: str = ""


def rendered(
    pool: Pool, variant: Variant, templates: Sequence[str | None], prompt: str, *, side: int = 448
) -> list[Rendered]:
    """A question about one square image under several templates (None: the file's), without encoding anything.

    Raises what loading the projector raises.
    """
    message = question(prompt, 1)
    image = Image(b"", side, side, "")  # without pixels it is planned, not encoded
    renderings = []
    with pool.lease(vision_spec(variant.projector, variant.model, Runtime())) as lease:
        for template in templates:
            name = template if template and "{" not in template else "your own" if template else "in the file"
            try:
                encoded = lease.request(protocol.Encode((message,), (image,), template))
                ids = tuple(chunk.token_ids for chunk in encoded.chunks if isinstance(chunk, protocol.TextChunk))
                renderings.append(Rendered(name, encoded.rendered, ids, encoded.n_image_tokens))
            except (BadInput, BadModel) as error:
                renderings.append(Rendered(name, problem=error.message))
    return renderings
