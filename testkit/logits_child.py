"""Prints the logits of every token of an answer, by upstream's helper and the full model, in the same batches.

`python logits_child.py MODEL PROJECTOR IMAGE PROMPT TOKENS(JSON) OUT.npy`. Shares nothing with the measuring code.
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
    model, projector, image, prompt, tokens, out = sys.argv[1:]
    loading.start()
    steps: list[list[float]] = []
    first, _ = upstream(
        model, projector, prompt, [read_image(image)], gpu=False, forced=json.loads(tokens), steps=steps
    )
    numpy.save(out, numpy.array([first, *steps]))


if __name__ == "__main__":
    main()
