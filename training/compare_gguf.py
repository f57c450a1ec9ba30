"""Does llama.cpp answer as PyTorch did? Runs without PyTorch, through the app's own engine, on the CPU.

`python -m training.compare_gguf FILE.jsonl MODEL.gguf PROJECTOR.gguf` reads what `training.agree` wrote and prints
how far the two agree, as text and as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

from playground.comparing.divergence import first_divergence
from playground.comparing.images import read_image
from playground.engine import loading, scoring
from playground.engine.language import LanguageModel
from playground.engine.protocol import ChatMessage, EncodedPrompt, Score, TextChunk
from playground.engine.vision import VisionModel
from playground.errors import PlaygroundError
from playground.values.request import Runtime, Sampling

MAX_TOKENS = 128  # as in training.agree
RUNTIME = Runtime(n_gpu_layers=0)


@dataclass(frozen=True)
class Agreement:
    items: int
    equal_answers: int  # token for token
    equal_prompts: int  # the question was cut into the same tokens
    largest_difference: float  # between natural logarithms of probabilities: PyTorch's likeliest first tokens
    mean_difference: float
    # Where an answer parts from PyTorch's: the largest lead, in logarithms, that PyTorch's choice had there. Rounding
    # explains small ones only. None: no answer parts.
    largest_lead_lost: float | None

    @property
    def equal_percent(self) -> float:
        return 100 * self.equal_answers / self.items if self.items else 0.0


def compare(items: Path, images: Path, model: Path, projector: Path) -> Agreement:
    """Answer the `items` about the files in `images` with a pair. Raises PlaygroundError for a bad pair, OSError."""
    loading.start()
    lines = items.read_text(encoding="utf-8").splitlines()
    vision = VisionModel(str(projector), str(model), use_gpu=False, n_threads=None)
    language = LanguageModel(str(model), n_gpu_layers=0)
    equal_answers = equal_prompts = 0
    differences: list[float] = []
    lost: list[float] = []
    for line in lines:
        item: dict[str, Any] = json.loads(line)
        prompt = vision.encode([ChatMessage("user", item["question"], 1)], [read_image(images / item["image"])], None)
        text = prompt.chunks[-1]
        equal_prompts += isinstance(text, TextChunk) and list(text.token_ids) == item["torch_prompt"]
        tokens, expected_tokens = _answer(language, prompt), item["torch_tokens"]
        first = scoring.score(language, Score(prompt, (), RUNTIME), cancelled=Event())[0]
        likeliest = {c.token_id: math.log(c.probability) for c in first.candidates}
        differences += [abs(likeliest[i] - expected) for i, expected in item["torch_top"] if i in likeliest]
        parts_at = first_divergence(expected_tokens, tokens, ended=True)
        if parts_at is None:
            equal_answers += 1
        else:
            lost.append(item["torch_margins"][parts_at])
    vision.close()
    language.close()
    return Agreement(
        items=len(lines),
        equal_answers=equal_answers,
        equal_prompts=equal_prompts,
        largest_difference=max(differences, default=0.0),
        mean_difference=sum(differences) / len(differences) if differences else 0.0,
        largest_lead_lost=max(lost, default=None),
    )


def _answer(model: LanguageModel, prompt: EncodedPrompt) -> list[int]:
    tokens: list[int] = []
    sampling = Sampling(max_tokens=MAX_TOKENS)
    model.generate(prompt, sampling, RUNTIME, cancelled=Event(), send=lambda chunk: tokens.extend(chunk.token_ids))
    return tokens


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m training.compare_gguf", description="Compare with PyTorch.")
    parser.add_argument("items", type=Path, help="what training.agree wrote")
    parser.add_argument("model", type=Path)
    parser.add_argument("projector", type=Path)
    parser.add_argument("--images", type=Path, help="their folder; default: that of the items")
    arguments = parser.parse_args()
    images = arguments.images or arguments.items.parent
    try:
        agreement = compare(arguments.items, images, arguments.model, arguments.projector)
    except (PlaygroundError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"{agreement.equal_percent:.1f} % of {agreement.items} answers are equal, token for token; "
        f"first token: log-probabilities differ by {agreement.mean_difference:.5f} on average, "
        f"{agreement.largest_difference:.5f} at most."
    )
    print(json.dumps(asdict(agreement) | {"equal_percent": agreement.equal_percent}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
