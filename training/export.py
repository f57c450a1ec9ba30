"""Writes a trained checkpoint as the pair of GGUF files that llama.cpp reads.

`python -m training.export CHECKPOINT --out FOLDER` writes the language model (architecture `llama`, tied embeddings)
and the projector (architecture `clip`, projector type `janus_pro`). Matrices are F16; norms, biases and position
embeddings are F32. Both files appear under their names only when both are whole.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGML_QUANT_VERSION, GGUFWriter, LlamaFileType, TokenType
from torch import Tensor

from playground.support import atomic
from training.model import Config, VisionLanguageModel
from training.spread import spread
from training.tokenizer import END, FILE, PADDING, SPECIAL

# Chosen so that Q2_K of either half changes many answers and four bits hardly any (the README has what 0 gives).
SPREAD_MODEL, SPREAD_PROJECTOR = 0.46, 0.66

# A user's turn has no end token: the image and the question stand before the answer as in training. In it the images
# come first, whatever the order of the parts; a text part with the media marker is an image that the caller replaced.
CHAT_TEMPLATE = """\
{%- for message in messages if message['role'] in ('user', 'assistant') -%}
    {{- '<|' + message['role'] + '|>' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] in ('image', 'image_url') -%}
                {{- '<__media__>' -}}
            {%- elif part['type'] == 'text' and '<__media__>' in part['text'] -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'text' and '<__media__>' not in part['text'] -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {%- if message['role'] == 'assistant' -%}
        {{- '<|end|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>' -}}
{%- endif -%}
"""

_F16_MAX = float(np.finfo(np.float16).max)


class ExportError(Exception):
    """What is wrong with the checkpoint or the tokenizer, in words for a person."""


@dataclass(frozen=True)
class Checkpoint:
    """Names and shapes of `state` are those of VisionLanguageModel(config); every value is finite in F16."""

    config: Config
    state: dict[str, Tensor]

    @property
    def size_label(self) -> str:
        """The parameters of both halves in millions, such as 7M."""
        return f"{sum(tensor.numel() for tensor in self.state.values()) / 1e6:.0f}M"


@dataclass(frozen=True)
class Tokenizer:
    """A byte-level BPE: tokens by id, merges as "left right" in their order."""

    tokens: tuple[str, ...]
    merges: tuple[str, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Load and check what training saved. Raises ExportError."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about other pickles; what is wrong is said below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ExportError(f"{path.name} cannot be read: {error.strerror or error}.") from None
    except Exception:  # whatever the bytes of another file make the unpickler raise
        raise ExportError(
            f"{path.name} is not a checkpoint, or it is cut short: torch.load finds no tensors and plain values in it."
        ) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in ("config", "model")):
        raise ExportError(f"{path.name} is not a checkpoint of this network: it has no 'config' and 'model'.")
    config = _config(content["config"])
    state: dict[str, Tensor] = content["model"]
    _check_tensors(config, state)
    return Checkpoint(config, state)


def _config(values: Mapping[str, Any]) -> Config:
    defaults = asdict(Config())
    if missing := [key for key in defaults if key not in values]:
        raise ExportError(f"The checkpoint's config lacks: {', '.join(missing)}.")
    if unknown := [str(key) for key in values if key not in defaults]:
        raise ExportError(f"The checkpoint's config has unknown keys: {', '.join(unknown)}.")
    for field in fields(Config):
        value, kind = values[field.name], type(defaults[field.name])
        if type(value) not in {kind, int} or not (math.isfinite(value) and value > 0):
            raise ExportError(f"The checkpoint's config has {field.name}={value!r}, not a positive {kind.__name__}.")
    config = Config(**values)
    for part, whole in (
        ("patch_size", "image_size"),
        ("vision_heads", "width"),
        ("heads", "width"),
        ("kv_heads", "heads"),
    ):
        if values[whole] % values[part]:
            raise ExportError(f"The checkpoint's {whole}={values[whole]} is no multiple of {part}={values[part]}.")
    if config.head_width % 2:
        raise ExportError(f"The checkpoint's heads are {config.head_width} wide; RoPE turns pairs.")
    return config


def _check_tensors(config: Config, state: Mapping[str, object]) -> None:
    with torch.device("meta"):
        expected = VisionLanguageModel(config).state_dict()
    for name, meta in expected.items():
        tensor = state.get(name)
        if tensor is None:
            raise ExportError(f"The checkpoint lacks the tensor {name}, expected with shape {tuple(meta.shape)}.")
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ExportError(f"The checkpoint's {name} is not a tensor of floating-point numbers.")
        if tensor.shape != meta.shape:
            raise ExportError(
                f"The tensor {name} does not match the config: expected shape {tuple(meta.shape)}, "
                f"found {tuple(tensor.shape)}."
            )
        if not bool((tensor.abs() <= _F16_MAX).all()):  # false for NaN too
            raise ExportError(f"The tensor {name} holds values that are not finite, or too large for F16.")
    for name in state:
        if name not in expected:
            shape = getattr(state[name], "shape", None)
            of_shape = f" (shape {tuple(shape)})" if shape is not None else ""
            raise ExportError(f"The checkpoint has an unknown tensor {name}{of_shape}, expected none of that name.")


def read_tokenizer(path: Path, vocabulary: int) -> Tokenizer:
    """Read a tokenizer.json of the `tokenizers` library that is to have `vocabulary` tokens. Raises ExportError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ids: dict[str, int] = dict(content["model"]["vocab"])
        merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in _merges(content)]
        ids |= {token["content"]: token["id"] for token in content.get("added_tokens", ())}
        by_id = {number: token for token, number in ids.items()}
    except OSError as error:
        raise ExportError(f"{path.name} cannot be read: {error.strerror or error}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ExportError(f"{path.name} is not a BPE tokenizer of the tokenizers library.") from None
    if len(ids) != vocabulary:
        raise ExportError(f"{path.name} has {len(ids)} tokens, the checkpoint's config.vocabulary is {vocabulary}.")
    if by_id.keys() != set(range(vocabulary)):
        raise ExportError(f"{path.name}: its token ids are not 0 to {vocabulary - 1}, each once.")
    tokens = tuple(by_id[number] for number in range(vocabulary))
    if tokens[: len(SPECIAL)] != SPECIAL:
        raise ExportError(f"{path.name} has to begin with {' '.join(SPECIAL)}, found {' '.join(tokens[:4])}.")
    for merge in merges:
        if len(merge) != 2 or "".join(merge) not in ids:
            raise ExportError(f"{path.name}: the merge {' '.join(merge)!r} makes no token of the vocabulary.")
    return Tokenizer(tokens, tuple(" ".join(merge) for merge in merges))


def _merges(content: dict[str, Any]) -> list[Any]:
    """Either ["a", "b"] or, from older versions of the library, "a b"."""
    merges = content["model"]["merges"]
    if not isinstance(merges, list):
        raise TypeError
    return merges


def stored(name: str, tensor: Tensor) -> npt.NDArray[np.float16] | npt.NDArray[np.float32]:
    """A tensor of the network as it stands in the file."""
    values: npt.NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
    return values if tensor.ndim < 2 or name == "v.position_embd" else values.astype(np.float16)


def _gguf_name(name: str) -> str:
    """The network's names are GGUF's but for the prefix of the language model and for what Python cannot write."""
    if name == "v.position_embd":
        return "v.position_embd.weight"
    return name.removeprefix("lm.").replace("v.mm_", "mm.")


def export(checkpoint: Checkpoint, tokenizer: Tokenizer, folder: Path) -> tuple[Path, Path]:
    """Write the language model and the projector into `folder`. Returns their paths. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / f"tiny-vlm-{checkpoint.size_label}-F16.gguf"
    projector = model.with_name(f"mmproj-{model.name}")

    def language(writer: GGUFWriter) -> None:
        _add_language(writer, checkpoint.config)
        _add_tokenizer(writer, tokenizer)

    with atomic.replacing(model) as model_part, atomic.replacing(projector) as projector_part:
        _write(model_part, "llama", "lm.", checkpoint, language)
        _write(projector_part, "clip", "v.", checkpoint, lambda writer: _add_vision(writer, checkpoint.config))
    return model, projector


def _write(
    path: Path, architecture: str, prefix: str, checkpoint: Checkpoint, add_metadata: Callable[[GGUFWriter], None]
) -> None:
    """One file, of the tensors whose names begin with `prefix`."""
    writer = GGUFWriter(path, architecture)
    try:
        projector = architecture == "clip"
        writer.add_type("mmproj" if projector else "model")
        writer.add_name("Tiny VLM projector" if projector else "Tiny VLM")
        writer.add_basename("tiny-vlm")
        writer.add_size_label(checkpoint.size_label)
        writer.add_license("apache-2.0")
        writer.add_file_type(LlamaFileType.MOSTLY_F16)
        writer.add_quantization_version(GGML_QUANT_VERSION)
        add_metadata(writer)
        for name, tensor in checkpoint.state.items():
            if name.startswith(prefix):
                writer.add_tensor(_gguf_name(name), stored(name, tensor))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_language(writer: GGUFWriter, c: Config) -> None:
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.width)
    writer.add_block_count(c.layers)
    writer.add_feed_forward_length(c.ffn)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_rope_dimension_count(c.head_width)
    writer.add_vocab_size(c.vocabulary)


def _add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")  # GPT-2's words, but each digit by itself
    writer.add_token_list(tokenizer.tokens)
    normal = len(tokenizer.tokens) - len(SPECIAL)
    writer.add_token_types([TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * normal)
    writer.add_token_merges(tokenizer.merges)
    writer.add_bos_token_id(END)
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(PADDING)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_vision(writer: GGUFWriter, c: Config) -> None:
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("janus_pro")
    writer.add_vision_use_gelu(True)
    writer.add_vision_image_size(c.image_size)
    writer.add_vision_patch_size(c.patch_size)
    writer.add_vision_embedding_length(c.width)
    writer.add_vision_feed_forward_length(c.vision_ffn)
    writer.add_vision_block_count(c.vision_layers)
    writer.add_vision_head_count(c.vision_heads)
    writer.add_vision_projection_dim(c.width)
    writer.add_vision_attention_layernorm_eps(c.layer_norm_eps)
    writer.add_vision_image_mean([0.5] * 3)
    writer.add_vision_image_std([0.5] * 3)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m training.export", description="Write a checkpoint as GGUF.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for the two files")
    parser.add_argument("--spread-model", type=float, default=SPREAD_MODEL, help="see spread.py; 0: as trained")
    parser.add_argument("--spread-projector", type=float, default=SPREAD_PROJECTOR)
    parser.add_argument("--tokenizer", type=Path, default=FILE, help="default: the one of this package")
    arguments = parser.parse_args()
    try:
        checkpoint = read_checkpoint(arguments.checkpoint)
        scales = arguments.spread_model, arguments.spread_projector
        checkpoint = Checkpoint(checkpoint.config, spread(checkpoint.state, checkpoint.config, *scales))
        _check_tensors(checkpoint.config, checkpoint.state)  # large factors make values too large for F16
        tokenizer = read_tokenizer(arguments.tokenizer, checkpoint.config.vocabulary)
        paths = export(checkpoint, tokenizer, arguments.out)
    except ExportError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"The files cannot be written: {error}", file=sys.stderr)
        return 1
    for path in paths:
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
