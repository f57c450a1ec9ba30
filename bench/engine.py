"""The engine against llama.cpp's own programs, on a random-weight pair: the weights' values do not change the speed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from playground.comparing import compare
from playground.comparing.embedding_cache import EmbeddingCache
from playground.comparing.lab import Lab
from playground.engine import protocol
from playground.models.catalog import Catalog
from playground.pool.budgets import PoolLimits
from playground.pool.pool import Pool
from playground.pool.sensors import LocalSensors
from playground.pool.worker_spec import language_spec, vision_spec
from playground.quantizing.quantizer import quantize_file
from playground.support.result_cache import ResultCache
from playground.values.answer import ComparisonUpdate, PaneState
from playground.values.engine_defaults import choose
from playground.values.files import Half, Variant
from playground.values.memory import WorkerRole
from playground.values.request import Comparison, Image, Runtime, Sampling
from testkit import pairs

PROMPT = "Describe what you see in this picture in detail, please."
QUANTIZATIONS = ("Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M")
# CLIP-L/14-336's shape below the width: 576 image tokens.
SIZES: dict[str, dict[str, Any]] = {  # of pairs.write_llava
    "tiny": {"n_embd": 256, "n_layer": 2, "size": pairs.VisionSize(layer=2, image=112, patch=14)},
    "168m": {
        "n_embd": 768, "n_layer": 16, "n_head": 12, "n_head_kv": 12, "n_ff": 2048, "n_vocab": 32_000,
        "size": pairs.VisionSize(embd=768, layer=12, head=12, ff=3072, image=336, patch=14),
    },
    "3b": {
        "n_embd": 2560, "n_layer": 32, "n_head": 20, "n_head_kv": 20, "n_ff": 6912, "n_vocab": 32_000,
        "size": pairs.VisionSize(embd=1024, layer=24, head=16, ff=4096, image=336, patch=14),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What every measurement needs: the variants, the tools to compare with, one image file and more pictures."""

    folder: Path
    tools: Path
    variants: tuple[Variant, ...]
    image_file: Path
    gpu: bool
    threads: int

    @property
    def runtime(self) -> Runtime:
        # Flash attention as the engine itself chooses it: off on the CPU, llama.cpp's "auto" on a GPU.
        return Runtime(n_ctx=2048, n_threads=self.threads, n_gpu_layers=-1 if self.gpu else 0)

    @property
    def flash_attention(self) -> str:
        return "on" if self.gpu else "off"

    def picture(self, seed: int) -> Image:
        side = 336
        noise = random.Random(seed).randbytes(side * side * 3)
        return Image(rgb=noise, width=side, height=side, sha256=f"noise {seed}")


def prepare(
    size: str,
    folder: Path,
    tools: Path,
    *,
    gpu: bool,
    threads: int,
    quantizations: Sequence[str] = QUANTIZATIONS,
) -> Bench:
    """Write the pair, quantize its language model, and make the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    model, projector = folder / f"bench-{size}-F16.gguf", folder / f"mmproj-bench-{size}-F16.gguf"
    if not (model.exists() and projector.exists()):
        pairs.write_llava(folder, name=f"bench-{size}", **SIZES[size])
    store = Catalog(folder / "cache", None)
    variants = [store.open_pair(model, projector)]
    with contextlib.closing(Pool.open()) as pool:
        for quantization in quantizations:
            target = folder / f"bench-{size}-{quantization}.gguf"
            if not target.exists():
                quantize_file(model, target, quantization, pool, Half.MODEL)
            variants.append(store.open_pair(target, projector))
    store.close()
    bench = Bench(folder, tools, tuple(variants), folder / "picture.ppm", gpu, threads)
    noise = bench.picture(0)
    bench.image_file.write_bytes(f"P6 {noise.width} {noise.height} 255\n".encode() + noise.rgb)
    return bench


@contextlib.contextmanager
def fresh_lab(limits: PoolLimits | None = None) -> Iterator[Lab]:
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(
            Pool.open(limits, sensors=LocalSensors(os.environ.get("CUDA_VISIBLE_DEVICES"))),
            EmbeddingCache(Path(folder), 2**30, "bench"),
            ResultCache(Path(folder) / "results", "bench"),
        )
        try:
            yield lab
        finally:
            lab.pool.close()
            lab.embeddings.close()
            lab.results.close()


def ask(bench: Bench, lab: Lab, image: Image, prompt: str, n: int) -> ComparisonUpdate:
    request = Comparison(
        images=(image,),
        prompt=prompt,
        variants=bench.variants,
        reference=bench.variants[0].id,
        sampling=Sampling(max_tokens=n),
        runtime=bench.runtime,
    )
    *_, last = compare.run(request, lab, compare.StopFlag())
    assert all(pane.state is PaneState.DONE for pane in last.panes), [pane.error for pane in last.panes]
    return last


def five_variants(bench: Bench) -> dict[str, float]:
    """Wall time of five variants on one image, 32 tokens each, against llama-mtmd-cli once per variant; from nothing,
    with a spare worker (`spare_workers`) and without."""
    started = time.perf_counter()
    for variant in bench.variants:
        _tool(
            bench, "llama-mtmd-cli", "-m", variant.model.path, "--mmproj", variant.projector.path,
            "--image", str(bench.image_file), "-p", PROMPT, "-n", "32", "--temp", "0", "-c", "2048",
            "-t", str(bench.threads), "-fa", bench.flash_attention, *([] if bench.gpu else ["--no-mmproj-offload"]),
        )  # fmt: skip
    cli_s = time.perf_counter() - started
    with fresh_lab() as lab:
        started = time.perf_counter()
        ask(bench, lab, bench.picture(0), PROMPT, 32)
        without_s = time.perf_counter() - started
    with fresh_lab(PoolLimits(spare_workers=1)) as lab:
        lab.pool.spares.restock()
        lab.pool.spares.settle()  # as an app stands in which nothing is loaded
        started = time.perf_counter()
        ask(bench, lab, bench.picture(0), PROMPT, 32)
        cold_s = time.perf_counter() - started
        started = time.perf_counter()
        ask(bench, lab, bench.picture(1), PROMPT, 32)
        warm_s = time.perf_counter() - started
        workers = lab.pool.memory().workers
    vision = [w for w in workers if w.role is WorkerRole.VISION]
    language = [w for w in workers if w.role is WorkerRole.LANGUAGE]
    return {
        "five_cli_s": cli_s,
        "five_cold_s": cold_s,
        "five_cold_without_spare_s": without_s,
        "five_warm_s": warm_s,
        "five_cold_ratio": cold_s / cli_s,
        "five_cold_without_spare_ratio": without_s / cli_s,
        "five_warm_ratio": warm_s / cli_s,
        "projectors_resident": len(vision),
        "projector_worker_bytes": sum(w.bytes or 0 for w in vision),
        "language_workers_bytes": sum(w.bytes or 0 for w in language),
    }


def second_question(bench: Bench) -> dict[str, float]:
    """Time to first token of a second question on the same image, warm handles, against the first one's."""
    first, second = [], []
    with fresh_lab() as lab:
        ask(bench, lab, bench.picture(10), PROMPT, 2)
        for seed in range(11, 14):
            image = bench.picture(seed)
            first.append(ask(bench, lab, image, PROMPT, 8).panes[0].metrics.ttft_s or 0.0)
            again = ask(bench, lab, image, "And what stands in the background?", 8)
            second.append(again.panes[0].metrics.ttft_s or 0.0)
    return {
        "first_question_ttft_s": statistics.median(first),
        "second_question_ttft_s": statistics.median(second),
        "second_question_speedup": statistics.median(first) / statistics.median(second),
    }


def decode_speed(bench: Bench, rounds: int = 5) -> dict[str, float]:
    """Decode tokens per second against llama-bench, same file, depth, threads and flash attention, in turn."""
    figures: dict[str, float] = {}
    for variant in (v for v in bench.variants if v.model.quantization in ("F16", "Q4_K_M")):
        ours, theirs, prompts, their_prompts = [], [], [], []
        with fresh_lab() as lab:
            spec = vision_spec(variant.projector, variant.model, bench.runtime)
            with lab.pool.lease(spec) as lease:
                chat = (protocol.ChatMessage("user", PROMPT, 1),)
                prompt = lease.request(protocol.Encode(chat, (bench.picture(0),)))
            depth = prompt.n_image_tokens + prompt.n_text_tokens
            # llama-bench's context holds the depth and the test; on the CPU a larger one decodes up to 10 % slower.
            runtime = replace(bench.runtime, n_ctx=depth + 128)
            generate = protocol.Generate(prompt, Sampling(max_tokens=128), runtime)
            for _ in range(rounds):
                # llama-bench has the machine to itself, and so has the worker: loaded models do not compute.
                speeds = _llama_bench(bench, variant, depth)
                their_prompts.append(speeds["prompt"])
                theirs.append(speeds["decode"])
                with lab.pool.lease(language_spec(variant.model, runtime)) as lease:
                    for _ in range(2):
                        finished = lease.request(generate)
                        assert finished.generated_tokens == 128
                        assert finished.decode_s is not None
                        ours.append(127 / finished.decode_s)
                        if finished.prompt_s and not finished.reused_tokens:
                            prompts.append(depth / finished.prompt_s)
                    reread = lease.request(msgspec.structs.replace(generate, prompt=_other_key(prompt)))
                    if reread.prompt_s:
                        prompts.append(depth / reread.prompt_s)
        q = variant.model.quantization.lower()
        figures |= {
            f"decode_{q}_tok_per_s": statistics.median(ours),
            f"llama_bench_{q}_tok_per_s": statistics.median(theirs),
            f"decode_{q}_ratio": statistics.median(ours) / statistics.median(theirs),
            f"prompt_{q}_tok_per_s": statistics.median(prompts),
            f"llama_bench_prompt_{q}_tok_per_s": statistics.median(their_prompts),
        }
    return figures


def defaults(bench: Bench) -> dict[str, float]:
    """Each candidate for flash attention, threads and context as a worker measures it once on a machine, however busy
    the machine is: seconds of the question that candidates are compared by. `waited`: more than 0.15, and the app keeps
    nothing."""
    figures = {}
    for variant in (v for v in bench.variants if v.model.quantization in ("F16", "Q4_K_M")):
        with fresh_lab() as lab, lab.pool.lease(language_spec(variant.model, Runtime(n_gpu_layers=0))) as lease:
            measured = lease.request(protocol.MeasureDefaults(patient=True))
        name, chosen = variant.model.quantization, choose(measured.usual, measured.trials)
        for trial in measured.trials:
            marks = {"chosen": trial.settings == chosen, "usual": trial.settings == measured.usual}
            notes = "".join(f", {mark}" for mark, holds in marks.items() if holds)
            figures[f"{name}: {trial.settings.words}{notes}, question s"] = trial.question_s
            figures[f"{name}: {trial.settings.words}, decode tok/s"] = trial.decode_tok_per_s
        figures[f"{name}: measured in s"] = measured.seconds
        figures[f"{name}: waited"] = (measured.waited_s or 0.0) / measured.seconds
    return figures


def _other_key(prompt: protocol.EncodedPrompt) -> protocol.EncodedPrompt:
    """The same prompt as one that the worker has not seen: its key-value cache cannot be used."""
    chunks = tuple(
        msgspec.structs.replace(c, key=os.urandom(8).hex()) if isinstance(c, protocol.ImageChunk) else c
        for c in prompt.chunks
    )
    return msgspec.structs.replace(prompt, chunks=chunks)


def _llama_bench(bench: Bench, variant: Variant, depth: int) -> dict[str, float]:
    def speed(*test: str) -> float:
        out = _tool(
            bench, "llama-bench", "-m", variant.model.path, *test, "-t", str(bench.threads),
            "-fa", bench.flash_attention, "-ngl", "99" if bench.gpu else "0", "-b", "512", "-r", "2", "-o", "json",
        )  # fmt: skip
        return float(json.loads(out)[0]["avg_ts"])

    return {"prompt": speed("-p", str(depth), "-n", "0"), "decode": speed("-p", "0", "-n", "128", "-d", str(depth))}


def _tool(bench: Bench, name: str, *arguments: str) -> str:
    process = subprocess.run(
        [str(bench.tools / name), *arguments], capture_output=True, text=True, errors="replace", check=False
    )
    if process.returncode:
        raise RuntimeError(f"{name} failed:\n{process.stderr[-3000:]}")
    return process.stdout
