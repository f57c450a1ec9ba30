"""The embedded pair at Q8_0 in both halves: how long an image and a caption take."""

from __future__ import annotations

import statistics
from pathlib import Path

from playground.comparing import compare, comparison_request
from playground.comparing.images import read_image
from playground.comparing.run_settings import RunSettings
from playground.models.presets import data_folder
from playground.settings import Settings
from playground.values.answer import Pane
from playground.wiring import open_parts

CAPTION_TOKENS = 60


def measure(folder: Path) -> dict[str, float]:
    """Medians over ten images, with the worker's own clock: no loading, no cache. Seconds; goals 0.3 and 1.5."""
    images = [read_image(path) for path in sorted((data_folder() / "tiny-vlm/evaluation").glob("easy-*.png"))[:11]]
    with open_parts(Settings(cache_dir=folder / "pair")) as parts:
        parts.catalog.derive(parts.quantize)
        variants = parts.catalog.choose(["Q8_0"], ["Q8_0"])
        panes = []
        for image in images:
            request = comparison_request.comparison_of(
                [image], "Describe the image.", variants, RunSettings(max_tokens=CAPTION_TOKENS)
            )
            *_, last = compare.run(request, parts.lab, compare.StopFlag())
            panes.append(last.panes[0])
    return {
        "encode_s": statistics.median(_seconds(p)[0] for p in panes[1:]),
        f"caption_{CAPTION_TOKENS}_tokens_s": statistics.median(sum(_seconds(p)) for p in panes[1:]),
    }


def _seconds(pane: Pane) -> tuple[float, float, float]:
    """Of the image, of the prompt, and of as many tokens as the goal names at the speed of this answer's."""
    m = pane.metrics
    assert m.encode_s is not None
    assert m.prompt_s is not None
    assert m.decode_tok_per_s is not None
    return m.encode_s, m.prompt_s, (CAPTION_TOKENS - 1) / m.decode_tok_per_s
