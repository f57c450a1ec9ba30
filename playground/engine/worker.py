"""A worker: the process that owns llama.cpp objects. `python -m playground.engine.worker FD`.

The main thread serves one request at a time. A second thread reads the pipe, so that Cancel and Heartbeat get through
while llama.cpp computes, and so that the worker ends at once when the app does (EOF), however that came about.
"""

from __future__ import annotations

import os
import sys
import time
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Event, Lock, Thread

from playground.engine import grammar, loading, scoring, trials  # first: llama_cpp before numpy (see there)
from playground.engine.bandwidth import measure_bandwidth
from playground.engine.batch import Batch
from playground.engine.encoder_inputs import EncoderInputs
from playground.engine.ggml import devices
from playground.engine.importance import Importance
from playground.engine.language import LanguageModel, plan
from playground.engine.protocol import (
    Alive,
    AnyRequest,
    BatchMessage,
    Cancel,
    CheckGrammar,
    CloseBatch,
    Encode,
    Failed,
    FindTokens,
    Generate,
    GrammarChecked,
    Heartbeat,
    Join,
    JoinReading,
    Leave,
    Loaded,
    LoadLanguage,
    LoadVision,
    Measure,
    MeasureBandwidth,
    Measured,
    MeasureDefaults,
    OpenBatch,
    Ping,
    PlanMemory,
    Pong,
    Quantize,
    ReadBatch,
    Ready,
    Record,
    Recorded,
    Reply,
    Score,
    Scored,
    Tokenize,
    Tokenized,
    TokensFound,
    WriteImportance,
    receive_request,
    send,
)
from playground.engine.quantize import quantize
from playground.engine.reading import Readings
from playground.engine.vision import VisionModel
from playground.errors import PlaygroundError


class RequestServer:
    """Serves requests with the model that it loaded."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = Lock()
        self._cancelled = Event()
        self._joining: SimpleQueue[BatchMessage] = SimpleQueue()  # of the newest batch
        self._vision: VisionModel | None = None
        self._language: LanguageModel | None = None
        self._importance: Importance | None = None

    def serve(self) -> None:
        """Serve until the parent is gone; then the process ends."""
        requests: SimpleQueue[AnyRequest] = SimpleQueue()
        Thread(target=self._read, args=(requests,), daemon=True).start()
        self._send(Ready(engine=loading.start(), gpu_offload=loading.GPU_OFFLOAD, devices=devices()))
        while True:
            request = requests.get()
            try:
                self._send(self._answer(request))
            except PlaygroundError as error:
                self._send(Failed(kind=type(error).__name__, message=str(error)))
            except MemoryError:
                self._send(Failed(kind="OutOfMemory", message="The worker ran out of host memory."))

    def _read(self, requests: SimpleQueue[AnyRequest]) -> None:
        try:
            while True:
                request = receive_request(self._connection)
                if isinstance(request, Cancel):
                    self._cancelled.set()
                    self._joining.put(CloseBatch())  # wakes a batch that waits for its next prompt
                elif isinstance(request, Join | JoinReading | Leave | CloseBatch):
                    self._joining.put(request)
                elif isinstance(request, Heartbeat):
                    self._send(Alive())
                else:
                    # Cleared here, not where the request is served: a Cancel that follows must not be lost.
                    self._cancelled.clear()
                    self._joining = SimpleQueue()
                    requests.put(request)
        except (EOFError, OSError):
            os._exit(0)

    def _send(self, reply: Reply) -> None:
        try:
            with self._sending:
                send(self._connection, reply)
        except OSError:
            os._exit(0)

    @property
    def _language_model(self) -> LanguageModel:
        assert self._language is not None
        return self._language

    def _load_language(self, request: LoadLanguage) -> Loaded:
        started = time.perf_counter()
        self._importance = Importance() if request.observe else None
        self._language = LanguageModel(
            request.model, n_gpu_layers=request.runtime.n_gpu_layers, importance=self._importance
        )
        loaded = time.perf_counter()
        self._language.prepare(request.runtime, sequences=request.sequences, kv_unified=request.kv_unified)
        return Loaded(loaded - started, time.perf_counter() - loaded, self._language.n_ctx_train)

    def _load_vision(self, request: LoadVision) -> Loaded:
        started = time.perf_counter()
        self._importance = Importance() if request.observe else None
        self._vision = VisionModel(
            request.projector,
            request.model,
            use_gpu=request.use_gpu,
            n_threads=request.n_threads,
            image_tokens=(request.image_min_tokens, request.image_max_tokens),
            importance=self._importance,
            inputs=EncoderInputs() if request.keep_inputs else None,
        )
        loaded = time.perf_counter()
        if request.use_gpu and loading.GPU_OFFLOAD:
            self._vision.warm_up()
        warmup_s = time.perf_counter() - loaded
        return Loaded(loaded - started, warmup_s, self._vision.n_ctx_train, self._vision.plan)

    def _answer(self, request: AnyRequest) -> Reply:
        match request:
            case LoadLanguage():
                return self._load_language(request)
            case LoadVision():
                return self._load_vision(request)
            case Encode():
                assert self._vision is not None
                return self._vision.encode(
                    request.messages, request.images, request.chat_template, request.template_variables
                )
            case Generate():
                return self._language_model.generate(
                    request.prompt,
                    request.sampling,
                    request.runtime,
                    begun=request.begun,
                    ignore_end=request.ignore_end,
                    cold=request.cold,
                    cancelled=self._cancelled,
                    send=self._send,
                )
            case OpenBatch():
                return Batch(self._language_model, request, self._joining, self._cancelled, self._send).run()
            case ReadBatch():
                return Readings(self._language_model, request, self._joining, self._cancelled, self._send).run()
            case Score():
                return Scored(scoring.score(self._language_model, request, cancelled=self._cancelled))
            case Tokenize():
                return Tokenized(self._language_model.vocabulary.token_ids(request.text))
            case FindTokens():
                vocabulary = self._language_model.vocabulary
                return TokensFound(tuple(map(vocabulary.tokens_that_write, request.pieces)), vocabulary.n_tokens)
            case Record():
                started = time.perf_counter()
                n_vocabulary = scoring.record(self._language_model, request, cancelled=self._cancelled)
                return Recorded(n_vocabulary, time.perf_counter() - started)
            case Measure():
                started = time.perf_counter()
                drifts = scoring.measure(self._language_model, request, cancelled=self._cancelled)
                return Measured(drifts, time.perf_counter() - started)
            case WriteImportance():
                assert self._importance is not None
                return self._importance.write(request)
            case Quantize():
                return quantize(request, self._send)
            case PlanMemory():
                return plan(request.load)
            case MeasureBandwidth():
                return measure_bandwidth(request)
            case MeasureDefaults():
                return trials.measure(self._language_model, request, self._cancelled)
            case CheckGrammar():
                grammar.check(request.sampling)
                return GrammarChecked()
            case Ping():
                return Pong(devices())
            case Cancel() | Heartbeat() | Join() | JoinReading() | Leave() | CloseBatch():
                raise AssertionError("_read answers these")


def main() -> None:
    # llama.cpp and its bindings write to stdout; it goes where the parent keeps the log.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    RequestServer(Connection(int(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
