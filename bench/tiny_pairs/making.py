"""What the families share: tokenizers, random weights, a checkpoint as the Hub would hold it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

WIDTH, INNER = 256, 512  # of the language models
CHANCE = torch.Generator().manual_seed(7)
_WORDS = "What is this? Describe the image, please. user assistant system User Assistant picture "


def source() -> Path:
    """llama.cpp's source: texts for the tokenizers, and the chat templates of its models/templates."""
    return Path(os.environ["LLAMA_CPP"])


def checkpoint(name: str) -> Path:
    folder = Path(os.environ["CHECKPOINTS"]) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def upstream(name: str) -> str:
    return (source() / "models/templates" / name).read_text()


def turns(user: str, assistant: str, end_of_user: str, end_of_assistant: str, *, begin: str = "") -> str:
    """A chat template by what stands before and behind the turns of a person and of the model."""
    begin, user, assistant, user_end, assistant_end = (
        json.dumps(text, ensure_ascii=False) for text in (begin, user, assistant, end_of_user, end_of_assistant)
    )
    return (
        f"{{{{ {begin} }}}}{{% for m in messages %}}{{% if m.role == 'assistant' %}}"
        f"{{{{ {assistant} + m.content + {assistant_end} }}}}{{% else %}}{{{{ {user} + m.content + {user_end} }}}}"
        f"{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {assistant} }}}}{{% endif %}}"
    )


def corpus() -> list[str]:
    paths = [*sorted(source().glob("docs/*.md")), *sorted(source().glob("tools/*/README.md"))[:8]]
    return [*(path.read_text(errors="replace")[:40_000] for path in paths), _WORDS * 20, "a\n\n\nb\n\n\n" * 3000]


def lines() -> Iterator[str]:
    return iter([line for text in corpus() for line in text.splitlines() if line.strip()])


def byte_pairs(
    special: Sequence[str],
    bos: str | None = None,
    eos: str | None = None,
    pad: str | None = None,
    template: str | None = None,
    add_bos: bool | None = None,
) -> Any:
    """A tokenizer of byte pairs, as Qwen, Llama 3, Mistral and GLM have one."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1200, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in dict.fromkeys(special)])
    tokens = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{k: v for k, v in tokens.items() if v})
    if template:
        fast.chat_template = template
    fast.adds_bos = add_bos
    return fast


def token_id(tokenizer: Any, text: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(text))


def sentence_pieces(folder: Path, **options: Any) -> Any:
    """A vocabulary of SentencePiece in `folder`."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=1000,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def piece_config(folder: Path, template: str, bos: str, eos: str, **more: Any) -> None:
    """The configuration of a vocabulary of SentencePiece."""
    config = {"add_eos_token": False, "bos_token": bos, "eos_token": eos, "unk_token": "<unk>"}
    document = config | {"chat_template": template, "added_tokens_decoder": {}} | more
    (folder / "tokenizer_config.json").write_text(json.dumps(document))


def text_sizes(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    } | more  # fmt: skip


def fill(
    model: Any,
    *,
    tied: bool = False,
    branch: float = 1.5,
    zero_rows: Sequence[int] = (),
    embed_std: float = 1.0,
    boost: Sequence[str] = (),
    boost_mean: float = 3.0,
) -> Any:
    """Random weights such that answers vary with picture and prompt. `boost`: norms around `boost_mean` more."""
    generator = torch.Generator().manual_seed(0)

    def normal(weights: Any, std: float, mean: float = 0.0) -> None:
        weights.copy_(torch.randn(weights.shape, generator=generator) * std + mean)

    filled = set()
    with torch.no_grad():
        for place, module in model.named_modules():
            kind = module.__class__.__name__
            for part, weights in module.named_parameters(recurse=False):
                name = f"{place}.{part}"
                if id(weights) in filled:
                    continue
                filled.add(id(weights))
                if "Norm" in kind or ("norm" in place.rsplit(".", 1)[-1] and weights.ndim == 1):
                    mean = round(float(weights.float().mean())) if part == "weight" else 0
                    more = boost_mean if part == "weight" and any(word in name for word in boost) else 0
                    normal(weights, 0.1, mean + more)
                elif isinstance(module, torch.nn.Embedding):
                    normal(weights, embed_std if "embed_tokens" in name or "word" in name else 0.5)
                elif part == "bias":
                    normal(weights, 0.1)
                elif part in ("A_log", "dt_bias", "layer_scalar") or weights.ndim == 0:
                    pass
                elif isinstance(module, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
                    gain = 4.0 if "lm_head" in name else 2.0 if "patch_emb" in name or "conv1" in name else branch
                    normal(weights, gain / math.sqrt(weights[0].numel()))
                elif weights.ndim == 3 and "expert" in name.lower():
                    normal(weights, branch / math.sqrt(weights.shape[-1]))
                elif any(word in name for word in ("layer_scale", "lambda", ".ls")):
                    normal(weights, 0.1, 1.0)
                else:
                    normal(weights, 0.5)
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        if head is not None and not tied:
            for row in zero_rows:
                head.weight[row] = 0
    return model


def save(
    name: str,
    model: Any,
    tokenizer: Any,
    pre_tokenizer: str,
    preprocessor: Mapping[str, Any],
    patch: Callable[[dict[str, Any]], None] | None = None,
    rename: Sequence[tuple[str, str]] = (),
    **weights: Any,
) -> None:
    """`pre_tokenizer`: what the converter is told that it is. `weights`: as of `fill`."""
    folder = checkpoint(name)
    special = list(tokenizer.added_tokens_decoder) if tokenizer is not None else []
    fill(model, zero_rows=special, **weights).to(torch.float32).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (folder / "pre_tokenizer").write_text(pre_tokenizer)
    if patch:
        change(folder / "config.json", patch)
    if rename:
        path = folder / "model.safetensors"
        tensors = {}
        for key, tensor in load_file(path).items():
            for pattern, text in rename:
                key = re.sub(pattern, text, key)
            tensors[key] = tensor.contiguous()
        save_file(tensors, path, metadata={"format": "pt"})
    adds_bos = getattr(tokenizer, "adds_bos", None)
    if adds_bos is not None:
        change(folder / "tokenizer_config.json", lambda config: config.update(add_bos_token=adds_bos))


def change(path: Path, patch: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    patch(document)
    path.write_text(json.dumps(document, indent=1))


def converter_options(name: str, options: str) -> None:
    """For the language model."""
    (checkpoint(name) / "converter_options").write_text(options)


# --- vision encoders by hand, where transformers has no class -----------------------------------------------------


def linear(weights: dict[str, Any], name: str, rows: int, columns: int, bias: bool = True, gain: float = 1.5) -> None:
    weights[f"{name}.weight"] = torch.randn(rows, columns, generator=CHANCE) * (gain / columns**0.5)
    if bias:
        weights[f"{name}.bias"] = torch.randn(rows, generator=CHANCE) * 0.1


def norm(weights: dict[str, Any], name: str, width: int, bias: bool = True) -> None:
    weights[f"{name}.weight"] = 1 + torch.randn(width, generator=CHANCE) * 0.1
    if bias:
        weights[f"{name}.bias"] = torch.randn(width, generator=CHANCE) * 0.1


def add_vision(name: str, weights: Mapping[str, Any], patch: Callable[[dict[str, Any]], None]) -> None:
    """Put a vision encoder's tensors, by their names on the Hub, beside those of a saved language model."""
    path = checkpoint(name) / "model.safetensors"
    tensors = {key: tensor.contiguous() for key, tensor in (load_file(path) | dict(weights)).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    change(checkpoint(name) / "config.json", patch)
