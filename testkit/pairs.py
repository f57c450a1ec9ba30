"""Random-weight GGUF pairs (language model + projector), small enough to be written and loaded in a test.

Every pair is whole: byte-level BPE vocabulary, chat template, vision tower, projector. The weights are noise,
so an answer is gibberish, but it depends on the image and the prompt and is the same for the same seed. Keys,
tensor names and shapes are those of llama.cpp in llama-cpp-python 0.3.36: tools/mtmd/clip.cpp and
tools/mtmd/models/ for projectors, src/models/ for language models. Shapes are in numpy order (rows, columns),
the reverse of GGUF's. Rows that can be quantized are multiples of 256 long, so that every K-quant applies.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, TokenType

KINDS: tuple[str, ...] = ("mlp", "qwen2vl", "qwen3vl", "gemma3", "idefics3")


@dataclass(frozen=True)
class PairFiles:
    """The two files of one pair."""

    kind: str
    model: Path
    projector: Path


@dataclass(frozen=True)
class LanguageSize:
    """Widths and counts of a language model; a head is n_embd / n_head wide."""

    n_embd: int = 256
    n_layer: int = 2
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 512
    n_vocab: int = 512


@dataclass(frozen=True)
class VisionSize:
    """Widths and counts of a vision tower; image and patch are sides in pixels.

    ff must differ from embd: clip.cpp takes a square ff_down for an old file with up and down swapped.
    """

    embd: int = 256
    layer: int = 2
    head: int = 4
    ff: int = 512
    image: int = 64
    patch: int = 8


# --- tensors ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """One tensor to be drawn: mean + std * noise; its first zero_rows stay zero."""

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0
    dtype: type = np.float32
    zero_rows: int = 0


def matrix(name: str, rows: int, columns: int, gain: float = 1.0) -> Tensor:
    """An F16 weight: inputs of standard deviation 1 become outputs of standard deviation gain."""
    return Tensor(f"{name}.weight", (rows, columns), gain / columns**0.5, dtype=np.float16)


def scale(name: str, width: int, mean: float = 1.0) -> Tensor:
    """The factors of a norm."""
    return Tensor(f"{name}.weight", (width,), 0.1, mean)


def bias(name: str, width: int) -> Tensor:
    return Tensor(f"{name}.bias", (width,), 0.1)


def linear(name: str, rows: int, columns: int, gain: float = 1.0) -> list[Tensor]:
    return [matrix(name, rows, columns, gain), bias(name, rows)]


def norm(name: str, width: int) -> list[Tensor]:
    return [scale(name, width), bias(name, width)]


# Prime, so that the rows of a matrix start at different places of the cycle: no two are equal.
_CYCLE = 262_139


def _draw(tensors: list[Tensor], seed: int) -> Iterator[np.ndarray]:
    """Draw tensors from one cycle of random numbers: billions of weights cost little more than a copy."""
    random = np.random.default_rng(seed)
    unit = random.standard_normal(_CYCLE, dtype=np.float32)
    for tensor in tensors:
        cycle = np.roll(unit, random.integers(_CYCLE)) * tensor.std + tensor.mean
        values: np.ndarray = np.resize(cycle.astype(tensor.dtype), tensor.shape)
        values[: tensor.zero_rows] = 0
        yield values


@dataclass(frozen=True)
class GgufFile:
    """What a file is to hold; write() has one tensor in memory at a time."""

    architecture: str
    metadata: dict[str, Any]
    tensors: list[Tensor]

    def write(self, path: Path, name: str, seed: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = GGUFWriter(path, self.architecture)
        general = {
            "general.type": "mmproj" if self.architecture == "clip" else "model",
            "general.name": name,
            "general.basename": name,
            "general.file_type": int(LlamaFileType.MOSTLY_F16),
            "general.quantization_version": 2,
        }
        for key, value in (general | self.metadata).items():
            # llama.cpp reads single integers as unsigned; get_type takes them for signed.
            value_type = GGUFValueType.UINT32 if type(value) is int else GGUFValueType.get_type(value)
            writer.add_key_value(key, value, value_type)
        for tensor in self.tensors:
            dtype, count = np.dtype(tensor.dtype), int(np.prod(tensor.shape))
            writer.add_tensor_info(tensor.name, tensor.shape, dtype, count * dtype.itemsize)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for values in _draw(self.tensors, seed):
            writer.write_tensor_data(values)
        writer.close()
        return path


# --- vocabulary -------------------------------------------------------------------------------------------

TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\n' }}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- else -%}{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""

# Each of these is one token, with a space before it too; any other text is spelt in bytes.
_WORDS = ("describe", "the", "image", "please", "what", "is", "in", "this", "picture", "user", "assistant")
_SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvz" for vowel in "aeiou"]


def _byte_letters() -> list[str]:
    """The letter that stands for each byte 0..255 in GPT-2's byte-level BPE."""
    printable = [*range(ord("!"), 0x7F), *range(ord("¡"), 0xAD), *range(ord("®"), 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(256 + others.index(byte)) if byte in others else chr(byte) for byte in range(256)]


def _invented_word(number: int) -> str:
    """A word of three syllables, another one for each number below 512,000; 7,919 only mixes them."""
    mixed, base = number * 7_919, len(_SYLLABLES)
    return "".join(_SYLLABLES[mixed // base**place % base] for place in range(3))


def _vocabulary(control: tuple[str, ...], n_vocab: int) -> dict[str, Any]:
    """Metadata of a BPE: control tokens, the 256 bytes, merged words, and invented words up to n_vocab.

    No text is split into invented words, but an answer may have them.
    """
    letters = _byte_letters()
    space, newline = letters[ord(" ")], letters[ord("\n")]
    merges = {newline * 2: f"{newline} {newline}"}
    for word in (*_WORDS, *(space + word for word in _WORDS)):
        for end in range(2, len(word) + 1):
            merges.setdefault(word[:end], f"{word[: end - 1]} {word[end - 1]}")
    # A dict, because llama.cpp aborts on a vocabulary that has a token twice.
    tokens = dict.fromkeys((*control, *letters, *merges))
    if len(tokens) > n_vocab:
        raise ValueError(f"n_vocab is {n_vocab}, but the vocabulary has {len(tokens)} tokens at least")
    tokens |= dict.fromkeys(space + _invented_word(number) for number in range(n_vocab - len(tokens)))
    types = [TokenType.CONTROL] * len(control) + [TokenType.NORMAL] * (len(tokens) - len(control))
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.token_type": [int(token_type) for token_type in types],
        "tokenizer.ggml.merges": list(merges.values()),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": control.index("<|im_end|>"),
        "tokenizer.ggml.padding_token_id": control.index("<|endoftext|>"),
        "tokenizer.ggml.add_bos_token": control[0] == "<bos>",
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


# --- the two halves ---------------------------------------------------------------------------------------


def _language(
    architecture: str,
    size: LanguageSize,
    control: tuple[str, ...] = TURNS,
    *,
    extra: dict[str, Any] | None = None,
    head_norm: bool = False,
    post_norm: bool = False,
) -> GgufFile:
    """A llama decoder, with the norms that qwen3vl (head_norm) and gemma3 (both) have besides.

    extra: metadata after "<architecture>.". Gains above 1 sharpen attention and logits: without them an
    answer hardly depends on what was seen.
    """
    n_embd, head = size.n_embd, size.n_embd // size.n_head
    n_key = head * size.n_head_kv
    metadata = {
        "context_length": 8192,
        "embedding_length": n_embd,
        "block_count": size.n_layer,
        "feed_forward_length": size.n_ff,
        "attention.head_count": size.n_head,
        "attention.head_count_kv": size.n_head_kv,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.dimension_count": head,
        "rope.freq_base": 10000.0,
        "vocab_size": size.n_vocab,
    } | (extra or {})
    # Gemma's graph multiplies token embeddings by sqrt(n_embd), and image embeddings by nothing.
    embedding_gain = 1.0 if architecture == "gemma3" else n_embd**0.5
    tensors = [
        matrix("token_embd", size.n_vocab, n_embd, embedding_gain),
        scale("output_norm", n_embd),
        # With a logit of 0 no control token is ever the likeliest: greedy answers end by length (or set_eos).
        replace(matrix("output", size.n_vocab, n_embd, 4.0), zero_rows=len(control)),
    ]
    for block in (f"blk.{layer}" for layer in range(size.n_layer)):
        tensors += [
            scale(f"{block}.attn_norm", n_embd),
            matrix(f"{block}.attn_q", n_embd, n_embd, 1.5),
            matrix(f"{block}.attn_k", n_key, n_embd, 1.5),
            matrix(f"{block}.attn_v", n_key, n_embd),
            matrix(f"{block}.attn_output", n_embd, n_embd),
            scale(f"{block}.ffn_norm", n_embd),
            matrix(f"{block}.ffn_gate", size.n_ff, n_embd),
            matrix(f"{block}.ffn_up", size.n_ff, n_embd),
            matrix(f"{block}.ffn_down", n_embd, size.n_ff),
        ]
        if head_norm:
            tensors += [scale(f"{block}.attn_{part}_norm", head, 1.75) for part in "qk"]
        if post_norm:
            tensors += [scale(f"{block}.post_{part}_norm", n_embd) for part in ("attention", "ffw")]
    prefixed = {f"{architecture}.{key}": value for key, value in metadata.items()}
    return GgufFile(architecture, prefixed | _vocabulary(control, size.n_vocab), tensors)


def _vision(
    projector_type: str,
    size: VisionSize,
    n_embd: int,
    projection: list[Tensor],
    *,
    extra: dict[str, Any] | None = None,
    gelu: bool = True,
    two_frames: bool = False,
    fused_qkv: bool = False,
) -> GgufFile:
    """A vision tower, and all that is its kind's own (projection); n_embd is the language model's width.

    extra: metadata after "clip.vision."; two_frames: Qwen's second convolution, for a pair of video frames.
    """
    metadata = {
        "image_size": size.image,
        "patch_size": size.patch,
        "embedding_length": size.embd,
        "feed_forward_length": size.ff,
        "block_count": size.layer,
        "attention.head_count": size.head,
        "attention.layer_norm_epsilon": 1e-6,
        "projection_dim": n_embd,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    } | (extra or {})
    shape = (size.embd, 3, size.patch, size.patch)
    patches = Tensor("v.patch_embd.weight", shape, 2.0 / (size.patch * 3**0.5), dtype=np.float16)
    tensors = [patches, replace(patches, name="v.patch_embd.weight.1")] if two_frames else [patches]
    heads = {"qkv": 3 * size.embd} if fused_qkv else dict.fromkeys("qkv", size.embd)
    for block in (f"v.blk.{layer}" for layer in range(size.layer)):
        tensors += norm(f"{block}.ln1", size.embd) + norm(f"{block}.ln2", size.embd)
        for part, rows in heads.items():
            tensors += linear(f"{block}.attn_{part}", rows, size.embd, 1.5)
        tensors += linear(f"{block}.attn_out", size.embd, size.embd)
        tensors += linear(f"{block}.ffn_up", size.ff, size.embd)
        tensors += linear(f"{block}.ffn_down", size.embd, size.ff)
    clip = {"clip.has_vision_encoder": True, "clip.projector_type": projector_type, "clip.use_gelu": gelu}
    prefixed = {f"clip.vision.{key}": value for key, value in metadata.items()}
    return GgufFile("clip", clip | prefixed, tensors + projection)


def _positions(size: VisionSize, more: int = 0) -> Tensor:
    return Tensor("v.position_embd.weight", ((size.image // size.patch) ** 2 + more, size.embd), 0.5)


def _two_layers(first: str, second: str, n_embd: int, columns: int) -> list[Tensor]:
    return linear(first, n_embd, columns) + linear(second, n_embd, n_embd, 2.0)


# --- pairs ------------------------------------------------------------------------------------------------


def write_pair(
    kind: str, folder: Path, *, seed: int = 0, special_tokens: bool = True, size: VisionSize | None = None
) -> PairFiles:
    """Write the small pair of a kind, 5 to 10 MB in all: F16 matrices, F32 norms, biases and positions.

    size: of the vision tower; its patch has to be the kind's own. None: a small one.

    special_tokens=False leaves the tokens around images out of the vocabulary: of an idefics3 pair
    mtmd_tokenize then makes the token id -1. LLaVA-type pairs have none to leave out.
    """
    if kind == "mlp":
        return write_llava(folder, seed=seed, size=size)
    build, media = _BUILDERS[kind]
    language, vision = build(TURNS + media if special_tokens else TURNS, size)
    return _write(kind, folder, f"tiny-{kind}" + ("" if special_tokens else "-bare"), language, vision, seed)


def write_llava(
    folder: Path,
    *,
    n_embd: int = 256,
    n_layer: int = 2,
    n_head: int = 4,
    n_head_kv: int = 2,
    n_ff: int = 512,
    n_vocab: int = 512,
    size: VisionSize | None = None,
    seed: int = 0,
    name: str = "tiny-mlp",
) -> PairFiles:
    """A LLaVA-type pair at any size: (size.image / size.patch)^2 image tokens, whatever the image's own size.

    Of the vision layers llama.cpp loads all and runs all but the last, as LLaVA reads the last but one.
    """
    language = _language("llama", LanguageSize(n_embd, n_layer, n_head, n_head_kv, n_ff, n_vocab))
    size = size or VisionSize(layer=3, image=112, patch=14)
    projection = [
        Tensor("v.class_embd", (size.embd,), 0.5),
        _positions(size, more=1),
        *norm("v.pre_ln", size.embd),
        *_two_layers("mm.0", "mm.2", n_embd, size.embd),
    ]
    vision = _vision("mlp", size, n_embd, projection, gelu=False)
    return _write("mlp", folder, name, language, vision, seed)


def write_few(folder: Path) -> PairFiles:
    """A pair of which only ffn_down can be quantized, in either half: rows of 80 fill no block, rows of 256 do."""
    size = VisionSize(embd=80, head=5, ff=256, image=128)
    language, vision = _gemma3(TURNS + _BUILDERS["gemma3"][1], size, LanguageSize(80, 2, 5, 5, 256))
    return _write("gemma3", folder, "few", language, vision, seed=0)


def write_experts(folder: Path, *, n_experts: int = 4, n_used: int = 2) -> Path:
    """A language model whose MLPs are mixtures: a router sends each token to n_used of n_experts experts."""
    size = LanguageSize(n_layer=1, n_ff=256)
    dense = _language("llama", size, extra={"expert_count": n_experts, "expert_used_count": n_used})
    tensors = [tensor for tensor in dense.tensors if ".ffn_" not in tensor.name or "norm" in tensor.name]
    for block in (f"blk.{layer}" for layer in range(size.n_layer)):
        tensors.append(Tensor(f"{block}.ffn_gate_inp.weight", (n_experts, size.n_embd), 1.0))
        for part, rows, columns in (
            ("gate", size.n_ff, size.n_embd), ("up", size.n_ff, size.n_embd), ("down", size.n_embd, size.n_ff),
        ):  # fmt: skip
            experts = matrix(f"{block}.ffn_{part}_exps", rows, columns)
            tensors.append(replace(experts, shape=(n_experts, rows, columns)))
    return replace(dense, tensors=tensors).write(folder / "tiny-experts-F16.gguf", "tiny-experts", seed=0)


def _write(kind: str, folder: Path, name: str, language: GgufFile, vision: GgufFile, seed: int) -> PairFiles:
    model = language.write(folder / f"{name}-F16.gguf", name, seed)
    return PairFiles(kind, model, vision.write(folder / f"mmproj-{name}-F16.gguf", name, seed + 1))


def _qwen2vl(control: tuple[str, ...], size: VisionSize | None = None) -> tuple[GgufFile, GgufFile]:
    """Any image size: a token for each 28 x 28 pixels, 8 tokens at least."""
    size, text = size or VisionSize(image=224, patch=14), LanguageSize()
    # How many pairs of a head's dimensions turn by time, y and x.
    sections = {"rope.dimension_sections": [8, 12, 12, 0]}
    projection = [*norm("v.post_ln", size.embd), *_two_layers("mm.0", "mm.2", text.n_embd, 4 * size.embd)]
    vision = _vision("qwen2vl_merger", size, text.n_embd, projection, gelu=False, two_frames=True)
    return _language("qwen2vl", text, control, extra=sections), vision


def _qwen3vl(control: tuple[str, ...], size: VisionSize | None = None) -> tuple[GgufFile, GgufFile]:
    """Any image size: a token for each 32 x 32 pixels, three times n_embd wide for two deepstack layers.

    The language model needs more layers than deepstack has: with as many, decoding an image aborts.
    """
    size, text, deepstack = size or VisionSize(layer=3, image=256, patch=16), LanguageSize(n_layer=3), (0, 2)
    extra = {"rope.dimension_sections": [12, 10, 10, 0], "n_deepstack_layers": len(deepstack)}
    language = _language("qwen3vl", text, control, extra=extra, head_norm=True)
    projection = [
        bias("v.patch_embd", size.embd),
        _positions(size),
        *norm("v.post_ln", size.embd),
        *_two_layers("mm.0", "mm.2", text.n_embd, 4 * size.embd),
    ]
    for block in (f"v.deepstack.{layer}" for layer in deepstack):
        projection += norm(f"{block}.norm", 4 * size.embd)
        projection += _two_layers(f"{block}.fc1", f"{block}.fc2", text.n_embd, 4 * size.embd)
    is_deepstack = [layer in deepstack for layer in range(size.layer)]
    extra = {"spatial_merge_size": 2, "is_deepstack_layers": is_deepstack}
    kind = "qwen3vl_merger"
    return language, _vision(kind, size, text.n_embd, projection, extra=extra, two_frames=True, fused_qkv=True)


def _gemma3(
    control: tuple[str, ...], size: VisionSize | None = None, text: LanguageSize | None = None
) -> tuple[GgufFile, GgufFile]:
    """An image becomes 128 x 128 pixels, pooled 2 x 2: 64 tokens, which attend to each other both ways."""
    size, text = size or VisionSize(image=128), text or LanguageSize()
    # Every second layer sees 512 tokens back only, so that a context has both of Gemma's caches.
    window = {"attention.sliding_window": 512, "attention.sliding_window_pattern": 2}
    language = _language("gemma3", text, ("<bos>", *control), extra=window, head_norm=True, post_norm=True)
    projection = [
        _positions(size),
        *norm("v.post_ln", size.embd),
        scale("mm.soft_emb_norm", size.embd),
        # Stored transposed, turned at run time: quantized, it crashes (Q8_0) or gives nonsense (K-quants).
        Tensor("mm.input_projection.weight", (size.embd, text.n_embd), size.embd**-0.5, dtype=np.float16),
    ]
    return language, _vision("gemma3", size, text.n_embd, projection, extra={"projector.scale_factor": 2})


def _idefics3(control: tuple[str, ...], size: VisionSize | None = None) -> tuple[GgufFile, GgufFile]:
    """Tiles of 64 x 64 pixels, 16 tokens each: two along the longer side, and then an overview."""
    size, text = size or VisionSize(), LanguageSize()
    fully_connected = matrix("mm.model.fc", text.n_embd, 4 * size.embd)
    projection = [_positions(size), *norm("v.post_ln", size.embd), fully_connected]
    extra = {"projector.scale_factor": 2, "preproc_image_size": 2 * size.image}
    vision = _vision("idefics3", size, text.n_embd, projection, extra=extra)
    return _language("llama", text, control), vision


_TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))

# Besides the two halves: the tokens that mtmd.cpp puts around an image, or around a tile of it.
_BUILDERS = {
    "qwen2vl": (_qwen2vl, ("<|vision_start|>", "<|vision_end|>")),
    "qwen3vl": (_qwen3vl, ("<|vision_start|>", "<|vision_end|>")),
    "gemma3": (_gemma3, ("<start_of_image>", "<end_of_image>")),
    "idefics3": (_idefics3, ("<fake_token_around_image>", "<global-img>", *_TILES)),
}


# --- broken and changed files -----------------------------------------------------------------------------


def truncate(path: Path, out: Path, keep: float) -> Path:
    """Copy the first part of a file, keep (0..1) of its bytes."""
    out.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return out


def set_eos(path: Path, out: Path, token: int) -> Path:
    """Copy a language model, and let another token (one that it was seen to answer, say) end an answer."""
    shutil.copyfile(path, out)
    eos = GGUFReader(out, "r+").fields["tokenizer.ggml.eos_token_id"]
    eos.parts[eos.data[0]][0] = token
    return out


def set_context(path: Path, out: Path, n_ctx: int) -> Path:
    """Copy a language model, and let it say that it was trained with longer contexts."""
    shutil.copyfile(path, out)
    length = GGUFReader(out, "r+").fields["llama.context_length"]
    length.parts[length.data[0]][0] = n_ctx
    return out


def set_control(path: Path, out: Path, *tokens: int, kind: TokenType = TokenType.CONTROL) -> Path:
    """Copy a language model, and make control tokens of some of its tokens (that it was seen to answer, say)."""
    shutil.copyfile(path, out)
    types = GGUFReader(out, "r+").fields["tokenizer.ggml.token_type"]
    for token in tokens:
        types.parts[types.data[token]][0] = kind
    return out


def write_aborting(folder: Path, *, at: str = "load") -> Path:
    """A well-formed language model that makes llama.cpp abort() where it should report an error.

    at="load": it uses one expert of none (GGML_ASSERT in src/llama-model.cpp), with no_alloc just as without.
    at="context": it loads, but the graph of a new context asserts that whole heads are rotated
    (src/models/qwen2vl.cpp), and half of each is.
    """
    flaw = {"load": {"expert_used_count": 1}, "context": {"rope.dimension_count": 32}}[at]
    language = _language("qwen2vl", LanguageSize(), extra=flaw | {"rope.dimension_sections": [8, 12, 12, 0]})
    return language.write(folder / f"aborts-at-{at}-F16.gguf", f"aborts-at-{at}", seed=0)


def changed_projector(source: Path, target: Path, change: str) -> Path:
    """The projector, changed: its vision MLPs "zeroed" or their rows "permuted"; its own MLP ("mm") "x 0.1" or its
    weights "shuffled"."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, "clip")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kind = field.types[0]
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), kind, sub)
    rng = np.random.default_rng(1)
    for tensor in reader.tensors:
        data = tensor.data.copy()
        own, ffn = tensor.name.startswith("mm."), "ffn" in tensor.name
        if change == "x 0.1" and own:
            data = (data * 0.1).astype(data.dtype)
        elif change == "shuffled" and own:
            data = rng.permutation(data.reshape(-1)).reshape(data.shape)
        elif change in ("zeroed", "permuted") and (ffn or own):
            data = data * 0 if change == "zeroed" else rng.permutation(data)
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
