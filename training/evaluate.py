"""How the pair degrades, rung by rung, through the app's own engine: `python -m training.evaluate`.

Every question of the frozen set is one comparison, greedy, of a ladder of language models with the F16 projector and
a ladder of projectors with the F16 language model. Prints the model card's tables; writes all answers to answers.jsonl
and the counts to summary.json. Needs neither PyTorch nor a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from playground.comparing import compare, comparison_request
from playground.comparing.images import read_image
from playground.comparing.run_settings import RunSettings
from playground.settings import Settings
from playground.support import atomic
from playground.values.answer import PaneState
from playground.values.files import Half, Variant
from playground.wiring import Parts, open_parts

PAIR = Path(__file__).parents[1] / "playground/data/tiny-vlm"
# Names of llama_ftype. A projector gets one type throughout, so Q4_K_S is Q4_K in all of its matrices.
MODELS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "TQ2_0")
PROJECTORS = ("F16", "Q8_0", "Q5_0", "Q4_0", "Q4_K_S", "Q3_K_S", "Q2_K")
REFERENCE = "F16 / F16"
MAX_TOKENS = 128

Answers = list[dict[str, Any]]  # a line of items.jsonl with "answers": rung -> text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", type=Path, default=PAIR, help="folder with the F16 pair")
    parser.add_argument("--items", type=Path, default=PAIR / "evaluation", help="folder with items.jsonl")
    parser.add_argument("--out", type=Path, default=Path("build/evaluation"))
    parser.add_argument("--models", default=",".join(MODELS), help="language model's rungs")
    parser.add_argument("--projectors", default=",".join(PROJECTORS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = (arguments.items / "items.jsonl").read_text().splitlines()
    with open_parts(Settings(), any_folder=True) as parts:
        rungs = make_ladder(parts, arguments.pair, arguments.out, arguments.models, arguments.projectors)
        answers = ask_all(parts, rungs, [json.loads(line) for line in lines], arguments.items)
    (arguments.out / "answers.jsonl").write_text("".join(json.dumps(a) + "\n" for a in answers))
    files = {name: (v.model.bytes, v.projector.bytes) for name, v in rungs.items()}
    (arguments.out / "summary.json").write_text(json.dumps(summary(answers, files), indent=1) + "\n")
    print(tables(answers, files))


def make_ladder(parts: Parts, pair: Path, out: Path, models: str, projectors: str) -> dict[str, Variant]:
    """The rungs by name, "language model / projector"; what is not there yet is quantized into `out`."""
    projector = next(pair.glob("mmproj-*-F16.gguf"))
    model = next(path for path in pair.glob("*-F16.gguf") if path != projector)

    def made(source: Path, quantization: str) -> Path:
        if quantization == "F16":
            return source
        target = out / source.name.replace("F16", quantization)
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            half = Half.PROJECTOR if source == projector else Half.MODEL
            with atomic.replacing(target) as part:
                parts.quantize(source, part, quantization, half)
        return target

    names = dict.fromkeys([(q, "F16") for q in models.split(",")] + [("F16", q) for q in projectors.split(",")])
    return {f"{m} / {p}": parts.catalog.open_pair(made(model, m), made(projector, p)) for m, p in names}


def ask_all(parts: Parts, rungs: dict[str, Variant], items: Iterable[dict[str, Any]], folder: Path) -> Answers:
    settings = RunSettings(temperature=0.0, repeat_penalty=1.0, max_tokens=MAX_TOKENS, n_ctx=512)
    answers: Answers = []
    started = time.monotonic()
    for item in items:
        image = read_image(folder / item["image"])
        comparison = comparison_request.comparison_of([image], item["question"], list(rungs.values()), settings)
        *_, last = compare.run(comparison, parts.lab, compare.StopFlag())
        texts = {pane.variant: pane.text for pane in last.panes if pane.state is PaneState.DONE}
        if len(texts) < len(rungs):
            raise SystemExit(next(pane.error for pane in last.panes if pane.error) or "A pane did not end.")
        answers.append(item | {"answers": {name: texts[v.id] for name, v in rungs.items()}})
        print(f"\r{len(answers)} questions, {time.monotonic() - started:.0f} s", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return answers


def interval(k: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, as parts of 1."""
    z = 1.96
    centre, spread = k / n + z * z / (2 * n), z * math.sqrt(k * (n - k) / n**3 + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


def summary(answers: Answers, files: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Counts by rung: right and changed, on each level, and right by category."""
    return {
        rung: {
            "model_bytes": files[rung][0],
            "projector_bytes": files[rung][1],
            "levels": {
                level: {
                    "questions": len(some := [a for a in answers if a["level"] == level]),
                    "right": sum(_right(a, rung) for a in some),
                    "changed": sum(_changed(a, rung) for a in some),
                }
                for level in _distinct(answers, "level")
            },
            "right_by_category": {
                category: sum(_right(a, rung) for a in answers if a["category"] == category)
                for category in _distinct(answers, "category")
            },
        }
        for rung in files
    }


def tables(answers: Answers, files: dict[str, tuple[int, int]]) -> str:
    """Markdown: all rungs on both halves, then right answers in % by category."""
    lines = [
        "| language model / projector | MB | easy: right % | hard: right % | hard: changed % |",
        "|---|---|---|---|---|",
    ]
    easy, hard = ([a for a in answers if a["level"] == level] for level in ("easy", "hard"))
    for rung, sizes in files.items():
        cells = (_share(easy, rung, _right), _share(hard, rung, _right), _share(hard, rung, _changed))
        lines.append(f"| {rung} | {sum(sizes) / 1e6:.1f} | {' | '.join(cells)} |")
    categories = _distinct(answers, "category")
    lines += ["", f"| right answers of | {' | '.join(categories)} |", f"|---|{'---|' * len(categories)}"]
    by_category = [[a for a in answers if a["category"] == c] for c in categories]
    counts = {rung: [sum(_right(a, rung) for a in some) for some in by_category] for rung in files}
    lines += [f"| {rung} | {' | '.join(map(str, scores))} |" for rung, scores in counts.items()]
    each = sorted({len(some) for some in by_category})
    seen = sorted({(k, len(some)) for scores in counts.values() for k, some in zip(scores, by_category, strict=True)})
    intervals = (f"{k} of {n}: {_percent(interval(k, n))}" for k, n in reversed(seen))
    lines += ["", f"{'/'.join(map(str, each))} questions of a category; 95 % intervals: {', '.join(intervals)} %."]
    return "\n".join(lines)


def _right(answer: dict[str, Any], rung: str) -> bool:
    return bool(answer["answers"][rung] == answer["answer"])


def _changed(answer: dict[str, Any], rung: str) -> bool:
    return bool(answer["answers"][rung] != answer["answers"][REFERENCE])


def _share(answers: Sequence[dict[str, Any]], rung: str, counted: Callable[[dict[str, Any], str], bool]) -> str:
    """In %, with its interval."""
    if not answers:
        return ""
    k = sum(counted(a, rung) for a in answers)
    return f"{100 * k / len(answers):.0f} ({_percent(interval(k, len(answers)))})"


def _percent(interval: tuple[float, float]) -> str:
    return "–".join(f"{100 * end:.0f}" for end in interval)


def _distinct(answers: Answers, key: str) -> list[str]:
    return list(dict.fromkeys(a[key] for a in answers))


if __name__ == "__main__":
    main()
