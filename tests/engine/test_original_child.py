"""The original's own process with a small random model of transformers; skipped without the extra `parity`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import PIL.Image
import pytest

transformers = pytest.importorskip("transformers", reason="without the extra parity there is no transformers")
torch = pytest.importorskip("torch", reason="without the extra parity there is no torch")
pytest.importorskip("torchvision", reason="without the extra parity there is no torchvision")
tokenizers = pytest.importorskip("tokenizers", reason="without the extra parity there are no tokenizers")

WORDS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_end|>", "What", "is", "this")
IMAGE, START, END, STOP = 0, 2, 3, 4
N_IMAGE = 6  # 84 x 56 pixels: 6 x 4 patches of 14, 4 of which make one token
TOKENS = 5


def write_original(folder: Path) -> None:
    vocabulary = {word: id for id, word in enumerate(WORDS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="this"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<|im_end|>")
    tokenizer.save_pretrained(folder)
    text: dict[str, Any] = {
        "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": STOP, "eos_token_id": STOP,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    config = transformers.Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=1, vision_start_token_id=START,
        vision_end_token_id=END,
    )  # fmt: skip
    torch.manual_seed(1)
    transformers.Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    processor = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2, "do_resize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def asked(folder: Path, pictures: list[numpy.ndarray]) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """What the process wrote: the document, the arrays, the probabilities. `pictures`: what the pair's encoder saw."""
    write_original(folder / "original")
    job = folder / "job"
    job.mkdir()
    colours = numpy.random.default_rng(2).integers(0, 256, (56, 84, 3), numpy.uint8)
    PIL.Image.fromarray(colours).save(job / "0.png")
    seen: dict[str, Any] = {str(k): picture for k, picture in enumerate(pictures)}
    numpy.savez(job / "inputs-0.npz", **seen)
    question = {
        "name": "0", "image": "0.png", "inputs": "inputs-0.npz", "messages": [], "variables": {},
        "frame": [START, *[-1] * N_IMAGE, END, 5, 6, 7],
    }  # fmt: skip
    document = {
        "model": str(folder / "original"), "dtype": "float32", "threads": 1, "gpu": False, "max_tokens": TOKENS,
        "questions": [question],
    }  # fmt: skip
    (job / "job.json").write_text(json.dumps(document))
    command = [sys.executable, "-m", "playground.original.child", str(job / "job.json")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert json.loads(process.stdout.splitlines()[-1]) == {"done": True}, process.stdout + process.stderr
    assert json.loads((job / "vocabulary.json").read_text()) == list(WORDS)
    with numpy.load(job / "0.npz") as file:
        arrays = {name: file[name] for name in file.files}
    answer = json.loads((job / "0.json").read_text())
    rows = numpy.fromfile(job / "0.f32", numpy.float32).reshape(len(answer["answer"]) + 1, len(WORDS))
    return answer, arrays, rows


def test_original_when_asked_with_the_pairs_tokens_then_embeddings_positions_and_probabilities_are_its_own(
    tmp_path: Path,
) -> None:
    picture = numpy.random.default_rng(3).normal(size=(3, 56, 84)).astype(numpy.float32)
    answer, arrays, rows = asked(tmp_path, [picture])
    assert (answer["native"], answer["aligned"]) == (False, True)
    assert arrays["ids"].tolist() == [START, *[IMAGE] * N_IMAGE, END, 5, 6, 7]
    assert arrays["slots"].tolist() == [*range(1, 1 + N_IMAGE)]
    assert arrays["positions"].tolist() == [[1] * 6, [1, 1, 1, 2, 2, 2], [1, 2, 3, 1, 2, 3]]
    assert arrays["picture-0"].shape == (3, 56, 84)
    assert arrays["embeddings"].shape == arrays["embeddings-of-inputs"].shape == (N_IMAGE, 32)
    assert numpy.abs(arrays["embeddings"] - arrays["embeddings-of-inputs"]).max() > 1e-3  # of another picture
    numpy.testing.assert_allclose(numpy.exp(rows).sum(axis=1), 1, rtol=1e-5)
    # Greedy: the likeliest token each time, by the probabilities of one pass over the whole answer.
    assert rows[:-1].argmax(axis=1).tolist() == answer["answer"]
    assert len(answer["answer"]) == TOKENS or rows[-1].argmax() in (STOP, IMAGE)


def test_original_when_the_pair_saw_the_same_picture_then_the_same_embeddings(tmp_path: Path) -> None:
    _, first, _ = asked(tmp_path / "first", [numpy.zeros((3, 56, 84), numpy.float32)])
    _, second, _ = asked(tmp_path / "second", [first["picture-0"]])
    numpy.testing.assert_allclose(second["embeddings-of-inputs"], second["embeddings"], atol=1e-5)


def test_original_when_the_pair_cut_the_picture_otherwise_then_the_encoder_cannot_be_compared(tmp_path: Path) -> None:
    _, arrays, _ = asked(tmp_path, [numpy.zeros((3, 56, 56), numpy.float32)] * 2)
    assert "embeddings-of-inputs" not in arrays
    assert len(arrays["embeddings"]) == N_IMAGE
