"""Bad files and faults: each pane ends in a stated state with a message, and the next run works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from playground.comparing import compare
from playground.errors import BadModel, BadPair
from playground.pool.budgets import PoolLimits
from playground.pool.leasing import Slot
from playground.pool.pool import Pool
from playground.values.answer import Pane, PaneState
from playground.values.memory import WorkerRole
from playground.values.request import Image
from playground.wiring import Parts
from testkit import pairs
from testkit.fake_machine import FakeMachine
from testkit.processes import children_of, wait_ended
from testkit.running import comparison, run

WHAT = "What do you see?"


def assert_pool_works(parts: Parts, scene: Image) -> None:
    pane = run(parts, comparison(scene, WHAT, parts.catalog.choose(["Q8_0"]))).panes[0]
    assert pane.state is PaneState.DONE
    assert "RVJWPBX" in pane.text
    assert all(w.leases == 0 for w in parts.pool.memory().workers)


def failed(parts: Parts, scene: Image, model: Path, projector: Path) -> Pane:
    """The pane of a pair that cannot run, beside one that can."""
    bad = parts.catalog.open_pair(model, projector)
    good = parts.catalog.choose(["F16"])[0]
    update = run(parts, comparison(scene, WHAT, (bad, good)))
    panes = {p.variant: p for p in update.panes}
    assert panes[good.id].state is PaneState.DONE
    assert panes[bad.id].state is PaneState.FAILED
    assert panes[bad.id].error
    return panes[bad.id]


def test_worker_when_killed_while_it_writes_then_its_pane_says_so_and_the_others_finish(
    parts: Parts, endless: pairs.PairFiles, scene: Image
) -> None:
    slow = parts.catalog.open_pair(endless.model, endless.projector)
    f16 = parts.catalog.choose(["F16"])[0]
    request = comparison(scene, WHAT, (slow, f16), max_tokens=900)
    killed = False
    for update in compare.run(request, parts.lab, compare.StopFlag()):
        if not killed and len(update.panes[0].token_ids) > 10:
            victim = next(w for w in parts.pool.memory().workers if w.file == endless.model.name)
            os.kill(victim.pid, signal.SIGKILL)
            killed = True
    assert update.panes[0].state is PaneState.FAILED
    assert "killed (SIGKILL)" in (update.panes[0].error or "")
    assert len(update.panes[0].token_ids) > 10
    assert update.panes[0].text
    assert update.panes[1].state is PaneState.DONE
    again = run(parts, comparison(scene, WHAT, (slow,), max_tokens=3)).panes[0]
    assert again.state is PaneState.DONE
    assert again.metrics.load_s is not None


def test_worker_when_killed_while_idle_then_the_next_run_starts_another(parts: Parts, scene: Image) -> None:
    f16 = parts.catalog.choose(["F16"])
    before = run(parts, comparison(scene, WHAT, f16)).panes[0]
    for worker in parts.pool.memory().workers:
        os.kill(worker.pid, signal.SIGKILL)
        wait_ended(worker.pid)
    after = run(parts, comparison(scene, WHAT, f16)).panes[0]
    assert after.state is PaneState.DONE
    assert after.token_ids == before.token_ids


@pytest.mark.parametrize("at", ["load", "context"])
def test_gguf_when_it_makes_llama_cpp_abort_then_only_its_pane_fails(
    parts: Parts, scene: Image, tmp_path: Path, at: str
) -> None:
    fitting = pairs.write_pair("mlp" if at == "load" else "qwen2vl", tmp_path)
    pane = failed(parts, scene, pairs.write_aborting(tmp_path, at=at), fitting.projector)
    assert "llama.cpp aborted" in (pane.error or "")
    assert "GGML_ASSERT" in (pane.error or "")
    assert pane.log
    assert_pool_works(parts, scene)


def test_projector_when_of_another_width_then_says_both_widths(parts: Parts, scene: Image, tmp_path: Path) -> None:
    wide = pairs.write_llava(tmp_path, n_embd=512, name="wide")
    narrow = pairs.write_pair("mlp", tmp_path)
    pane = failed(parts, scene, wide.model, narrow.projector)
    assert "it writes 256 values per image token, the model reads 512" in (pane.error or "")
    assert "Use the mmproj file that was published with this model" in (pane.error or "")
    assert_pool_works(parts, scene)


def test_projector_when_vocabulary_lacks_its_tokens_then_says_so_and_does_not_abort(
    parts: Parts, scene: Image, tmp_path: Path
) -> None:
    bare = pairs.write_pair("idefics3", tmp_path, special_tokens=False)
    pane = failed(parts, scene, bare.model, bare.projector)
    assert "special tokens around an image that this language model's vocabulary lacks" in (pane.error or "")
    assert_pool_works(parts, scene)


def test_file_when_truncated_then_said_before_loading(parts: Parts, tmp_path: Path) -> None:
    files = pairs.write_pair("mlp", tmp_path)
    short = pairs.truncate(files.model, tmp_path / "short.gguf", 0.7)
    with pytest.raises(BadModel, match=r"short\.gguf is cut short: .* Download it again"):
        parts.catalog.open_pair(short, files.projector)


def test_file_when_it_vanishes_after_it_was_opened_then_the_pane_says_so(
    parts: Parts, scene: Image, tmp_path: Path
) -> None:
    files = pairs.write_pair("mlp", tmp_path)
    variant = parts.catalog.open_pair(files.model, files.projector)
    files.model.unlink()
    pane = run(parts, comparison(scene, WHAT, (variant,))).panes[0]
    assert pane.state is PaneState.FAILED
    assert "could not load tiny-mlp-F16.gguf" in (pane.error or "")
    assert_pool_works(parts, scene)


def test_pair_when_swapped_then_says_which_is_which(parts: Parts, tmp_path: Path) -> None:
    files = pairs.write_pair("mlp", tmp_path)
    with pytest.raises(BadPair, match=f"swapped: {files.projector.name} is the projector"):
        parts.catalog.open_pair(files.projector, files.model)


def test_budget_when_it_holds_two_of_three_then_the_longest_unused_gives_way(parts: Parts, scene: Image) -> None:
    q8, q4, q3 = parts.catalog.choose(["Q8_0", "Q4_K_M", "Q3_K_M"])
    # Held to a figure: what a worker really takes differs from machine to machine.
    machine = FakeMachine(n_gpus=0, resident_of=lambda file: 80 * 2**20)
    limits = PoolLimits(host_bytes=250 * 2**20)
    with closing(Pool.open(limits, sensors=machine, start_worker=machine.start_worker)) as pool:
        for variant in (q8, q4, q3, q8):
            small = replace(parts, pool=pool)
            assert run(small, comparison(scene, WHAT, (variant,))).panes[0].state is PaneState.DONE
        loaded = [w.file for w in pool.memory().workers if w.role is WorkerRole.LANGUAGE]
    assert loaded == ["tiny-vlm-7M-Q3_K_M.gguf", "tiny-vlm-7M-Q8_0.gguf"]


def test_budget_when_a_model_is_larger_then_says_how_much_of_how_much(parts: Parts, scene: Image) -> None:
    with closing(Pool.open(PoolLimits(host_bytes=1000))) as pool:
        pane = run(replace(parts, pool=pool), comparison(scene, WHAT, parts.catalog.choose(["F16"]))).panes[0]
    assert pane.state is PaneState.FAILED
    assert "the budget for all models there is 0.0 GiB" in (pane.error or "")
    assert "PLAYGROUND_MEMORY_BUDGET_BYTES" in (pane.error or "")


def test_run_when_something_unforeseen_fails_then_every_pane_says_so(
    parts: Parts, scene: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread has nobody else to tell."""

    def broken(*_: object) -> None:
        raise OSError("/secret/path")

    monkeypatch.setattr(Slot, "fitting", broken)
    update = run(parts, comparison(scene, WHAT, parts.catalog.choose(["F16", "Q8_0"])))
    assert [p.state for p in update.panes] == [PaneState.FAILED] * 2
    assert "Unexpected: OSError" in (update.panes[0].error or "")
    assert "secret" not in (update.panes[0].error or "")
    assert parts.pool.memory().queue_length == 0


def test_app_when_killed_then_no_worker_outlives_it(derived: Path, endless: pairs.PairFiles, tmp_path: Path) -> None:
    app = subprocess.Popen(
        [
            sys.executable, "-m", "playground", "compare", "--image",
            str(Path("playground/data/tiny-vlm/evaluation/hard-62.png").resolve()), "--prompt", "Go on.",
            "--model", str(endless.model), "--projector", str(endless.projector), "--max-tokens", "3000",
        ],
        env=os.environ | {"PLAYGROUND_CACHE_DIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        workers: list[int] = []
        deadline = time.monotonic() + 60
        while len(workers) < 2:
            assert time.monotonic() < deadline
            assert app.poll() is None
            time.sleep(0.05)
            workers = children_of(app.pid, "playground.engine.worker")
        time.sleep(1)  # into the middle of decoding
    finally:
        app.kill()
        app.wait()
    for pid in workers:
        wait_ended(pid)


def test_disk_when_full_then_the_first_start_still_compares_and_leaves_no_half_file(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the kernel refuse to write more than 64 KiB into any file, as a full disk would."""
    code = (
        "import signal, resource; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
        "from playground.__main__ import main; main()"
    )
    image = Path("playground/data/tiny-vlm/evaluation/hard-62.png").resolve()
    process = subprocess.run(
        [sys.executable, "-c", code, "compare", "--image", str(image), "--prompt", WHAT, "--variants", "F16"],
        env=os.environ | {"PLAYGROUND_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "The image shows the text RVJWPBX" in process.stdout, process.stderr[-2000:]
    assert "could not be made" in process.stderr
    assert "Image embeddings are not kept" in process.stdout
    assert list(tmp_path.rglob("*.gguf")) == []
    assert list(tmp_path.rglob("*.part")) == []
