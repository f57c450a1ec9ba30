"""Prints the logits of every token of an answer, by upstream's helper and the full model, in the same batches.

`python logits_child.py IMAGE PROMPT TOKENS(JSON) MODEL PROJECTOR OUT.npy [MODEL PROJECTOR OUT.npy ...]`. Shares nothing
with the measuring code.
"""

from __future__ import annotations

import json
import sys

# isort: off
from testkit.equality_child import upstream  # first: llama_cpp before numpy
import numpy
from playground.comparing.images import read_image
from playground.engine import loading
# isort: on


def main() -> None:
    image, prompt, tokens, *pairs = sys.argv[1:]
    loading.start()
    for model, projector, out in zip(pairs[::3], pairs[1::3], pairs[2::3], strict=True):
        steps: list[list[float]] = []
        first, _ = upstream(
            model, projector, prompt, [read_image(image)], gpu=False, forced=json.loads(tokens), steps=steps
        )
        numpy.save(out, numpy.array([first, *steps]))


if __name__ == "__main__":
    main()
