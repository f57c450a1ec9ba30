"""The main job: one prompt about one image, answered by several variants, side by side.

`run` is a plain iterator over what the panes look like; the page, the command line and the API only render it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from threading import Event, Thread
from typing import Protocol

from playground.comparing import answer_form, metrics, prompts
from playground.comparing.comparison_request import check
from playground.comparing.lab import Lab
from playground.comparing.loops import loop_of
from playground.comparing.panes import Panes
from playground.comparing.shared_batch import SharedBatch
from playground.comparing.shared_turns import SharedTurns, Sharing
from playground.endpoints.client import EndpointAnswer
from playground.endpoints.wire import EndpointQuestion, not_sent
from playground.engine import protocol
from playground.errors import BadInput, EngineError, Failure, Interrupted, PlaygroundError, Unavailable
from playground.pool.engine_choices import kind_of, with_defaults
from playground.pool.handles import Stop
from playground.pool.leasing import Slot
from playground.pool.pool import Pool
from playground.pool.queue import Ticket
from playground.pool.worker_spec import WorkerSpec, language_spec, vision_spec
from playground.values.answer import ComparisonUpdate, PaneState, TokenScore
from playground.values.engine_defaults import EngineDefaults
from playground.values.files import Variant
from playground.values.memory import WorkerRole, machine_of
from playground.values.reasoning import Written
from playground.values.request import Comparison, Image, Order, Runtime

logger = logging.getLogger(__name__)

# How often an update is made while tokens come, and the longest silence: Gradio can close a generator only between
# two yields. An update carries all that was written, so long answers are shown more seldom: at 100,000 characters
# every 0.3 s. `python -m bench notebook` prints what this takes.
_UPDATE_S = 0.1
_UPDATE_S_PER_CHARACTER = 2e-6
_HEARTBEAT_S = 0.25

_THINKING = (
    "The chat template reads enable_thinking. This run leaves it unset, as transformers does; llama.cpp's server sets "
    "it to true. Set it as a template variable to choose."
)

_STILL_REASONING = "The model was still reasoning when it ended: there is no answer."
_LIMIT_REASONING = "Raise max_tokens, or limit the reasoning with reasoning_tokens."
_NEEDS_FLASH_ATTENTION = (
    "Quantized values of the key-value cache need flash attention, so it is on. Without them it is on only where this "
    "machine was measured to be faster with it."
)
_MEASURING = "measuring once what suits this kind of model here"

_LOADING = {WorkerRole.VISION: "projector", WorkerRole.LANGUAGE: "language model"}


class StopFlag:
    """Lets a person stop one pane or the whole run, from any thread."""

    def __init__(self) -> None:
        self.reason = ""  # why the whole run was stopped: the first one that was given
        self._all = Event()
        self._panes: set[str] = set()

    def run(self, reason: str = "") -> None:
        if not self._all.is_set():
            self.reason = reason
        self._all.set()

    def pane(self, variant: str) -> None:
        self._panes.add(variant)

    def wanted(self, variant: str | None = None) -> bool:
        return self._all.is_set() or variant in self._panes


def run(
    comparison: Comparison, lab: Lab, stop: StopFlag, *, max_panes: int = 16, turns: SharedTurns | None = None
) -> Iterator[ComparisonUpdate]:
    """Run a comparison. Yields at once, then whenever something changed, and at least every 0.25 s.

    Raises BadInput, and Busy when too many wait, before anything is loaded. An error in a pane is shown in that
    pane. Closing the iterator stops the run.

    `turns`: the one variant may answer in a batch with others, untimed; there a run is not refused, but waits.
    """
    check(comparison, max_panes)
    answer_form.check(lab.pool, comparison.sampling)
    panes = Panes(comparison)
    here = [v for v in comparison.variants if not v.endpoint]
    wanted = [_specs(v, comparison.runtime.of(v), comparison.images) for v in here]
    specs = [spec for specs in wanted for spec in specs]
    turn: _Turn | None = None
    if turns is None:
        turn = partial(_alone, lab.pool, lab.pool.line_up(specs)) if here else None
    else:
        (variant,) = comparison.variants
        goes_alone = comparison.begun or comparison.cold
        runtime = lab.pool.choices.settled(variant.model, comparison.runtime.of(variant))
        alike = None if goes_alone else Sharing(variant.model, runtime)
        turn = partial(turns.turn, lab.pool, specs, alike)
    thread = Thread(target=_ComparisonRun(comparison, lab, stop, panes, turn).execute, daemon=True)
    thread.start()
    try:
        yield panes.update()
        while not panes.ended.is_set():
            if panes.changed.wait(_HEARTBEAT_S):
                panes.urgent.wait(_UPDATE_S + _UPDATE_S_PER_CHARACTER * panes.characters)  # more may come in a moment
            panes.urgent.clear()
            panes.changed.clear()
            yield panes.update()
        yield panes.update(done=True)
    finally:
        if thread.is_alive():
            stop.run()


class _Turn(Protocol):
    def __call__(
        self, *, stop: Stop, on_place: Callable[[int], None]
    ) -> AbstractContextManager[tuple[Slot, SharedBatch | None]]: ...


@contextmanager
def _alone(
    pool: Pool, ticket: Ticket, *, stop: Stop, on_place: Callable[[int], None]
) -> Iterator[tuple[Slot, SharedBatch | None]]:
    with pool.turn(ticket, stop=stop, on_place=on_place) as slot:
        yield slot, None


class _ComparisonRun:
    """Executes one comparison in a thread of its own (with Order.RACE, one more for each pane)."""

    def __init__(
        self,
        comparison: Comparison,
        lab: Lab,
        stop: StopFlag,
        panes: Panes,
        turn: _Turn | None,
    ) -> None:
        """`turn`: None if all variants answer elsewhere."""
        self._turn = turn
        self._endpoints = lab.endpoints
        self._comparison = comparison
        self._pool = lab.pool
        self._embeddings = lab.embeddings
        self._stop = stop
        self._panes = panes
        self._prompts: dict[tuple[str | None, ...], protocol.EncodedPrompt | Failure | Unavailable] = {}
        self._load_s: dict[WorkerSpec, float | None] = {}
        self._slot: Slot  # from when it is this run's
        self._runtimes: dict[str, Runtime] = {}  # by variant: what fits into memory
        self._defaults: dict[str, EngineDefaults | None] = {}  # by variant: what was measured to suit this machine

    def execute(self) -> None:
        try:
            self._execute()
        finally:
            self._panes.end()

    def _execute(self) -> None:
        """What answers elsewhere is asked at once, beside those that need a turn here."""
        elsewhere = [v for v in self._comparison.variants if v.endpoint]
        with ThreadPoolExecutor(len(elsewhere) or 1) as threads:
            for variant in elsewhere:
                threads.submit(self._guarded, variant, self._ask_elsewhere)
            if self._turn is not None:
                self._answer_here(self._turn)

    def _answer_here(self, turn: _Turn) -> None:
        variants = self._in_order()
        try:
            with turn(stop=self._stop.wanted, on_place=self._panes.place) as (self._slot, batch):
                if batch is not None:
                    self._runtimes |= {v.id: self._comparison.runtime.of(v) for v in variants}
                    self._keep_choices(variants)
                    for variant in variants:
                        self._guarded(variant, self._encode)
                        self._guarded(variant, partial(self._write_with_others, batch))
                    return
                for variant in variants:
                    self._runtimes[variant.id] = self._fitting(variant)
                self._settle(variants)
                self._keep_choices(variants)
                self._load_all(variants)
                if self._comparison.order is Order.RACE:
                    for variant in variants:
                        self._guarded(variant, self._encode)
                    with ThreadPoolExecutor(len(variants)) as threads:
                        list(threads.map(lambda v: self._guarded(v, self._write), variants))
                else:
                    for variant in variants:
                        self._guarded(variant, self._encode)
                        self._guarded(variant, self._write)
                if self._comparison.probabilities:
                    for variant in variants:
                        self._score(variant)
        except PlaygroundError as error:  # while it waited for its turn
            self._fail_all(error)
        except Exception as error:  # nobody else hears of it: this is a thread's end
            logger.exception("a comparison")
            self._fail_all(EngineError(f"Unexpected: {type(error).__name__}. The app's log has more."))

    # --- the steps, in their order ---

    def _fitting(self, variant: Variant) -> Runtime:
        """The requested runtime, or if that does not fit into memory, the changes to it that the person allows."""
        wanted = self._comparison.runtime.of(variant)
        allowed = self._comparison.remedies
        fitting = self._slot.fitting(lambda runtime: _specs(variant, runtime, self._comparison.images), wanted, allowed)
        changes = []
        if fitting.n_ctx != wanted.n_ctx:
            changes.append(f"with a context of {fitting.context} tokens")
        if fitting.projector_on_gpu != wanted.projector_on_gpu:
            changes.append("with its projector on the CPU")
        if fitting.n_gpu_layers != wanted.n_gpu_layers:
            changes.append(f"with {fitting.n_gpu_layers} layers on the GPU")
        if changes:
            what = " and ".join(changes)
            self._panes.note(f"Not enough memory: {variant.label} runs {what}, so its speed is not comparable.")
        return fitting

    def _settle(self, variants: Sequence[Variant]) -> None:
        """At the first use of a kind of model, measure what suits it on this machine; all panes then use it."""
        for variant in {kind_of(v.model): v for v in reversed(variants)}.values():
            spec = language_spec(variant.model, self._runtimes[variant.id])
            if not self._pool.choices.is_missing(spec):
                continue
            self._panes.set(variant.id, state=PaneState.LOADING, note=_MEASURING)
            with suppress(PlaygroundError):  # it comes again when the model is asked
                load_s = self._pool.settle(self._slot, spec, stop=self._wanted(variant))
                if load_s is not None:
                    self._load_s[spec] = load_s

    def _settled(self, variant: Variant) -> Runtime:
        """How its language model computes."""
        return with_defaults(self._runtimes[variant.id], self._defaults[variant.id])

    def _keep_choices(self, variants: Sequence[Variant]) -> None:
        """For the whole run: another one may measure the machine meanwhile, and all panes compute in the same way."""
        self._defaults = {v.id: self._pool.choices.of(v.model, self._runtimes[v.id]) for v in variants}

    def _language(self, variant: Variant) -> WorkerSpec:
        """The worker of the language model, with a context that holds the question, unless its size was chosen.

        Where the usual size does not fit into memory, it is just as large as the question needs.
        """
        runtime = self._settled(variant)
        tokens = self._prompt(variant).n_tokens + self._comparison.sampling.max_tokens
        spec = language_spec(variant.model, runtime.sized(tokens))
        if runtime.n_ctx is None and not self._slot.fits([spec]):
            self._runtimes[variant.id] = replace(self._runtimes[variant.id], n_ctx=tokens)
            spec = language_spec(variant.model, self._settled(variant))
        return spec

    def _load_all(self, variants: Sequence[Variant]) -> None:
        """On a GPU, load what is not loaded yet side by side, before anything is measured.

        Else each is loaded when its turn comes: models that warm up at once on a CPU fight for its cores (six took
        10 s instead of 4), and a budget that cannot hold them all would unload the first for the last.
        """
        if not self._pool.on_gpu:
            return
        specs: dict[WorkerSpec, Variant] = {}
        for variant in variants:
            for spec in _specs(variant, self._runtimes[variant.id], self._comparison.images):
                specs.setdefault(spec, variant)
        if not self._slot.fits(specs):
            return

        def load(spec: WorkerSpec) -> None:
            variant = specs[spec]
            is_projector = spec.role is WorkerRole.VISION
            self._panes.set(variant.id, state=PaneState.LOADING, note=_LOADING[spec.role])
            try:
                with self._slot.lease(spec, stop=self._wanted(variant), on_step=self._arriving(variant)) as lease:
                    self._load_s[spec] = lease.load_s
            except PlaygroundError as error:
                if is_projector and isinstance(error, Failure | Unavailable):
                    self._prompts[self._prompt_key(variant)] = error
                else:
                    self._fail(variant, error)
            else:
                if not is_projector:
                    self._panes.set(variant.id, state=PaneState.QUEUED, note="loaded")

        with ThreadPoolExecutor(min(len(specs), os.cpu_count() or 1)) as threads:
            list(threads.map(load, specs))

    def _arriving(self, variant: Variant) -> Callable[[protocol.Step], None]:
        """A note in the pane while its file is copied to another machine."""

        def on_step(step: protocol.Step) -> None:
            self._panes.set(variant.id, note=f"{step.tensor}: {100 * step.done // max(1, step.total)} %")

        return on_step

    def _encode(self, variant: Variant) -> None:
        """Have the prompt encoded, once for all variants that share it, and note what this pane waited for."""
        key = self._prompt_key(variant)
        paid = key not in self._prompts
        cached = False
        if paid:
            try:
                self._prompts[key], cached = self._encode_prompt(variant)
            except (Failure, Unavailable) as error:
                self._prompts[key] = error
        prompt = self._prompt(variant)
        self._panes.rendered(prompt.rendered)
        if "enable_thinking" in set(prompt.template_names) - set(self._comparison.template_variables):
            self._panes.note(_THINKING)
        self._panes.set(
            variant.id,
            metrics=metrics.of_prompt(self._panes[variant.id].metrics, prompt, cached=cached, paid=paid),
            remarks=self._remarks(variant, prompt),
        )

    def _encode_prompt(self, variant: Variant) -> tuple[protocol.EncodedPrompt, bool]:
        comparison = self._comparison
        messages = self._messages(variant)
        self._panes.set(variant.id, state=PaneState.LOADING, note=_LOADING[WorkerRole.VISION])
        spec = vision_spec(variant.projector, variant.model, self._runtimes[variant.id], comparison.images)
        with self._slot.lease(spec, stop=self._wanted(variant), on_step=self._arriving(variant)) as lease:
            self._panes.set(
                variant.id,
                state=PaneState.READING,
                note=None,
                metrics=replace(self._panes[variant.id].metrics, projector_load_s=self._load_s.get(spec, lease.load_s)),
            )
            template = comparison.chat_template or variant.chat_template
            encoded = prompts.encode(
                lease,
                self._embeddings,
                variant,
                self._runtimes[variant.id],
                messages,
                comparison.images,
                self._wanted(variant),
                template,
                comparison.template_variables,
                fresh=comparison.cold,
            )
        if self._embeddings.problem:
            self._panes.note(self._embeddings.problem)
        return encoded

    def _write(self, variant: Variant) -> None:
        comparison = self._comparison
        prompt = self._prompt(variant)
        self._panes.set(variant.id, state=PaneState.LOADING, note=_LOADING[WorkerRole.LANGUAGE])
        spec = self._language(variant)
        runtime = self._settled(variant)
        with self._slot.lease(spec, stop=self._wanted(variant), on_step=self._arriving(variant)) as lease:
            sizes = replace(
                self._panes[variant.id].metrics,
                load_s=self._load_s.get(spec, lease.load_s),
                model_bytes=variant.model.bytes,
                projector_bytes=variant.projector.bytes,
                speed_shared=comparison.order is Order.RACE and len(comparison.variants) > 1,
            )
            self._panes.set(variant.id, state=PaneState.READING, note=None, metrics=sizes)
            finished = lease.request(
                protocol.Generate(
                    prompt,
                    comparison.sampling,
                    runtime,
                    comparison.begun.get(variant.id, ()),
                    cold=comparison.cold,
                ),
                on_chunk=partial(self._take, variant),
                stop=self._wanted(variant),
            )
            rss, gpu = self._pool.worker_bytes(lease.pid)
        numbers = metrics.of_generation(self._panes[variant.id].metrics, finished)
        read = metrics.read_bytes_per_token(
            variant.model.shape, numbers.prompt_tokens, numbers.generated_tokens, runtime.cache_share
        )
        remarks = [*self._panes[variant.id].remarks]
        if machine := machine_of(lease.places[0]):
            remarks.append(f"Answered on {machine}: compare speeds with answers of this machine alone.")
        remarks += self._remarks_on_answer(variant, finished)
        # With layers on both sides, or spread over GPUs, no single memory explains the speed.
        one_memory = len(lease.places) == 1 and runtime.n_gpu_layers in (-1, 0)
        copied = self._pool.bandwidth(lease.places[0]) if one_memory else None
        share = metrics.bandwidth_share(read, numbers.decode_tok_per_s, copied)
        self._panes.set(
            variant.id,
            state=PaneState.STOPPED if finished.reason == "stopped" else PaneState.DONE,
            metrics=replace(
                numbers, host_rss_bytes=rss, gpu_bytes=gpu, read_bytes_per_token=read, bandwidth_share=share
            ),
            finish_reason=finished.reason,
            remarks=tuple(remarks),
            raw=finished.raw,
            engine=finished.settings,
        )

    def _write_with_others(self, batch: SharedBatch, variant: Variant) -> None:
        """In a batch with other runs. Without times: the others share them."""
        self._panes.set(variant.id, state=PaneState.READING, note=None)
        ended = batch.answer(
            self._prompt(variant),
            self._comparison.sampling,
            partial(self._take, variant),
            self._wanted(variant),
            self._comparison.n_candidates if self._comparison.probabilities else None,
        )
        finished = protocol.Finished(
            ended.reason,
            None,
            None,
            None,
            None,
            ended.generated_tokens,
            ended.reused_tokens,
            reasoning_tokens=ended.reasoning_tokens,
            in_reasoning=ended.in_reasoning,
        )
        self._panes.set(
            variant.id,
            state=PaneState.STOPPED if ended.reason == "stopped" else PaneState.DONE,
            metrics=metrics.of_generation(self._panes[variant.id].metrics, finished),
            finish_reason=ended.reason,
            scores=ended.scores,
            remarks=(*self._panes[variant.id].remarks, *self._remarks_on_answer(variant, finished)),
        )

    def _take(self, variant: Variant, chunk: protocol.Chunk) -> None:
        pane = self._panes[variant.id]
        written = Written(pane.reasoning, pane.text).then(chunk.written)
        fields: dict[str, object] = {
            "reasoning": written.reasoning,
            "text": written.answer,
            "token_ids": pane.token_ids + chunk.token_ids,
        }
        if chunk.controls:
            fields["controls"] = tuple(dict.fromkeys(pane.controls + chunk.controls))
            fields["control_ids"] = tuple(dict.fromkeys(pane.control_ids + chunk.control_ids))
        if pane.state is not PaneState.WRITING:
            fields["state"] = PaneState.WRITING
        self._panes.set(variant.id, **fields)

    def _score(self, variant: Variant) -> None:
        """Add the probabilities to an answer that is done. Behind all of them: it costs none of them time."""
        if self._panes[variant.id].state is not PaneState.DONE:
            return
        prompt = self._prompt(variant)
        self._panes.set(variant.id, note="reading probabilities")
        scores: tuple[TokenScore, ...] = ()
        try:
            with self._slot.lease(self._language(variant), stop=self._wanted(variant)) as lease:
                ids, n = self._panes[variant.id].token_ids, self._comparison.n_candidates
                request = protocol.Score(prompt, ids, self._settled(variant), n)
                scored = lease.request(request, stop=self._wanted(variant))
            scores = scored.scores
        except Interrupted:
            pass  # the answer is there; it only has no probabilities
        except PlaygroundError as error:
            self._panes.note(f"The probabilities of {variant.label} could not be read: {error.message}")
        self._panes.set(variant.id, scores=scores, note=None)

    def _ask_elsewhere(self, variant: Variant) -> None:
        comparison = self._comparison
        question = EndpointQuestion(
            conversation=prompts.spoken(self._messages(variant)),
            images=comparison.images,
            sampling=comparison.sampling,
            template_variables=comparison.template_variables,
            n_candidates=comparison.n_candidates if comparison.probabilities else None,
        )
        remarks = [f"{name} is not asked for elsewhere." for name in not_sent(comparison.sampling)]
        if comparison.chat_template:
            remarks.append("Elsewhere the server's own chat template is used.")
        self._panes.set(variant.id, state=PaneState.READING, remarks=tuple(remarks))

        def show(answer: EndpointAnswer) -> None:
            fields = {"text": answer.text, "reasoning": answer.reasoning, "elsewhere": answer.elsewhere}
            if self._panes[variant.id].state is not PaneState.WRITING:
                fields["state"] = PaneState.WRITING
            self._panes.set(variant.id, **fields)

        answer = self._endpoints.ask(
            variant.endpoint, question, who=self._pool.who, stop=self._wanted(variant), on_text=show
        )
        self._panes.set(
            variant.id,
            state=PaneState.DONE,
            text=answer.text,
            reasoning=answer.reasoning,
            elsewhere=answer.elsewhere,
            scores=answer.scores,
            finish_reason=answer.finish_reason,
            remarks=(*remarks, *answer.remarks),
        )

    # --- what a pane has ---

    def _in_order(self) -> list[Variant]:
        """The variants of this machine, the reference first: the others can then show from the first token on where
        they part from it."""
        here = (v for v in self._comparison.variants if not v.endpoint)
        return sorted(here, key=lambda v: v.id != self._comparison.reference)

    def _messages(self, variant: Variant) -> tuple[protocol.ChatMessage, ...]:
        """The conversation as this variant knows it. The images are of its first question."""
        comparison = self._comparison
        if comparison.conversation:
            return tuple(
                protocol.ChatMessage(message.role, message.text, len(message.places), message.places)
                for message in comparison.conversation
            )
        messages = []
        for turn in comparison.earlier:
            answer = turn.answers.get(variant.id)
            if answer is None:
                raise BadInput("There is no answer to the question before this one to go on from. Run the cell again.")
            messages += [protocol.ChatMessage("user", turn.prompt), protocol.ChatMessage("assistant", answer)]
        messages.append(protocol.ChatMessage("user", comparison.prompt))
        messages[0] = prompts.question(messages[0].text, len(comparison.images), comparison.image_place)
        return prompts.with_system(messages, comparison.system)

    def _remarks(self, variant: Variant, prompt: protocol.EncodedPrompt) -> tuple[str, ...]:
        """What there is to know about how this variant was asked."""
        remarks = prompt.warnings
        runtime = self._runtimes[variant.id]
        if runtime.needs_flash_attention and not runtime.flash_attention and not self._pool.on_gpu:
            remarks += (_NEEDS_FLASH_ATTENTION,)
        return remarks

    def _remarks_on_answer(self, variant: Variant, finished: protocol.Finished) -> list[str]:
        remarks = []
        if loop := loop_of(self._panes[variant.id].token_ids):
            remarks.append(f"{loop} A presence penalty or the DRY sampler may prevent it.")
        if finished.in_reasoning:
            is_cut_off = finished.reason == "max tokens"
            remarks.append(f"{_STILL_REASONING} {_LIMIT_REASONING}" if is_cut_off else _STILL_REASONING)
        return remarks

    def _prompt_key(self, variant: Variant) -> tuple[str | None, ...]:
        """Variants with equal keys share one encoded prompt."""
        answers = [turn.answers.get(variant.id) for turn in self._comparison.earlier]
        tokens = str(self._comparison.runtime.of(variant).image_tokens)
        vocabulary = str(variant.model.vocabulary_sha256)
        return (variant.projector.sha256, tokens, vocabulary, variant.chat_template or "", *answers)

    def _prompt(self, variant: Variant) -> protocol.EncodedPrompt:
        """The encoded prompt. Raises the error that stopped it from being encoded."""
        prompt = self._prompts[self._prompt_key(variant)]
        if not isinstance(prompt, protocol.EncodedPrompt):
            raise prompt
        return prompt

    def _wanted(self, variant: Variant) -> Callable[[], bool]:
        return lambda: self._stop.wanted(variant.id)

    # --- how a pane ends ---

    def _guarded(self, variant: Variant, step: Callable[[Variant], None]) -> None:
        """Run a step of a pane; whatever goes wrong ends this pane only."""
        if self._panes[variant.id].state.ended:
            return
        try:
            if self._stop.wanted(variant.id):
                raise Interrupted("Interrupted before it began.")
            step(variant)
        except PlaygroundError as error:
            self._fail(variant, error)
        except Exception as error:  # a pane must end in a stated state, whatever happened
            logger.exception("%s", variant.id)
            self._fail(variant, EngineError(f"Unexpected: {type(error).__name__}. The app's log has more."))

    def _fail(self, variant: Variant, error: PlaygroundError) -> None:
        if isinstance(error, Interrupted):
            self._panes.set(variant.id, state=PaneState.STOPPED, note=None, finish_reason="stopped")
            return
        log = error.log[-12:] if isinstance(error, EngineError) else ()
        self._panes.set(
            variant.id, state=PaneState.FAILED, error=error.message, error_code=error.code, log=log, note=None
        )

    def _fail_all(self, error: PlaygroundError) -> None:
        for variant in self._in_order():
            if not self._panes[variant.id].state.ended:
                self._fail(variant, error)


def _specs(variant: Variant, runtime: Runtime, images: Sequence[Image]) -> tuple[WorkerSpec, WorkerSpec]:
    return vision_spec(variant.projector, variant.model, runtime, images), language_spec(variant.model, runtime)
