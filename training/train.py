"""Trains the pair from nothing on one GPU: `python -m training.train --out build/demo_model`.

The learning rate follows the clock, not the steps, so that a run ends when it was told to, on any machine. A run that
was stopped goes on where its last checkpoint is (one a minute, and one at a stop).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from playground.support import atomic
from training import tokenizer
from training.export import ExportError, read_checkpoint
from training.model import Config, VisionLanguageModel, as_input
from training.rows import NO_TARGET, training_rows

WARM_UP = 0.02  # part of the training
SAVE_EVERY_S = 60.0


@dataclasses.dataclass(frozen=True)
class Settings:
    seed: int = 1
    minutes: float = 18.0
    batch: int = 256
    peak: float = 1.6e-3  # learning rate
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.97
    clip: float = 1.0


class Batches(IterableDataset[list[torch.Tensor]]):
    """Training batches from number `start` on; worker i of n makes every n-th."""

    def __init__(self, settings: Settings, start: int) -> None:
        self.settings, self.start = settings, start

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        torch.set_num_threads(1)
        info = get_worker_info()
        number, step = (self.start + info.id, info.num_workers) if info else (self.start, 1)
        words = tokenizer.encoder()
        while True:
            rows = training_rows(self.settings.seed, number, self.settings.batch, words)
            yield [torch.from_numpy(getattr(rows, field.name)) for field in dataclasses.fields(rows)]
            number += step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint.pt and log.jsonl")
    parser.add_argument("--minutes", type=float, default=Settings.minutes, help="of training in all; sets the schedule")
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="minutes after which this run saves and stops"
    )
    parser.add_argument(
        "--weights", type=Path, help="checkpoint of another run to begin with, instead of random weights"
    )
    parser.add_argument("--peak", type=float, default=Settings.peak, help="highest learning rate")
    parser.add_argument("--batch", type=int, default=Settings.batch)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--seed", type=int, default=Settings.seed)
    arguments = parser.parse_args()
    settings = Settings(arguments.seed, arguments.minutes, arguments.batch, arguments.peak)
    deadline = time.monotonic() + arguments.stop_after * 60
    try:
        train(settings, arguments.out, arguments.workers, deadline, arguments.weights)
    except ExportError as error:
        raise SystemExit(str(error)) from None


def train(settings: Settings, out: Path, workers: int, deadline: float, weights: Path | None) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(settings.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = VisionLanguageModel(Config()).to(device)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.peak,
        betas=(settings.beta1, settings.beta2),
        fused=device == "cuda",
    )
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    step, seconds = 0, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        for name, mine in (("config", model.config), ("settings", settings)):
            if saved[name] != dataclasses.asdict(mine):
                raise SystemExit(f"{checkpoint} was made with another {name}: {saved[name]}. Choose another folder.")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, seconds = saved["step"], saved["seconds"]
        print(f"goes on at step {step}, {seconds:.0f} s")
    elif weights is not None:
        beginning = read_checkpoint(weights)
        if beginning.config != model.config:
            raise SystemExit(f"{weights} has other sizes than model.Config.")
        model.load_state_dict(beginning.state)

    def save() -> None:
        state = {
            "config": dataclasses.asdict(model.config),
            "settings": dataclasses.asdict(settings),
            "step": step,
            "seconds": seconds,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        with atomic.replacing(checkpoint) as part:
            torch.save(state, part)

    stopping = False

    def stop(*_: Any) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    compiled = torch.compile(model) if device == "cuda" else model
    batches = iter(
        DataLoader(
            Batches(settings, step),
            batch_size=None,
            num_workers=workers,
            pin_memory=device == "cuda",
            prefetch_factor=3 if workers else None,
        )
    )
    total = settings.minutes * 60
    before: float | None = None  # the first step compiles: it is not counted
    logged = saved_at = time.monotonic()
    losses: list[torch.Tensor] = []
    rights: list[torch.Tensor] = []
    with (out / "log.jsonl").open("a") as log:
        while seconds < total and not stopping and time.monotonic() < deadline:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, seconds)
            images, tokens, targets, blocks, positions = (t.to(device, non_blocking=True) for t in next(batches))
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                logits = compiled(as_input(images), tokens, blocks, positions)
                loss = functional.cross_entropy(
                    logits.flatten(0, 1).float(), targets.flatten().long(), ignore_index=NO_TARGET
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            losses.append(loss.detach())
            rights.append(right(logits, targets))
            now = time.monotonic()
            if before is not None:
                seconds += now - before
            before = now
            if now - logged > 10:
                line = {
                    "step": step,
                    "seconds": round(seconds),
                    "loss": round(torch.stack(losses).mean().item(), 4),
                    "right_tokens": round(torch.stack(rights).mean().item(), 4),
                    "lr": round(learning_rate(settings, seconds), 6),
                    "images_per_s": round(len(losses) * settings.batch / (now - logged)),
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
                print(line, flush=True)
                losses, rights, logged = [], [], now
            if now - saved_at > SAVE_EVERY_S:
                save()
                saved_at = time.monotonic()
    save()
    print(f"{'done' if seconds >= total else 'stopped'} at step {step}, {seconds:.0f} of {total:.0f} s: {checkpoint}")


def learning_rate(settings: Settings, seconds: float) -> float:
    """Linear warm-up, then a cosine down to nothing."""
    progress = min(1.0, seconds / (settings.minutes * 60))
    return settings.peak * min(1.0, (progress + 1e-3) / WARM_UP) * (1 + math.cos(math.pi * progress)) / 2


def right(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The share of the answers' tokens that are the most likely ones."""
    targeted = targets != NO_TARGET
    return ((logits.argmax(-1) == targets) & targeted).sum() / targeted.sum()


if __name__ == "__main__":
    main()
