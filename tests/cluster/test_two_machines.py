"""Runs on two machines: the same answers, and what happens when one of them goes."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import psutil
import pytest

if importlib.util.find_spec("ray") is None:
    pytest.skip("the extra cluster is not installed: make cluster", allow_module_level=True)

import ray

from playground.cluster import shared_embeddings
from playground.cluster.machine import PIDS
from playground.cluster.messages import Versions
from playground.cluster.remote_worker import RemoteWorker
from playground.engine import protocol
from playground.errors import NoRoom, WorkerDied
from playground.measuring import question_sets
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.results import Measurement, MeasurementPlan, Progress
from playground.pool.worker_spec import language_spec, vision_spec
from playground.quantizing import quantizer
from playground.settings import Settings
from playground.support.result_cache import ResultCache
from playground.values.answer import ComparisonUpdate
from playground.values.files import Half, Variant
from playground.values.memory import WorkerRole, WorkerState
from playground.values.request import Runtime, Sampling
from playground.wiring import Parts, open_parts
from testkit.hub_server import HubRepo, HubServer
from testkit.running import MODEL, PROJECTOR, SCENE, SHORT_CONTEXT, WHAT, comparison, measured, run

BOX2 = "box2 · host"
LONG = Runtime(n_ctx=4096)


@pytest.fixture(scope="module")
def page(nodes: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    settings = Settings(cache_dir=tmp_path_factory.mktemp("page"), cluster=nodes.address)
    with open_parts(settings, any_folder=True) as opened:
        yield opened


@pytest.fixture
def box2(nodes: Any) -> Any:
    """Another test may have taken it away."""
    live = sorted(nodes.worker_nodes, key=id)
    return live[0] if live else nodes.add_node(num_cpus=1, node_name="box2")


@pytest.fixture
def parts(page: Parts, box2: Any) -> Parts:
    until(lambda: BOX2 in page.pool.devices.host_places)
    return page


@pytest.fixture
def variant(parts: Parts) -> Variant:
    return parts.catalog.open_pair(MODEL, PROJECTOR)


def until(true: Callable[[], bool]) -> float:
    """Seconds until it is true."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < 120
        time.sleep(0.02)
    return time.monotonic() - started


def run_on_box2(parts: Parts, variant: Variant, max_tokens: int = 40) -> ComparisonUpdate:
    with parts.pool.turn((), where=[("host",)]):  # the page's own machine is taken
        return run(parts, comparison(parts.read_image(SCENE), WHAT, (variant,), max_tokens=max_tokens))


def test_answers_when_given_on_two_machines_then_they_are_equal(parts: Parts, variant: Variant) -> None:
    with parts.pool.turn((), where=[(BOX2,)]):
        here = run(parts, comparison(parts.read_image(SCENE), WHAT, (variant,), max_tokens=40))
    update = run_on_box2(parts, variant)
    assert "Answered on" not in " ".join(here.panes[0].remarks)
    assert "Answered on box2" in " ".join(update.panes[0].remarks)
    assert update.panes[0].token_ids == here.panes[0].token_ids
    report = parts.pool.memory()
    assert {worker.place for worker in report.workers} == {"host", BOX2}
    assert all(worker.host_rss_bytes for worker in report.workers)
    assert [machine.name for machine in report.machines] == ["box2"]


def encoded(parts: Parts, variant: Variant) -> protocol.EncodedPrompt:
    with parts.pool.use(vision_spec(variant.projector, variant.model, Runtime())) as lease:
        return lease.request(protocol.Encode((protocol.ChatMessage("user", "Hello"),), ()))


def endless(prompt: protocol.EncodedPrompt) -> protocol.Generate:
    return protocol.Generate(prompt, Sampling(max_tokens=100_000), LONG, ignore_end=True)


def answer_until(
    parts: Parts, variant: Variant, happens: Callable[[], object], where: str = BOX2
) -> tuple[WorkerDied, float]:
    """What a request ends with, and how many seconds after `happens`, which comes in mid-answer."""
    prompt, began = encoded(parts, variant), list[float]()

    def on_chunk(chunk: protocol.Chunk) -> None:
        if not began:
            happens()
            began.append(time.monotonic())

    spec = language_spec(variant.model, LONG)
    with parts.pool.turn([spec], where=[(where,)]) as slot, slot.lease(spec) as lease:
        with pytest.raises(WorkerDied) as died:
            lease.request(endless(prompt), on_chunk=on_chunk)
        return died.value, time.monotonic() - began[0]


def workers_of(parts: Parts, place: str) -> list[int]:
    """Process ids, of the busy one first: other tests have left theirs."""
    workers = [worker for worker in parts.pool.memory().workers if worker.place == place]
    return [worker.pid % PIDS for worker in sorted(workers, key=lambda worker: worker.state is not WorkerState.BUSY)]


def test_node_when_removed_in_mid_answer_then_its_panes_fail_in_words_and_the_others_go_on(
    parts: Parts, ladder: tuple[Variant, ...], nodes: Any, box2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer there does not end by itself; nor does one here, before the panes have failed."""
    started, removed_at, reasons = list[int](), list[float](), list[str]()
    failed, answering, ask = Event(), Event(), RemoteWorker.request
    prompt, spec = encoded(parts, ladder[0]), language_spec(ladder[0].model, LONG)

    def on_chunk(chunk: protocol.Chunk) -> None:
        if not removed_at:
            started.extend(workers_of(parts, BOX2))
            nodes.remove_node(box2, allow_graceful=False)
            removed_at.append(time.monotonic())

    def ask_endlessly(worker: RemoteWorker, message: Any, **fields: Any) -> Any:
        if isinstance(message, protocol.Generate):
            message, fields = endless(message.prompt), fields | {"on_chunk": on_chunk}
        return ask(worker, message, **fields)

    monkeypatch.setattr(RemoteWorker, "request", ask_endlessly)

    def answer_here() -> None:
        with parts.pool.turn([spec], where=[("host",)]) as slot, slot.lease(spec) as lease:
            answering.set()
            while not failed.is_set():
                reasons.append(lease.request(endless(prompt), stop=failed.is_set).reason)

    with ThreadPoolExecutor(1) as threads:
        here = threads.submit(answer_here)
        answering.wait()
        on_box2 = replace(parts, pool=parts.pool.at((BOX2,)))
        try:
            panes = run(on_box2, comparison(parts.read_image(SCENE), WHAT, ladder[:1], n_ctx=4096)).panes
            print(f"its pane failed after {time.monotonic() - removed_at[0]:.1f} s")
        finally:
            failed.set()
        here.result()
    assert "box2 was lost" in (panes[0].error or "")
    assert set(reasons) <= {"stopped", "context full"}
    print(f"its workers ended after {until(lambda: not any(psutil.pid_exists(pid) for pid in started)):.1f} s")
    until(lambda: parts.pool.devices.host_places == ("host",))
    assert run(parts, comparison(parts.read_image(SCENE), WHAT, ladder[:1], max_tokens=5)).panes[0].text


def test_machine_when_it_joins_then_it_answers_without_a_restart(parts: Parts, variant: Variant, nodes: Any) -> None:
    box3 = nodes.add_node(num_cpus=1, node_name="box3")
    try:
        print(f"used {until(lambda: 'box3 · host' in parts.pool.devices.host_places):.1f} s after its node is up")
        with parts.pool.turn((), where=[("host",)]), parts.pool.turn((), where=[(BOX2,)]):
            request = comparison(parts.read_image(SCENE), WHAT, (variant,), max_tokens=5)
            assert "Answered on box3" in " ".join(run(parts, request).panes[0].remarks)
    finally:
        nodes.remove_node(box3, allow_graceful=False)
        until(lambda: set(parts.pool.devices.host_places) == {"host", BOX2})


def test_agent_when_killed_then_its_workers_end_and_another_agent_is_started(parts: Parts, variant: Variant) -> None:
    started = list[int]()

    def kill() -> None:
        started.extend(workers_of(parts, BOX2))
        os.kill(psutil.Process(started[0]).ppid(), signal.SIGKILL)

    error, seconds = answer_until(parts, variant, kill)
    print(f"its request failed after {seconds:.1f} s")
    assert "box2 was lost" in error.message
    print(f"its workers ended after {until(lambda: not any(psutil.pid_exists(pid) for pid in started)):.1f} s")
    until(lambda: BOX2 in parts.pool.devices.host_places)
    until(lambda: all(not machine.problem for machine in parts.pool.memory().machines))
    assert run_on_box2(parts, variant, 5).panes[0].text


def test_machine_when_it_has_another_llama_cpp_then_it_is_refused_in_words_until_it_has_the_same(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its agent is killed, so that the page opens it again."""

    def problem() -> str:
        return next((machine.problem for machine in parts.pool.memory().machines), "")

    with monkeypatch.context() as patched:
        patched.setattr("playground.cluster.cluster.versions", lambda: Versions("1", "0.2.90"))
        parts.pool.sensors._machines["box2"].end()  # type: ignore[attr-defined]
        until(lambda: "install the same versions" in problem())
        assert "the page has playground 1 and llama-cpp-python 0.2.90" in problem()
        assert parts.pool.devices.host_places == ("host",)
    until(lambda: BOX2 in parts.pool.devices.host_places)
    assert problem() == ""


OLD_RAY = """
import ray
ray.__version__ = "2.1.0"
from playground.cluster.cluster import Cluster
Cluster({address!r}, None, None, None)
"""


def test_page_when_it_has_another_ray_then_it_is_refused_and_both_versions_are_named(nodes: Any) -> None:
    code = OLD_RAY.format(address=nodes.address)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "BadSettings: cluster: no Ray cluster could be joined" in ended.stderr
    assert "Ray: 2.1.0" in ended.stderr
    assert f"Ray: {importlib.metadata.version('ray')}" in ended.stderr


def test_worker_when_killed_then_its_last_words_come_from_its_machine(parts: Parts, variant: Variant) -> None:
    error, _ = answer_until(parts, variant, lambda: os.kill(workers_of(parts, BOX2)[0], signal.SIGKILL))
    assert "SIGKILL" in error.message


def test_question_when_it_reaches_a_machine_before_its_batch_then_it_is_answered(
    parts: Parts, variant: Variant
) -> None:
    """Ray does not keep the order of calls."""
    prompt, runtime = encoded(parts, variant), Runtime(n_ctx=1024)
    spec = language_spec(variant.model, runtime, sequences=2)
    with parts.pool.turn([spec], where=[(BOX2,)]) as slot, slot.lease(spec) as lease:
        worker = lease.handle.worker
        assert isinstance(worker, RemoteWorker)
        pid, number, actor = worker._own_pid, next(worker._requests), worker._machine._actor
        messages = [protocol.Join(0, prompt, Sampling(max_tokens=3)), protocol.CloseBatch()]
        for place in (1, 0):  # the second one comes first
            ray.get(actor.tell.remote(pid, number, place, protocol.encoded(messages[place]), {}))
        opened = protocol.encoded(protocol.OpenBatch(runtime, 2, None))
        stream = actor.request.options(num_returns="streaming").remote(pid, number, opened, {})
        *_, encoded_last = [reply for reference in stream for reply in ray.get(reference)]
    last = protocol.as_reply(encoded_last)
    assert isinstance(last, protocol.BatchEnded)
    assert last.tokens == 3


def test_answer_when_stopped_then_it_ends_early(parts: Parts, variant: Variant) -> None:
    prompt, spec, chunks = encoded(parts, variant), language_spec(variant.model, LONG), list[protocol.Chunk]()
    with parts.pool.turn([spec], where=[(BOX2,)]) as slot, slot.lease(spec) as lease:
        finished = lease.request(endless(prompt), on_chunk=chunks.append, stop=lambda: bool(chunks))
        assert finished.reason == "stopped"
        assert lease.handle.worker.ping() is not None


def test_measurement_when_on_another_machine_then_the_same_numbers(
    parts: Parts, variant: Variant, tmp_path: Path
) -> None:
    """Batches are answered there, records are written and read there, and a file that it lacks is copied."""
    file = tmp_path / "tiny-Q4_0.gguf"
    quantizer.make(MODEL, file, "Q4_0", parts.pool, Half.MODEL)
    variants = (variant, replace(parts.catalog.read_pair(file, PROJECTOR), id="q4"))
    questions = question_sets.embedded(parts.evaluation, level="hard").first(3)
    here, remote_parts = (replace(parts, result_cache=ResultCache(tmp_path / name, name)) for name in ("here", "there"))
    with parts.pool.turn((), where=[(BOX2,)]):
        on_page = measured(here, questions, variants)
    with parts.pool.turn((), where=[("host",)]):
        on_box2 = measured(remote_parts, questions, variants)
        files = {worker.file for worker in parts.pool.memory().workers if worker.place == BOX2}
        assert files >= {MODEL.name, PROJECTOR.name, file.name}
    assert on_page.results[1].mean_kl is not None
    assert [result.mean_kl for result in on_box2.results] == [result.mean_kl for result in on_page.results]


LADDER = ("Q4_0", "Q5_0", "Q8_0")


@pytest.fixture(scope="module")
def ladder(page: Parts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Variant, ...]:
    folder, variants = tmp_path_factory.mktemp("ladder"), [page.catalog.open_pair(MODEL, PROJECTOR)]
    for quantization in LADDER:
        file = folder / f"tiny-{quantization}.gguf"
        quantizer.make(MODEL, file, quantization, page.pool, Half.MODEL)
        variants.append(replace(page.catalog.read_pair(file, PROJECTOR), id=quantization))
    return tuple(variants)


def measure(
    parts: Parts, variants: tuple[Variant, ...], folder: Path, on_progress: Callable[[Progress], None]
) -> Measurement:
    """With a cache of its own, so that nothing is known."""
    questions = question_sets.embedded(parts.evaluation, level="hard").first(3)
    request = MeasureRequest(questions, variants, variants[0].id, MeasurementPlan(), SHORT_CONTEXT)
    lab = replace(parts.lab, results=ResultCache(folder, "engine"))
    for update in MeasureJob(lab, request).run():
        if isinstance(update, Measurement):
            return update
        on_progress(update)
    raise AssertionError


def test_measurement_when_spread_over_two_machines_then_the_same_numbers(
    parts: Parts, ladder: tuple[Variant, ...], tmp_path: Path
) -> None:
    """And when one of them is lost in the middle."""
    with parts.pool.turn((), where=[("host",)]):
        alone = replace(parts, pool=parts.pool.at((BOX2,)))
        on_one = measure(alone, ladder, tmp_path / "one", lambda progress: None)
    parts.pool.unload(WorkerRole.LANGUAGE)  # else box2 has them all, and is done before the page has loaded one
    seen = set[str]()
    on_two = measure(parts, ladder, tmp_path / "two", lambda progress: seen.add(progress.what.rpartition(", on ")[2]))
    assert {"host", BOX2} <= seen
    assert [place.partition(":")[0] for place in (*on_one.places, *on_two.places)] == [BOX2, BOX2, "host"]
    here, measured = (msgspec.structs.replace(m, elapsed_s=0.0, places=()) for m in (on_one, on_two))
    assert here == measured


def test_measurement_when_a_machine_is_lost_in_the_middle_then_it_goes_on_elsewhere_and_counts_nothing_twice(
    parts: Parts, ladder: tuple[Variant, ...], tmp_path: Path, nodes: Any, box2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is lost when the first reading is asked of it."""
    whole = measure(replace(parts, pool=parts.pool.at(("host",))), ladder, tmp_path / "whole", lambda progress: None)
    parts.pool.unload(WorkerRole.LANGUAGE)  # else the page is done before box2 has loaded a model
    steps, removed, request = list[Progress](), list[Any](), RemoteWorker.request

    def counting(worker: RemoteWorker, message: Any, **fields: Any) -> Any:
        if isinstance(message, protocol.Measure | protocol.ReadBatch) and not removed:
            removed.append(message)
            nodes.remove_node(box2, allow_graceful=False)
        return request(worker, message, **fields)

    monkeypatch.setattr(RemoteWorker, "request", counting)
    cut = measure(parts, ladder, tmp_path / "cut", steps.append)
    assert removed
    assert "The machine box2 was lost. What it had not answered was asked elsewhere." in cut.problems
    assert (cut.answers, cut.results) == (whole.answers, whole.results)
    assert steps[-1].done <= steps[-1].total


def test_embeddings_when_several_variants_need_them_elsewhere_then_the_page_shares_them_once(
    parts: Parts, ladder: tuple[Variant, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that no other test asks about."""
    ray = importlib.import_module("ray")
    shared, put = list[bytes](), ray.put
    monkeypatch.setattr(ray, "put", lambda data: (shared.append(data), put(data))[1])
    picture = parts.read_image(SCENE.with_name("hard-60.png"))
    request = comparison(picture, WHAT, ladder, max_tokens=10)
    here, on_box2 = (run(replace(parts, pool=parts.pool.at((place,))), request) for place in ("host", BOX2))
    assert [pane.token_ids for pane in on_box2.panes] == [pane.token_ids for pane in here.panes]
    assert all("Answered on box2" in " ".join(pane.remarks) for pane in on_box2.panes)
    assert [len(data) >= shared_embeddings.LEAST_BYTES for data in shared] == [True]


@pytest.mark.parametrize("is_there", [True, False], ids=["the Hub has it", "the Hub has lost it"])
def test_model_when_another_machine_lacks_it_then_it_downloads_it_from_the_hub_or_gets_a_copy(
    parts: Parts, variant: Variant, hub: HubServer, tmp_path: Path, is_there: bool
) -> None:
    data = MODEL.read_bytes() + bytes(64 if is_there else 128)  # a file that box2 does not have
    repo = HubRepo("acme/tiny", {f"tiny-{is_there}.gguf": data})
    file = tmp_path / f"models--acme--tiny/snapshots/{repo.commit}/tiny-{is_there}.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    hub.repos = {"acme/tiny": repo} if is_there else {}
    hub.forget()
    spec, steps = language_spec(parts.catalog.read_pair(file, PROJECTOR).model, LONG), list[protocol.Step]()
    with parts.pool.turn([spec], where=[(BOX2,)]) as slot, slot.lease(spec, on_step=steps.append) as lease:
        assert lease.load_s is not None
    assert {step.tensor for step in steps} == {f"{file.name}, to box2"}
    assert {step.total for step in steps} == {len(data)}
    assert sum(seen.sent for seen in hub.seen("GET", file.name, cdn=True)) == (len(data) if is_there else 0)
    assert is_there or steps[-1].done == len(data)
    assert [machine.arriving for machine in parts.pool.memory().machines] == [()]


def padded(parts: Parts, folder: Path, size: int, name: str = "padded") -> Variant:
    """The embedded pair with a larger file, which no machine has: zeros follow the tensors."""
    file = folder / f"{name}.gguf"
    file.write_bytes(MODEL.read_bytes())
    os.truncate(file, size)
    return parts.catalog.read_pair(file, PROJECTOR)


def load_on_box2(parts: Parts, variant: Variant, on_step: Callable[[protocol.Step], None]) -> None:
    spec = language_spec(variant.model, LONG)
    with parts.pool.turn([spec], where=[(BOX2,)]) as slot, slot.lease(spec, on_step=on_step):
        pass
    parts.pool.unload(spec)


@pytest.fixture
def copies() -> Path:
    """The agents' folder of copies (conftest.py)."""
    folder = Path(os.environ["PLAYGROUND_CACHE_DIR"]) / "copies"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def small_disk(copies: Path) -> Iterator[Callable[[str], None]]:
    """The folder of copies is a disk of its own. The function sets its size."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(copies)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a disk needs root")

    def resize(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(copies)], check=True)

    yield resize
    subprocess.run(["umount", "--lazy", str(copies)], check=True)


def test_copy_when_the_disk_is_full_in_the_middle_then_refused_in_words_and_it_goes_on_when_there_is_room(
    parts: Parts, small_disk: Callable[[str], None], tmp_path: Path
) -> None:
    variant, steps, again = padded(parts, tmp_path, 40 * 2**20), list[protocol.Step](), list[protocol.Step]()

    def fill(step: protocol.Step) -> None:
        steps.append(step)
        if step.done:
            small_disk("12m")

    with pytest.raises(NoRoom, match="Make room there, and run again"):
        load_on_box2(parts, variant, fill)
    there = steps[-1].done
    assert 0 < there < variant.model.bytes
    assert [machine.arriving for machine in parts.pool.memory().machines] == [()]
    small_disk("2g")
    load_on_box2(parts, variant, again.append)
    assert (again[0].done, again[-1].done) == (there, variant.model.bytes)


def test_file_when_changed_on_one_machine_then_it_is_not_used_and_copied_again(
    parts: Parts, copies: Path, tmp_path: Path
) -> None:
    variant, steps = padded(parts, tmp_path, MODEL.stat().st_size + 256), list[protocol.Step]()
    load_on_box2(parts, variant, steps.append)
    n_once = len(steps)
    load_on_box2(parts, variant, steps.append)
    assert len(steps) == n_once > 0  # it is there
    [copy] = copies.glob("*/padded.gguf")
    copy.write_bytes(bytes(variant.model.bytes))
    load_on_box2(parts, variant, steps.append)
    assert len(steps) == 2 * n_once
    assert copy.read_bytes() == Path(variant.model.path).read_bytes()


def test_copies_when_they_would_take_more_than_allowed_then_one_in_use_stays_and_one_that_nobody_uses_goes(
    parts: Parts, copies: Path, tmp_path: Path
) -> None:
    """The agents may keep 60 MB (conftest.py)."""
    a, b, c = (padded(parts, tmp_path, n * 10**6, name) for n, name in ((21, "a"), (22, "b"), (23, "c")))

    def there() -> list[str]:
        return sorted(path.stem for path in copies.glob("*/[abc].gguf"))

    spec = language_spec(a.model, LONG)
    for role in (WorkerRole.LANGUAGE, WorkerRole.VISION):
        parts.pool.unload(role)
    load_on_box2(parts, b, lambda step: None)
    with parts.pool.turn([spec], where=[(BOX2,)]) as slot, slot.lease(spec):
        os.utime(next(copies.glob("*/a.gguf")).with_name("used"), (100, 100))
        with parts.pool.at((BOX2,)).lease(language_spec(c.model, LONG)):
            assert there() == ["a", "c"]
    box2 = next(machine for machine in parts.pool.memory().machines if machine.name == "box2")
    assert 44_000_000 <= (box2.copies_bytes or 0) <= (box2.most_copies_bytes or 0) == 60_000_000
    with pytest.raises(NoRoom, match="Unload models there, or allow more"):
        load_on_box2(parts, b, lambda step: None)
    parts.pool.unload(WorkerRole.LANGUAGE)
    load_on_box2(parts, b, lambda step: None)
    assert "b" in there()
