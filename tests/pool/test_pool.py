"""The pool with real workers on the CPU. Two GPUs come in through Pool.open (testkit/fake_machine.py)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from playground.engine import protocol
from playground.errors import (
    BadInput,
    BadModel,
    Busy,
    EngineError,
    Interrupted,
    OutOfMemory,
    PlaygroundError,
    WorkerDied,
)
from playground.models.gguf.header import read_header
from playground.models.gguf.model_shape import shape
from playground.pool import measured_bandwidth, memory_watch
from playground.pool.budgets import PoolLimits
from playground.pool.contract import Worker
from playground.pool.handles import Handle
from playground.pool.pool import Pool
from playground.pool.worker_spec import WorkerSpec, language_spec, vision_spec
from playground.values.files import ModelFile
from playground.values.memory import HOST, GpuMemory, WorkerRole, WorkerState
from playground.values.request import Remedy, Runtime
from testkit import pairs
from testkit.fake_machine import FakeMachine
from testkit.processes import children_of
from testkit.waiting import until

MIB, GIB = 2**20, 2**30
ON_HOST = Runtime(n_ctx=512, n_gpu_layers=0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> pairs.PairFiles:
    """One pair; its language model under five names, which the pool takes for five models."""
    files = pairs.write_llava(tmp_path_factory.mktemp("pool"))
    for name in "abcde":
        os.link(files.model, files.model.with_name(f"{name}.gguf"))
    return files


def model_file(path: Path) -> ModelFile:
    return ModelFile(str(path), path.stat().st_size, path.name, "F16", 1, "llama", "vv", shape([read_header(path)]))


@pytest.fixture(scope="module")
def specs(pair: pairs.PairFiles) -> dict[str, WorkerSpec]:
    return {n: language_spec(model_file(pair.model.with_name(f"{n}.gguf")), ON_HOST) for n in "abcde"}


@pytest.fixture(scope="module")
def one(specs: dict[str, WorkerSpec]) -> int:
    """Bytes that one of these workers takes on this machine."""
    pool = Pool.open()
    with pool.lease(specs["a"]):
        pass
    taken = pool.handles.all()[0].bytes[HOST]
    pool.close()
    return taken


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Pool]]:
    with ExitStack() as stack:

        def open_pool(machine: FakeMachine | None = None, **limits: float) -> Pool:
            pool = Pool.open(
                PoolLimits(**limits),  # type: ignore[arg-type]
                sensors=machine,
                start_worker=machine.start_worker if machine else None,
                forecasts=tmp_path / "forecasts",
                engine="e",
            )
            stack.callback(pool.close)
            return pool

        yield open_pool


@pytest.fixture
def for_two(opened: Callable[..., Pool], one: int) -> Pool:
    """A pool whose budget holds two of the five models."""
    return opened(host_bytes=int(2.6 * one))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


def load(pool: Pool, *specs: WorkerSpec) -> None:
    for spec in specs:
        with pool.lease(spec):
            pass


def loaded(pool: Pool) -> str:
    return " ".join(Path(w.file).stem for w in pool.memory().workers)


def pids(pool: Pool) -> dict[str, int]:
    return {Path(w.file).stem: w.pid for w in pool.memory().workers}


def path_of(spec: WorkerSpec) -> str:
    assert spec.load is not None
    return spec.load.model


def worker_of(handle: Handle) -> Worker:
    assert handle.worker is not None
    return handle.worker


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    # A zombie whose other threads are still ending counts as alive.
    with contextlib.suppress(ChildProcessError):  # the pool was quicker
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def assert_settled(pool: Pool) -> None:
    """Nothing is leased, leaving, moving or queued, and the books agree with the processes that there are."""
    handles = pool.handles.all()
    assert [h for h in handles if h.leased or h.leaving] == []
    assert pool.watch.at_rest is not None
    assert pool.queue.queued() == ()
    assert set(children_of(os.getpid(), "playground.engine.worker")) == {
        h.worker.pid for h in handles if h.worker is not None and h.usable
    }


# --- what gives way, and what does not ------------------------------------------------------------------------


@pytest.mark.parametrize("flaw", ["truncated", "unknown architecture"])
def test_load_when_the_file_is_bad_then_what_would_have_given_way_stays(
    for_two: Pool, specs: dict[str, WorkerSpec], pair: pairs.PairFiles, tmp_path: Path, flaw: str
) -> None:
    load(for_two, specs["a"], specs["b"])
    before = pids(for_two)
    bad = tmp_path / "bad.gguf"
    if flaw == "truncated":
        pairs.truncate(pair.model, bad, 0.7)
    else:
        bad.write_bytes(pair.model.read_bytes().replace(b"llama", b"lxama"))
    spec = language_spec(replace(model_file(pair.model), path=str(bad), sha256="bad"), ON_HOST)
    with pytest.raises((BadModel, EngineError)), for_two.lease(spec):
        pass
    assert_settled(for_two)
    assert pids(for_two) == before
    with for_two.lease(specs["b"]) as lease:
        assert lease.load_s is None
    load(for_two, specs["c"])  # as large, and good
    assert loaded(for_two) == "b c"


def test_lease_when_the_context_is_larger_then_another_gives_way_and_not_itself(
    for_two: Pool, specs: dict[str, WorkerSpec], one: int
) -> None:
    load(for_two, specs["a"], specs["b"])
    before = pids(for_two)
    assert specs["a"].shape is not None
    per_token = specs["a"].shape.kv_bytes_per_token
    assert per_token is not None
    larger = replace(ON_HOST, n_ctx=int(0.8 * one) // per_token)
    with for_two.lease(replace(specs["a"], runtime=larger)) as lease:  # the one that was unused for longest
        assert lease.load_s is None
        assert lease.handle.bytes[HOST] > 1.5 * one
        assert pids(for_two) == {"a": before["a"]}
    with for_two.lease(specs["a"]) as lease:  # smaller again: nothing more is needed
        assert lease.load_s is None


def test_pin_when_room_is_needed_then_it_stays_until_it_is_let_go(for_two: Pool, specs: dict[str, WorkerSpec]) -> None:
    load(for_two, specs["a"], specs["b"])
    ids = {w.file: w.id for w in for_two.memory().workers}
    for_two.pin(ids["a.gguf"], True)
    load(for_two, specs["c"])
    assert loaded(for_two) == "a c"
    assert [w.pinned for w in for_two.memory().workers] == [True, False]
    for_two.pin(for_two.memory().workers[1].id, True)
    with pytest.raises(OutOfMemory, match=r"Unpin a\.gguf, c\.gguf: 0\.\d GiB"), for_two.lease(specs["b"]):
        pass
    for_two.pin(ids["a.gguf"], False)
    load(for_two, specs["b"])
    assert loaded(for_two) == "c b"


def test_pinned_worker_when_it_died_then_its_room_is_free(for_two: Pool, specs: dict[str, WorkerSpec]) -> None:
    load(for_two, specs["a"], specs["b"])
    for worker in for_two.memory().workers:
        for_two.pin(worker.id, True)
        kill(worker.pid)
    load(for_two, specs["c"])
    assert loaded(for_two) == "c"


def test_unload_when_leased_then_refused_and_later_done(
    opened: Callable[..., Pool], specs: dict[str, WorkerSpec]
) -> None:
    pool = opened()
    with pool.lease(specs["a"]) as lease:
        with pytest.raises(BadInput, match="being used"):
            pool.unload_id(lease.handle.id)
        pool.unload(WorkerRole.LANGUAGE)
        assert lease.request(protocol.Ping()) == protocol.Pong()
    pool.unload_id(lease.handle.id)
    assert_settled(pool)
    assert pool.memory().workers == ()


def test_lease_when_it_can_never_fit_then_said_at_once_though_others_are_leased(
    for_two: Pool, specs: dict[str, WorkerSpec], one: int
) -> None:
    huge = replace(specs["b"], bytes=9 * one, shape=None)
    with for_two.lease(specs["a"]):
        with pytest.raises(OutOfMemory, match=r"b\.gguf needs about"), for_two.lease(huge):
            pass
        assert loaded(for_two) == "a"


def test_lease_when_all_room_is_leased_then_it_waits_for_it(
    for_two: Pool, specs: dict[str, WorkerSpec], threads: ThreadPoolExecutor
) -> None:
    with for_two.lease(specs["a"]):
        with for_two.lease(specs["b"]):
            waiting = threads.submit(load, for_two, specs["c"])
            stopped = threads.submit(lambda: for_two.lease(specs["d"], stop=lambda: True).__enter__())
            with pytest.raises(Interrupted):
                stopped.result(60)
            assert not waiting.done()
        waiting.result(60)
        assert loaded(for_two) == "a c"


def test_failed_load_when_somebody_counted_on_the_room_then_the_budget_is_kept(
    opened: Callable[..., Pool], specs: dict[str, WorkerSpec], one: int, threads: ThreadPoolExecutor
) -> None:
    """While a was giving way to one that then failed, c was given the rest of its room."""
    going, go_on = threading.Event(), threading.Event()

    def block(file: str) -> None:
        if file == "b.gguf":
            going.set()
            go_on.wait(60)

    large = FakeMachine(
        n_gpus=0, resident_of=lambda file: int(2 * one) if file == "a.gguf" else None, before_start=block
    )
    pool = opened(large, host_bytes=int(2.6 * one))
    load(pool, specs["c"])  # its size is known from now on
    pool.unload(specs["c"])
    load(pool, replace(specs["a"], shape=None))  # nothing is learned from it: only itself is that large
    first = pool.handles.all()[0]
    failing = replace(specs["b"], load=protocol.LoadLanguage("/none.gguf", ON_HOST), shape=None, bytes=int(0.3 * one))
    failed = threads.submit(load, pool, failing)
    until(going.is_set)
    assert first.leaving
    beside = threads.submit(load, pool, specs["c"])
    until(lambda: len(pool.handles.all()) == 3)
    go_on.set()
    with pytest.raises(PlaygroundError):
        failed.result(60)
    beside.result(60)
    assert loaded(pool) == "c"
    assert_settled(pool)


# --- turns ----------------------------------------------------------------------------------------------------


class Run:
    """A run that waits for its turn and then keeps it until `finish`."""

    def __init__(self, pool: Pool, threads: ThreadPoolExecutor, names: list[str], name: str = "") -> None:
        self.places: list[int] = []
        self.end = threading.Event()
        self.name = name or pool.who
        n = len(pool.queue.queued())
        self.future: Future[None] = threads.submit(self._run, pool, names)
        until(lambda: self.future.done() or len(pool.queue.queued()) > n)

    def _run(self, pool: Pool, names: list[str]) -> None:
        with pool.turn(on_place=self.places.append):
            names.append(self.name)
            assert self.end.wait(60)

    def finish(self) -> None:
        self.end.set()
        self.future.result(60)


def test_turn_when_too_many_wait_then_busy_in_words(opened: Callable[..., Pool], threads: ThreadPoolExecutor) -> None:
    pool = opened(waiting=3, waiting_per_person=2)
    anna, bert, cleo = (pool.of(who) for who in ("anna", "bert", "cleo"))
    began: list[str] = []
    runs = [Run(anna, threads, began, str(n)) for n in range(3)]
    with pytest.raises(Busy, match="2 of your runs wait already"), anna.turn(anna.line_up(())):
        pass
    runs.append(Run(bert, threads, began, "bert"))
    with pytest.raises(Busy, match="3 runs wait already"), cleo.turn(cleo.line_up(())):
        pass
    for run in runs:
        run.end.set()
    for run in runs:
        run.future.result(60)
    with cleo.turn(cleo.line_up(())):
        pass
    assert_settled(pool)


def test_queue_when_runs_wait_then_the_running_one_is_first_and_places_are_told(
    opened: Callable[..., Pool], threads: ThreadPoolExecutor
) -> None:
    pool, began = opened(), list[str]()
    runs = [Run(pool.of(who), threads, began) for who in ("anna", "bert", "cleo")]
    queue = pool.memory().queue
    assert [(run.who, run.place) for run in queue] == [("anna", HOST), ("bert", None), ("cleo", None)]
    assert queue[1].waited_s >= queue[2].waited_s > 0
    runs[0].finish()
    until(lambda: [run.places for run in runs] == [[0], [1, 0], [2, 1]])
    runs[1].finish()
    until(lambda: runs[2].places == [2, 1, 0])
    runs[2].finish()
    assert began == ["anna", "bert", "cleo"]


def test_turn_when_a_person_has_had_much_then_a_newcomer_goes_first(
    opened: Callable[..., Pool], threads: ThreadPoolExecutor
) -> None:
    pool, began = opened(), list[str]()
    anna = pool.of("anna")
    first, second = Run(anna, threads, began), Run(anna, threads, began)
    newcomer = Run(pool.of("bert"), threads, began)
    time.sleep(0.4)  # more than what the second has waited longer
    for run in (first, newcomer, second):
        run.finish()
    assert began == ["anna", "bert", "anna"]


def test_turn_when_stopped_or_closed_while_it_waits_then_stopped(
    opened: Callable[..., Pool], threads: ThreadPoolExecutor
) -> None:
    pool, began = opened(), list[str]()
    running = Run(pool, threads, began, "running")
    with pytest.raises(Interrupted, match="waited for its turn"), pool.turn(stop=lambda: True):
        pass
    waiting = Run(pool, threads, began, "waiting")
    pool.close()
    with pytest.raises(Interrupted, match="closing"):
        waiting.future.result(60)
    running.finish()
    assert pool.queue.queued() == ()


def test_turn_when_who_is_told_raises_then_the_queue_goes_on(opened: Callable[..., Pool]) -> None:
    pool = opened()

    def fail(place: int) -> None:
        raise RuntimeError("the page has gone")

    with pytest.raises(RuntimeError), pool.turn(on_place=fail):
        pass
    with pool.turn(stop=lambda: True):
        pass
    assert pool.queue.queued() == ()


# --- what is learned ------------------------------------------------------------------------------------------


def test_forecast_when_loaded_again_then_it_was_measured_before(
    opened: Callable[..., Pool], specs: dict[str, WorkerSpec]
) -> None:
    pool = opened()
    with pool.of("anna").lease(specs["a"]):
        worker = pool.memory().workers[0]  # as the monitor looks, every second
        assert worker.leases == 1
        assert worker.forecast is not None
        assert worker.forecast.source == "dry run"
    peak = pool.memory().workers[0].peak_bytes
    assert peak
    pool.unload(specs["a"])
    load(pool, specs["a"])
    again = pool.memory().workers[0].forecast
    assert again is not None
    assert again.source == "measured before"
    assert again.bytes[HOST] == pytest.approx(peak, rel=0.02)


def test_bandwidth_when_measured_then_kept_and_no_worker_is_left(opened: Callable[..., Pool]) -> None:
    pool = opened()
    assert pool.bandwidth(HOST) is None
    measured_bandwidth.measure_missing(pool)
    bandwidth = pool.bandwidth(HOST)
    assert bandwidth is not None
    assert bandwidth > 1e8
    assert pool.memory().workers == ()
    measured_bandwidth.measure_missing(pool)
    assert pool.bandwidth(HOST) == bandwidth
    assert pool.bandwidth("GPU 0") is None


@pytest.mark.parametrize("fault", ["no room", "killed"])
def test_bandwidth_when_it_cannot_be_measured_then_unknown_and_the_pool_goes_on(
    opened: Callable[..., Pool], threads: ThreadPoolExecutor, fault: str
) -> None:
    pool = opened(host_bytes=100 * MIB if fault == "no room" else GIB)
    measured = threads.submit(measured_bandwidth.measure_missing, pool)
    if fault == "killed":
        until(lambda: any(h.worker is not None for h in pool.handles.all()))
        kill(worker_of(pool.handles.all()[0]).pid)
    measured.result(60)
    assert pool.bandwidth(HOST) is None
    assert_settled(pool)


# --- faults ---------------------------------------------------------------------------------------------------


def test_worker_when_killed_while_leased_then_said_and_another_is_loaded(
    opened: Callable[..., Pool], specs: dict[str, WorkerSpec]
) -> None:
    pool = opened()

    def use() -> None:
        with pool.lease(specs["a"]) as lease:
            kill(lease.pid)
            lease.request(protocol.Ping())

    with pytest.raises(WorkerDied, match="SIGKILL"):
        use()
    assert_settled(pool)
    assert pool.memory().workers == ()
    load(pool, specs["a"])
    kill(pool.memory().workers[0].pid)  # and while it is idle
    with pool.lease(specs["a"]) as lease:
        assert lease.load_s is not None
    assert_settled(pool)


@pytest.mark.parametrize("at", ["starting", "planning", "loading"])
def test_worker_when_killed_before_it_is_loaded_then_said_and_nothing_was_lost(
    for_two: Pool, specs: dict[str, WorkerSpec], threads: ThreadPoolExecutor, at: str
) -> None:
    if at == "loading":  # its plan is known
        load(for_two, specs["c"])
        for_two.unload(specs["c"])
    load(for_two, specs["a"], specs["b"])
    before = pids(for_two)
    state = WorkerState.STARTING if at == "starting" else WorkerState.BUSY

    def is_there() -> bool:
        last = for_two.handles.all()[-1]
        return last.spec == specs["c"] and last.worker is not None and last.worker.state is state

    loading = threads.submit(load, for_two, specs["c"])
    until(is_there)
    os.kill(worker_of(for_two.handles.all()[-1]).pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        loading.result(60)
    assert_settled(for_two)
    assert pids(for_two) == ({"b": before["b"]} if at == "loading" else before)
    load(for_two, specs["c"])


def test_disk_when_it_fails_while_something_is_learned_then_the_worker_is_given_back(
    opened: Callable[..., Pool], specs: dict[str, WorkerSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = opened()

    def fail(*_: object) -> None:
        raise RuntimeError("no disk")

    monkeypatch.setattr(pool.forecasts, "measured", fail)
    with pytest.raises(RuntimeError), pool.lease(specs["a"]):
        pass
    assert_settled(pool)


@pytest.mark.parametrize("when", ["before the worker is started", "while it starts", "while it is used"])
def test_close_when_somebody_loads_or_waits_then_all_end_and_no_worker_is_left(
    opened: Callable[..., Pool], specs: dict[str, WorkerSpec], threads: ThreadPoolExecutor, when: str
) -> None:
    going, go_on, using = threading.Event(), threading.Event(), threading.Event()

    def block(file: str) -> None:
        going.set()
        if when == "before the worker is started":
            go_on.wait(60)

    pool = opened(FakeMachine(n_gpus=0, before_start=block))

    def use(spec: WorkerSpec) -> None:
        with pool.lease(spec) as lease:
            using.set()
            while True:
                lease.request(protocol.Ping())

    first, second = threads.submit(use, specs["a"]), threads.submit(use, specs["a"])
    if when == "before the worker is started":
        until(going.is_set)
    else:
        until(lambda: any(h.worker is not None for h in pool.handles.all()))
        if when == "while it is used":
            until(using.is_set)
    pool.close()
    go_on.set()
    for future in (first, second):
        with pytest.raises(PlaygroundError):
            future.result(60)
    assert_settled(pool)
    with pytest.raises(Interrupted), pool.lease(specs["a"]):
        pass


def test_lease_when_two_want_the_same_then_it_is_loaded_once(
    opened: Callable[..., Pool], specs: dict[str, WorkerSpec], threads: ThreadPoolExecutor
) -> None:
    pool = opened()

    def take(_: int) -> float | None:
        with pool.lease(specs["a"]) as lease:
            return lease.load_s

    loads = list(threads.map(take, range(2)))
    assert sorted(load_s is None for load_s in loads) == [False, True]
    assert len(pool.memory().workers) == 1


@pytest.mark.timeout(170)
def test_pool_when_eight_threads_want_five_models_where_two_fit_and_workers_are_killed_then_all_is_told(
    for_two: Pool, specs: dict[str, WorkerSpec], threads: ThreadPoolExecutor
) -> None:
    draw, ended, finished = random.Random(5), threading.Event(), threading.Semaphore(0)
    left = [specs[name] for name in draw.choices("abcde", [4, 3, 1, 1, 1], k=40)]

    def client(number: int) -> list[str]:
        outcomes: list[str] = []
        pool = for_two.of(f"person {number}")
        borrow = pool.use if number % 2 else pool.lease
        while True:
            try:
                spec = left.pop()
            except IndexError:
                return outcomes
            try:
                with borrow(spec) as lease:
                    lease.request(protocol.Ping())
                outcomes.append("done")
            except WorkerDied as error:
                outcomes.append(error.message)
            finished.release()

    def killer() -> int:
        """After every fourth outcome, so that no speed of the machine decides how often."""
        killed, chance = 0, random.Random(6)
        while True:
            for _ in range(4):
                finished.acquire()
            if ended.is_set():
                return killed
            alive = [h.worker.pid for h in for_two.handles.all() if h.worker is not None]
            if alive:
                try:
                    os.kill(chance.choice(alive), signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass

    killing = threads.submit(killer)
    outcomes = [word for words in threads.map(client, range(8)) for word in words]
    ended.set()
    finished.release(4)
    killed = killing.result()
    assert len(outcomes) == 40
    assert killed >= 5
    assert outcomes.count("done") > 0
    assert len(outcomes) - outcomes.count("done") <= killed
    held = sum(h.bytes[HOST] for h in for_two.handles.all())
    assert held <= for_two.memory().budgets[HOST]
    load(for_two, *specs.values())  # whoever was killed last is noticed
    assert_settled(for_two)


# --- two GPUs that this machine need not have -----------------------------------------------------------------


OnGpus = tuple[Pool, FakeMachine, dict[str, WorkerSpec]]


@pytest.fixture
def on_gpus(opened: Callable[..., Pool], specs: dict[str, WorkerSpec]) -> OnGpus:
    machine = FakeMachine(n_gpus=2)
    everywhere = Runtime(n_ctx=512)
    specs_of = {
        n: replace(s, key=(n,), runtime=everywhere, load=protocol.LoadLanguage(path_of(s), everywhere))
        for n, s in specs.items()
    }
    return opened(machine, host_bytes=64 * GIB), machine, specs_of


def visible(pid: int) -> str | None:
    variables = dict(v.split("=", 1) for v in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in v)
    return variables.get("CUDA_VISIBLE_DEVICES")


def test_place_when_there_are_two_gpus_then_the_freer_one_and_a_worker_sees_no_other(on_gpus: OnGpus) -> None:
    pool, gpus, specs = on_gpus
    gpus.others = {"GPU 0": 300 * MIB, "GPU 1": 0}
    assert pool.memory().budgets == {HOST: 64 * GIB, "GPU 0": 1236 * MIB, "GPU 1": 1536 * MIB}
    load(pool, specs["a"], specs["b"])
    cpu = replace(specs["c"], runtime=ON_HOST, load=protocol.LoadLanguage(path_of(specs["c"]), ON_HOST))
    load(pool, cpu)
    workers = {Path(w.file).stem: (w.place, visible(w.pid), w.measured_by) for w in pool.memory().workers}
    assert workers == {
        "a": ("GPU 1", "GPU-bb", "process"),
        "b": ("GPU 0", "GPU-aa", "process"),
        "c": (HOST, "", None),
    }
    assert pool.memory().budgets["GPU 0"] == 1236 * MIB  # what the pool itself holds is no other program's


def test_turns_when_there_are_two_gpus_then_two_at_once_and_not_three(on_gpus: OnGpus) -> None:
    pool, _, specs = on_gpus
    with pool.turn() as first:
        with pool.turn() as second:
            assert {first.places, second.places} == {("GPU 0",), ("GPU 1",)}
            with pytest.raises(Interrupted), pool.turn(stop=lambda: True):
                pass
            cpu = replace(specs["a"], runtime=ON_HOST)
            with pool.turn([cpu], stop=lambda: True) as third:
                assert third.places == (HOST,)
        split = replace(specs["a"], runtime=replace(specs["a"].runtime, split_gpus=True))
        with pytest.raises(Interrupted), pool.turn([split], stop=lambda: True):
            pass
    with pool.turn([split]) as both, both.lease(split) as lease:
        assert both.places == lease.places == ("GPU 0", "GPU 1")
        assert visible(lease.pid) == "GPU-aa,GPU-bb"
        worker = pool.memory().workers[0]
        assert (worker.place, worker.bytes) == ("GPU 0 + GPU 1", 1300 * MIB)


def test_lease_when_in_a_turn_then_on_its_gpu_and_evicts_there_alone(on_gpus: OnGpus) -> None:
    pool, _, specs = on_gpus
    with pool.turn(where=[("GPU 0",)]) as slot:
        for name in "ab":
            with slot.lease(specs[name]):
                pass
    with pool.turn(where=[("GPU 1",)]) as slot, slot.lease(specs["c"]):
        pass
    with pool.turn(where=[("GPU 0",)]) as slot, slot.lease(specs["d"]) as lease:
        assert lease.places == ("GPU 0",)
    assert loaded(pool) == "b c d"
    assert pool.memory().alarms == ()


def test_memory_when_it_does_not_come_back_then_an_alarm_and_a_dead_worker_raises_none(
    on_gpus: OnGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, gpus, specs = on_gpus
    monkeypatch.setattr(memory_watch, "_BACK_S", 0.2)
    load(pool, specs["a"])
    place = pool.memory().workers[0].place
    kill(pool.memory().workers[0].pid)
    pool.unload(specs["a"])
    assert pool.memory().alarms == ()
    load(pool, specs["a"])
    place = pool.memory().workers[0].place
    gpus.leaks = True
    pool.unload(specs["a"])
    (alarm,) = pool.memory().alarms
    assert "a.gguf was unloaded: 0.5 GiB on" in alarm
    assert place in alarm
    assert_settled(pool)


def test_memory_when_a_worker_held_less_at_the_end_than_before_then_no_alarm(
    on_gpus: OnGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement's context of many sequences is followed by one of a single question."""
    pool, gpus, specs = on_gpus
    monkeypatch.setattr(memory_watch, "_BACK_S", 0.2)
    load(pool, specs["a"])
    gpus.each = 100 * MIB
    pool.unload(specs["a"])
    assert pool.memory().alarms == ()


def test_memory_when_the_driver_hides_processes_then_the_difference_and_said_so(on_gpus: OnGpus) -> None:
    pool, gpus, specs = on_gpus
    gpus.hides = True
    gpus.others = {"GPU 0": 100 * MIB, "GPU 1": 100 * MIB}
    load(pool, specs["a"])
    worker = pool.memory().workers[0]
    assert (worker.gpu_bytes, worker.measured_by, worker.peak_bytes) == (650 * MIB, "difference", 650 * MIB)
    assert pool.worker_bytes(worker.pid)[1] == 650 * MIB
    assert pool.handles.all()[0].bytes[worker.place] == 650 * MIB
    assert pool.budgets.others == {"GPU 0": 100 * MIB, "GPU 1": 100 * MIB}


def test_memory_when_the_driver_stops_to_tell_then_loading_goes_on(on_gpus: OnGpus) -> None:
    pool, gpus, specs = on_gpus
    gpus.hides = gpus.broken = True
    load(pool, specs["a"])
    worker = pool.memory().workers[0]
    assert (worker.gpu_bytes, worker.measured_by) == (None, None)
    pool.unload(specs["a"])
    assert_settled(pool)


def test_others_when_read_while_a_worker_goes_then_its_memory_is_not_taken_for_theirs(
    on_gpus: OnGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, gpus, specs = on_gpus
    load(pool, specs["a"])
    read = gpus.gpus

    def read_and_go() -> tuple[GpuMemory, ...]:
        reading = read()
        monkeypatch.setattr(gpus, "gpus", read)
        pool.unload(specs["a"])
        return reading

    monkeypatch.setattr(gpus, "gpus", read_and_go)
    assert pool.memory().workers == ()
    assert pool.budgets.others == {"GPU 0": 0, "GPU 1": 0}


def test_pools_when_two_use_the_same_gpus_then_each_leaves_the_other_what_it_holds(
    on_gpus: OnGpus, opened: Callable[..., Pool]
) -> None:
    """Two pages on one machine of a cluster: the sensors of each show the workers of both."""
    pool, gpus, specs = on_gpus
    other = opened(gpus, host_bytes=64 * GIB)
    load(pool, specs["a"])
    [place] = (worker.place for worker in pool.memory().workers)
    assert other.memory().workers == ()
    assert other.budgets.others[place] == 650 * MIB
    load(other, specs["b"])
    assert pool.memory().workers[0].place == place
    assert sum(pool.budgets.others.values()) == sum(other.budgets.others.values()) == 650 * MIB
    pool.unload(specs["a"])
    other.memory()
    assert other.budgets.others[place] == 0


def test_shortage_when_nothing_helps_then_it_says_what_would(on_gpus: OnGpus) -> None:
    pool, gpus, specs = on_gpus
    gpus.others = {"GPU 0": 1900 * MIB, "GPU 1": 1400 * MIB}  # the second lacks less
    pool.memory()
    with pytest.raises(OutOfMemory) as caught, pool.lease(specs["a"]):
        pass
    message = caught.value.message
    assert "a.gguf needs about 0.6 GiB on GPU 1 (" in message
    assert "the process 0.6 GiB), the budget for all models there is 0.1 GiB." in message
    assert message.endswith('or allow a remedy ("If GPU memory is short", under "Sampling and engine").')
    assert "PLAYGROUND_GPU_BUDGET_BYTES" not in message  # it is not what binds
    gpus.others = {"GPU 0": 0, "GPU 1": 0}
    pool.memory()
    long = replace(specs["a"], runtime=Runtime(n_ctx=1_500_000))
    with pytest.raises(OutOfMemory, match=r"key-value cache 1\.4 GiB.* It would fit with a smaller context\."):
        pool.lease(long).__enter__()


def test_fits_when_another_gpu_is_full_then_it_does_not_matter(on_gpus: OnGpus) -> None:
    pool, gpus, specs = on_gpus
    gpus.others = {"GPU 0": 3 * GIB, "GPU 1": 0}
    pool.memory()
    both = replace(specs["a"], runtime=replace(specs["a"].runtime, split_gpus=True))
    with pool.turn(where=[("GPU 1",)]) as slot:
        assert slot.fits([specs["a"], specs["b"]])
        assert not slot.fits([specs["a"], specs["b"], specs["c"]])
        assert not slot.fits([both])
    with pool.turn(where=[("GPU 0", "GPU 1")]) as slot:
        assert slot.fits([specs["a"], specs["b"]])


def test_fits_when_loaded_with_a_smaller_context_then_the_larger_one_counts(on_gpus: OnGpus) -> None:
    pool, _, specs = on_gpus
    load(pool, specs["a"])
    with pool.turn([specs["a"]]) as slot:
        assert slot.fits([specs["a"]])
        assert not slot.fits([replace(specs["a"], runtime=Runtime(n_ctx=1_500_000))])


def test_fitting_when_memory_is_short_then_the_mildest_remedy(on_gpus: OnGpus, pair: pairs.PairFiles) -> None:
    pool, _, _ = on_gpus
    model, projector = model_file(pair.model), model_file(pair.projector)

    def specs_for(runtime: Runtime) -> list[WorkerSpec]:
        return [vision_spec(projector, model, runtime), language_spec(model, runtime)]

    def remedied(runtime: Runtime, *allowed: Remedy) -> Runtime:
        with pool.turn(specs_for(runtime)) as slot:
            return slot.fitting(specs_for, runtime, allowed)

    fine, long = Runtime(n_ctx=4096), Runtime(n_ctx=640_000)
    assert remedied(fine, *Remedy) == fine
    assert remedied(long) == long  # nothing is allowed
    assert remedied(long, *Remedy) == replace(long, n_ctx=160_000)
    assert remedied(long, Remedy.PROJECTOR, Remedy.LAYERS) == replace(long, projector_on_gpu=False)
    longer = Runtime(n_ctx=1_200_000)
    assert remedied(longer, Remedy.PROJECTOR) == longer  # does not help: as it was asked for
    layers = remedied(longer, Remedy.PROJECTOR, Remedy.LAYERS)
    assert (layers.n_ctx, layers.projector_on_gpu) == (longer.n_ctx, False)
    assert 0 <= layers.n_gpu_layers <= 2
