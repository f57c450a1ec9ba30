"""Two machines with real TCP between them, which is cut; and a page that is killed."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

if importlib.util.find_spec("ray") is None:
    pytest.skip("the extra cluster is not installed: make cluster", allow_module_level=True)

from playground.cluster.machine import PIDS
from playground.engine import protocol
from playground.errors import MachineLost
from playground.measuring import question_sets
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.results import Measurement, MeasurementPlan
from playground.pool.worker_spec import language_spec, vision_spec
from playground.settings import Settings
from playground.support.result_cache import ResultCache
from playground.values.answer import ComparisonUpdate
from playground.values.files import Variant
from playground.values.request import Runtime, Sampling
from playground.wiring import Parts, open_parts
from testkit import pairs
from testkit.running import MODEL, PROJECTOR, SCENE, SHORT_CONTEXT, WHAT, comparison, run
from testkit.second_page_child import BOX2, budget, held
from testkit.two_networks import THERE, Network
from testkit.waiting import until

LONG = Runtime(n_ctx=4096)

LARGE = Runtime(n_ctx=400_000)  # its key-value cache takes 1.2 GB, more than what comes and goes beside the tests


@contextmanager
def other_page(
    network: Network, folder: Path, runtime: Runtime, model: Path = MODEL
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """And the process ids of its workers, here and on box2."""
    command = [sys.executable, "-m", "testkit.second_page_child", str(folder), network.address]
    command += [str(model), str(runtime.n_ctx)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            pids = [int(pid) % PIDS for pid in other.stdout.readline().split()]
            assert len(pids) == 2
            yield other, pids
        finally:
            other.kill()


@pytest.fixture(scope="module")
def page(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    settings = Settings(cache_dir=tmp_path_factory.mktemp("page"), cluster=network.address)
    with open_parts(settings, any_folder=True) as opened:
        yield opened


@pytest.fixture
def parts(page: Parts, network: Network) -> Iterator[Parts]:
    until(lambda: BOX2 in page.pool.devices.host_places)
    yield page
    network.mend()


@pytest.fixture
def variant(parts: Parts) -> Variant:
    return parts.catalog.open_pair(MODEL, PROJECTOR)


def answered(parts: Parts, variant: Variant, place: str) -> ComparisonUpdate:
    here = replace(parts, pool=parts.pool.at((place,)))
    return run(here, comparison(here.read_image(SCENE), WHAT, (variant,), max_tokens=20))


def test_answer_when_the_network_is_cut_then_it_fails_in_words_and_the_machine_comes_back_with_it(
    parts: Parts, variant: Variant, network: Network
) -> None:
    before = answered(parts, variant, BOX2).panes[0]
    assert before.token_ids == answered(parts, variant, "host").panes[0].token_ids
    with parts.pool.use(vision_spec(variant.projector, variant.model, Runtime())) as lease:
        prompt = lease.request(protocol.Encode((protocol.ChatMessage("user", "Hello"),), ()))
    spec, cut = language_spec(variant.model, LONG), list[float]()

    def on_chunk(chunk: protocol.Chunk) -> None:
        if not cut:
            network.cut()
            cut.append(time.monotonic())

    with parts.pool.turn([spec], where=[(BOX2,)]) as slot, slot.lease(spec) as lease:
        pid = lease.pid % PIDS
        request = protocol.Generate(prompt, Sampling(max_tokens=100_000), LONG, ignore_end=True)
        with pytest.raises(MachineLost, match="box2 was lost") as lost:
            lease.request(request, on_chunk=on_chunk)
    print(f"lost after {time.monotonic() - cut[0]:.1f} s: {lost.value}")
    assert parts.pool.devices.host_places == ("host",)
    until(lambda: not psutil.pid_exists(pid))
    print(f"its worker ended after {time.monotonic() - cut[0]:.1f} s")
    network.mend()
    print(f"back after {until(lambda: BOX2 in parts.pool.devices.host_places):.1f} s")
    assert answered(parts, variant, BOX2).panes[0].token_ids == before.token_ids


def test_machine_when_ray_has_ended_on_it_then_its_agent_command_joins_again(parts: Parts, variant: Variant) -> None:
    """So does Ray end there when the network was away for a minute."""
    [raylet] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(f"--node_ip_address={THERE}" in word for word in process.info["cmdline"] or ())
        and "raylet" in Path(process.info["cmdline"][0]).name
    ]
    raylet.kill()
    until(lambda: BOX2 not in parts.pool.devices.host_places)
    print(f"used again after {until(lambda: BOX2 in parts.pool.devices.host_places):.1f} s")
    assert answered(parts, variant, BOX2).panes[0].text


def test_page_when_killed_then_its_workers_end_and_another_page_goes_on(
    parts: Parts, variant: Variant, network: Network, tmp_path: Path
) -> None:
    spec = language_spec(variant.model, SHORT_CONTEXT)
    with parts.pool.turn([spec], where=[(BOX2,)]) as slot, slot.lease(spec) as lease:
        with other_page(network, tmp_path, SHORT_CONTEXT) as (other, theirs):
            assert lease.pid % PIDS not in theirs
            assert all(psutil.pid_exists(pid) for pid in theirs)
            other.send_signal(signal.SIGKILL)
            ended = until(lambda: not any(psutil.pid_exists(pid) for pid in theirs))
        print(f"the killed page's workers ended after {ended:.1f} s")
        assert lease.request(protocol.Tokenize("Hello")).token_ids


def test_pages_when_two_use_one_machine_then_each_sees_the_memory_that_the_other_holds(
    parts: Parts, network: Network, tmp_path: Path
) -> None:
    """Two processes, each with an agent of its own there. What one loads and unloads, the other may not and may use."""
    model = pairs.set_context(MODEL, tmp_path / "long.gguf", 400_000)
    pair, before = parts.catalog.open_pair(model, PROJECTOR), budget(parts)
    with other_page(network, tmp_path, LARGE, model) as (other, theirs):
        large = psutil.Process(theirs[1]).memory_info().rss
        assert large > 500 * 2**20
        until(lambda: budget(parts) < before - large / 2)

        def their_budget() -> int:
            assert other.stdin is not None
            assert other.stdout is not None
            other.stdin.write("\n")
            other.stdin.flush()
            return int(other.stdout.readline())

        beside = their_budget()
        own = psutil.Process(held(parts, pair, BOX2, LARGE) % PIDS).memory_info().rss
        print(f"budgets on box2: {before}, then {budget(parts)}; of the other page {beside}, then {their_budget()}")
        until(lambda: their_budget() < beside - own / 2)
        parts.pool.unload(language_spec(pair.model, LARGE))
        until(lambda: their_budget() > beside - own / 2)
        both = budget(parts)
    until(lambda: budget(parts) > both + large / 2)


def test_measurement_when_the_network_is_cut_for_good_then_it_goes_on_elsewhere(
    parts: Parts, variant: Variant, network: Network, tmp_path: Path
) -> None:
    """Last, since box2 is away then: the cable is mended behind it."""
    questions = question_sets.embedded(parts.evaluation, level="hard").first(3)
    request = MeasureRequest(questions, (variant,), variant.id, MeasurementPlan(), SHORT_CONTEXT)

    def measured(name: str, at: str, on_progress: Callable[[], None]) -> Measurement:
        lab = replace(parts.lab, pool=parts.pool.at((at,)), results=ResultCache(tmp_path / name, "engine"))
        for update in MeasureJob(lab, request).run():
            if isinstance(update, Measurement):
                return update
            on_progress()
        raise AssertionError

    whole = measured("whole", "host", lambda: None)
    cut = measured("cut", BOX2, network.cut)
    assert "The machine box2 was lost. What it had not answered was asked elsewhere." in cut.problems
    assert (cut.answers, cut.results, cut.floors) == (whole.answers, whole.results, whole.floors)
