"""The agent of one machine: a Ray actor that runs workers as its child processes, and reports its sensors.

It forwards requests, and what the workers answer. A worker ends when the agent's process does (its pipe closes), and
when no page has asked for the sensors for 5 s.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, TypeVar

import playground
from playground.cluster.copies import Copies
from playground.cluster.messages import Description, Fault, Located, SensorReadings, Versions, WantedFile
from playground.cluster.shared_embeddings import References, put_back
from playground.engine import protocol
from playground.errors import EngineError, NotAllowed, PlaygroundError
from playground.models.checksums import Checksums
from playground.models.hub.address import hub_cache
from playground.models.hub.client import Hub
from playground.models.hub.listing import RemoteFile
from playground.models.presets import data_folder
from playground.pool.budgets import host_budget
from playground.pool.local_workers import LocalWorkers
from playground.pool.process import WorkerProcess
from playground.pool.sensors import LocalSensors
from playground.pool.turn_order import Places
from playground.settings import Settings
from playground.support.processor import machine_name
from playground.values.memory import WorkerState

logger = logging.getLogger(__name__)

UNHEARD_S = 5.0
_NEWS_S = 0.2
_AT_ONCE = 128  # calls that block; far more than workers fit on a machine
_T = TypeVar("_T")


def versions() -> Versions:
    return Versions(playground.__version__, importlib.metadata.version("llama-cpp-python"))


class Outbox:
    """A Dialogue (contract.py): what the page sends while a request is served, in the order in which it sent it.

    Ray does not keep the order of an actor's calls: it may come before the request.
    """

    def __init__(self, request: int) -> None:
        """`request`: its number."""
        self.request = request
        self.cancelled = Event()
        self.say: Callable[[protocol.Reply], None] | None = None  # None: the request is not served
        self._come: SimpleQueue[tuple[int, protocol.Message]] = SimpleQueue()
        self._early: dict[int, protocol.Message] = {}
        self._next = 0

    def put(self, number: int, message: protocol.Message) -> None:
        self._come.put((number, message))

    def to_send(self) -> Sequence[protocol.Message]:
        ready: list[protocol.Message] = []
        try:
            while True:
                number, message = self._come.get_nowait()
                self._early[number] = message
        except Empty:
            pass
        while self._next in self._early:
            ready.append(self._early.pop(self._next))
            self._next += 1
        return ready

    def received(self, reply: protocol.SequenceReply) -> None:
        assert self.say is not None
        self.say(reply)


class Agent:
    """Owns the workers that it started. Ray calls its methods in one event loop."""

    def __init__(self) -> None:
        settings = Settings.read()
        self._settings = settings
        self._sensors = LocalSensors(settings.cuda_visible_devices)
        self._start_worker = LocalWorkers(self._sensors.gpus(), settings.worker_silence_s)
        self._threads = ThreadPoolExecutor(_AT_ONCE)
        self._workers: dict[int, WorkerProcess] = {}
        self._changing = Lock()  # of the workers: the watch has a thread of its own
        self._outboxes: dict[int, Outbox] = {}  # of the newest request, by process id
        self._scratch = Path(tempfile.mkdtemp(prefix="playground-agent-"))
        own = [data_folder() / "tiny-vlm", *settings.model_dirs]
        checksums = Checksums(settings.cache_dir / "checksums")
        self._copies = Copies(settings.cache_dir / "copies", own, hub_cache(), checksums, settings.copies_bytes)
        self._hub = Hub(own_token=True)
        self._downloads: dict[str, Event] = {}  # set: stop it; by the page's name for it
        self._heard_at = time.monotonic()
        Thread(target=self._watch, name="page watch", daemon=True).start()

    async def describe(self) -> Description:
        limit = self._settings.memory_budget_bytes
        budget = host_budget(limit, self._sensors.host())
        return Description(versions(), machine_name(), budget, str(self._scratch), self._settings.copies_bytes)

    async def read_sensors(self) -> SensorReadings:
        self._heard_at = time.monotonic()
        return await self._in_thread(self._read)

    # --- workers -------------------------------------------------------------------------------------------------

    async def start(self, name: str, places: Places) -> int:
        """The process id of a worker that has been started, and is not ready yet."""
        worker = await self._in_thread(lambda: self._start_worker(name, places))
        self._outboxes.pop(worker.pid, None)  # of an earlier process that had this id
        with self._changing:
            self._workers[worker.pid] = worker
        return worker.pid

    async def wait_ready(self, pid: int) -> protocol.Ready | Fault:
        return await self._in_thread(lambda: self._or_fault(pid, lambda worker: worker.wait_ready()))

    async def ping(self, pid: int) -> protocol.Pong | None:
        worker = self._workers.get(pid)
        return None if worker is None else await self._in_thread(worker.ping)

    async def request(
        self, pid: int, number: int, request: bytes, references: References
    ) -> AsyncIterator[Sequence[bytes | Fault]]:
        """What the worker says, as it comes; the last is the final reply, or a Fault. `number`: of the request.

        Messages are encoded as for the worker's pipe: drifts of an answer of 60 tokens take 0.2 ms, pickles of them 4.
        """
        whole: Any = await put_back(protocol.as_request(request), references)
        if loaded := _models(whole):
            await self._in_thread(lambda: self._copies.hold(pid, loaded))
        loop, replies = asyncio.get_running_loop(), asyncio.Queue[tuple[bytes | Fault, bool]]()

        def say(reply: protocol.Message | Fault, is_last: bool = False) -> None:
            sent = reply if isinstance(reply, Fault) else protocol.encoded(reply)
            loop.call_soon_threadsafe(replies.put_nowait, (sent, is_last))

        outbox = self._outbox(pid, number) or Outbox(number)  # of no worker: it says so
        outbox.say = say

        def ask(worker: WorkerProcess) -> protocol.Message:
            reply: protocol.Message = worker.request(
                whole, on_chunk=say, on_step=say, dialogue=outbox, stop=outbox.cancelled.is_set
            )
            return reply

        self._threads.submit(lambda: say(self._or_fault(pid, ask), True))
        ended = False
        while not ended:
            first = await replies.get()
            batch = [first, *(replies.get_nowait() for _ in range(replies.qsize()))]
            ended = batch[-1][1]
            if ended:
                outbox.say = None
            yield [reply for reply, _ in batch]

    async def tell(self, pid: int, number: int, place: int, message: bytes, references: References) -> None:
        """For a request. `place`: counts the calls for it, from 0."""
        whole = await put_back(protocol.as_request(message), references)
        if (outbox := self._outbox(pid, number)) is None:
            return
        outbox.put(place, whole)
        if outbox.say is not None and (worker := self._workers.get(pid)) is not None:
            worker.wake()

    async def cancel(self, pid: int, number: int) -> None:
        if (outbox := self._outbox(pid, number)) is not None:
            outbox.cancelled.set()

    def _outbox(self, pid: int, number: int) -> Outbox | None:
        """Of a request, which may not have come yet. None: a newer one has come, or its worker has ended."""
        if pid not in self._workers:
            return None
        newest = self._outboxes.get(pid)
        if newest is None or newest.request < number:
            newest = self._outboxes[pid] = Outbox(number)
        return newest if newest.request == number else None

    async def stop(self, pid: int) -> None:
        with self._changing:
            worker = self._workers.pop(pid, None)
        self._outboxes.pop(pid, None)
        if worker is not None:
            await self._in_thread(worker.stop)
        with self._changing:
            left = tuple(self._workers)
        await self._in_thread(lambda: self._copies.keep_only(left))

    # --- files ---------------------------------------------------------------------------------------------------

    async def locate(self, file: WantedFile) -> Located:
        return await self._in_thread(lambda: self._copies.locate(file))

    async def append(self, file: WantedFile, offset: int, piece: bytes) -> int | Fault:
        return await self._in_thread(lambda: _fault_of(lambda: self._copies.append(file, offset, piece)))

    async def finish(self, file: WantedFile) -> str | Fault:
        return await self._in_thread(lambda: _fault_of(lambda: self._copies.finish(file)))

    async def together(self, shards: Sequence[str]) -> str:
        return await self._in_thread(lambda: self._copies.together(shards))

    async def download(self, name: str, file: WantedFile) -> AsyncIterator[int | str | Fault]:
        """From the Hub into its cache: how many bytes are there, a few times a second; at last the path, or a Fault.

        `name`: of this download, for `stop_download`, which may come first: Ray does not keep the order of calls.
        """
        assert file.origin is not None
        repo, commit = file.origin
        stopped = self._downloads.setdefault(name, Event())
        wanted, done = RemoteFile(file.name, file.bytes, file.sha256), [0]

        def fetch() -> str:
            path = self._hub.fetch(
                repo, commit, wanted, None, on_bytes=lambda n: done.__setitem__(0, n), stop=stopped.is_set
            )
            return self._copies.checked(path, file)

        fetching = asyncio.ensure_future(self._in_thread(lambda: _fault_of(fetch)))
        while not (await asyncio.wait([fetching], timeout=_NEWS_S))[0]:
            yield done[0]
        del self._downloads[name]
        yield fetching.result()

    async def stop_download(self, name: str) -> None:
        self._downloads.setdefault(name, Event()).set()

    async def write(self, path: str, piece: bytes) -> None:
        self._check(path)

        def write() -> None:
            with open(path, "ab") as file:
                file.write(piece)

        await self._in_thread(write)

    async def read(self, path: str, offset: int, n_bytes: int) -> bytes:
        self._check(path)

        def read() -> bytes:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(n_bytes)

        return await self._in_thread(read)

    async def delete(self, path: str) -> None:
        self._check(path)
        Path(path).unlink(missing_ok=True)

    # --- inside --------------------------------------------------------------------------------------------------

    def _check(self, path: str) -> None:
        """Raises NotAllowed for what is no file of the folder that requests write and read."""
        if Path(path).parent != self._scratch or Path(path).name == "..":
            raise NotAllowed(f"{path[:200]} is not a file that a page has here.")

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _or_fault(self, pid: int, call: Callable[[WorkerProcess], _T]) -> _T | Fault:
        worker = self._workers.get(pid)
        if worker is None:
            return Fault("WorkerDied", "The worker was ended. Run again to start it anew.", (), WorkerState.STOPPED)
        return _fault_of(lambda: call(worker), worker)

    def _read(self) -> SensorReadings:
        with self._changing:
            live = [worker.pid for worker in self._workers.values() if worker.alive or worker.state == "starting"]
        self._copies.keep_only(live)
        return SensorReadings(
            self._sensors.gpus(),
            self._sensors.gpu_processes(),
            self._sensors.host(),
            {pid: self._sensors.process(pid) for pid in live},
            self._copies.bytes,
        )

    def _watch(self) -> None:
        """End all workers when no page asks any more: its machine may be cut off."""
        while True:
            time.sleep(0.5)
            if time.monotonic() - self._heard_at > UNHEARD_S:
                with self._changing:
                    workers, self._workers = tuple(self._workers.values()), {}
                for stopped in tuple(self._downloads.values()):
                    stopped.set()
                for worker in workers:
                    logger.warning("no page has been heard for %.0f s: %s is ended", UNHEARD_S, worker.name)
                    worker.kill()
                self._copies.keep_only(())


def _models(request: protocol.Request[protocol.Message]) -> list[str]:
    """The files that a worker keeps open from this request on."""
    match request:
        case protocol.LoadLanguage():
            return [request.model]
        case protocol.LoadVision():
            return [request.projector, request.model]
        case _:
            return []


def _fault_of(call: Callable[[], _T], worker: WorkerProcess | None = None) -> _T | Fault:
    try:
        return call()
    except PlaygroundError as error:
        log = error.log if isinstance(error, EngineError) else ()
        state = worker.state if worker is not None else WorkerState.READY
        return Fault(type(error).__name__, error.message, log, state)
