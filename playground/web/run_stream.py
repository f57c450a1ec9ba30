"""Runs a cell: the news that pages get, and what the library keeps of the run. No Gradio here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread

import msgspec

from playground.comparing.compare import StopFlag
from playground.errors import BadInput, Interrupted, PlaygroundError
from playground.measuring.results import Progress
from playground.notebooks.cells import APP_ENDED, CellQuestions, CompareCell, Run, RunState, settled
from playground.notebooks.library import Library, Unfinished
from playground.notebooks.run_cell import against_pack, continues, go_on, measure_cell, new_run, run_cell
from playground.rendering import cell_view, measurement_view
from playground.values.files import Variant
from playground.web import demo, made_files
from playground.web.job_limits import JobLimits
from playground.web.live_runs import BranchJob, RunJob
from playground.web.notebook_view import NotebookView
from playground.web.prometheus import RunMetrics
from playground.web.replies import RunUpdate
from playground.wiring import Parts

_PROGRESS_S = 0.2  # a measurement's steps may be milliseconds


class RunStream:
    """Safe to use from several threads: each run has a RunRecord of its own."""

    def __init__(
        self, parts: Parts, view: NotebookView, deriving: Thread, metrics: RunMetrics, long_jobs: JobLimits
    ) -> None:
        """`deriving`: the thread that makes the presets' quantized variants. `long_jobs`: measurements are of them."""
        self._parts = parts
        self._view = view
        self._deriving = deriving
        self._metrics = metrics
        self._long_jobs = long_jobs

    def stream(self, job: RunJob) -> Iterator[RunUpdate]:
        """Run a cell. The last update has `ended`. Raises nothing that is meant for people: an update says it."""
        record = RunRecord(self._parts.library, job.notebook, job.stop)
        try:
            while self._deriving.is_alive() and not job.stop.wanted():
                making = cell_view.notice("Making the quantized variants of the embedded model ...")
                yield RunUpdate(cell=job.cell, outputs=making)
                self._deriving.join(0.5)
            yield from self._run(record, job)
            yield self._ended(record, job.cell)
        except Interrupted:
            record.stop()
            yield self._ended(record, job.cell)
        except PlaygroundError as error:
            begun = record.stop()
            update = self._ended(record, job.cell) if begun else RunUpdate(cell=job.cell, ended=True)
            yield msgspec.structs.replace(update, error=error.message)
        finally:
            job.stop.run()
            record.stop()

    def _run(self, record: RunRecord, job: RunJob) -> Iterator[RunUpdate]:
        own_parts = self._parts.of(job.person)
        library = self._parts.library
        notebook = library.own(job.notebook)
        if job.resumes is not None:
            yield from self._resume(record, job, library.run(notebook, job.cell, job.resumes.run), own_parts)
            return
        if job.branch is not None:
            yield from self._go_on(record, job, job.branch, own_parts)
            return
        cell = library.cell(notebook, job.cell)
        if not isinstance(cell, CompareCell):
            raise BadInput("A note cannot be run.")
        cell = self._parts.limited_cell(cell)
        variants = self._view.variants_of(cell)
        last = library.newest_run(notebook, job.cell)
        run = new_run(cell, variants, self._parts.engine, self._parts.machine)
        if cell.questions is not None:
            with self._long_jobs.held(job.person):
                yield from self._measure(record, run, variants, cell.questions, own_parts, job)
            return
        if last is not None and continues(last, run):
            run = msgspec.structs.replace(last, cell=cell)
        updates = run_cell(
            run,
            variants,
            library.files(notebook).image,
            own_parts.lab,
            job.stop,
            max_panes=self._parts.settings.max_panes,
            explain=self._parts.explain,
            before=None if run.number else last,
        )
        yield from self._compare(record, self._metrics.ran(updates))

    def _compare(self, record: RunRecord, updates: Iterator[Run]) -> Iterator[RunUpdate]:
        run = record.begin(next(updates))  # raises what can be said without loading anything
        yield self._whole(record, run)
        files = self._parts.library.files(self._parts.library.own(record.key))
        ended_panes = _ended_panes(run)
        for update in updates:
            n_results = len(run.results)
            run = record.keep(update)
            if _ended_panes(run) > ended_panes:  # what a kill -9 must not take
                ended_panes = _ended_panes(run)
                record.save()
            if len(run.results) > n_results:
                yield self._whole(record, run)
            elif run.state is RunState.RUNNING:
                at = len(run.results) - 1
                html = cell_view.block(run, at, files.thumbnail)
                yield RunUpdate(cell=run.cell.id, block=f"{run.number}.{at}", html=html)
        record.save()

    def _go_on(self, record: RunRecord, job: RunJob, branch: BranchJob, own_parts: Parts) -> Iterator[RunUpdate]:
        """An answer of a kept run goes on with another token. The page shows that run."""
        files = self._parts.library.files(self._parts.library.own(record.key))
        run = self._parts.library.run(self._parts.library.own(record.key), job.cell, branch.run)
        if run is None:
            raise BadInput("This run cannot be read. Run the cell again.")
        limited_cell = self._parts.limited_cell(run.cell)
        pairs = tuple(id for id in limited_cell.variants if branch.point.variant.startswith(id))
        variants = self._view.variants_of(msgspec.structs.replace(limited_cell, variants=pairs))
        cell = self._view.compare_cell(self._parts.library.own(record.key), job.cell)
        record.begin(run)
        yield self._whole(record, run)
        limited = msgspec.structs.replace(run, cell=limited_cell)
        for update in go_on(limited, branch.index, branch.point, variants, files.image, own_parts.lab, job.stop):
            run = record.put(msgspec.structs.replace(update, cell=run.cell))
            html = cell_view.block(run, branch.index, files.thumbnail, cell=cell)
            yield RunUpdate(cell=job.cell, block=f"{run.number}.{branch.index}", html=html)
        record.save()

    def _resume(self, record: RunRecord, job: RunJob, run: Run | None, own_parts: Parts) -> Iterator[RunUpdate]:
        """Go on with a measurement that the end of the app interrupted. What was measured is in the caches."""
        questions = run.cell.questions if run is not None else None
        if run is None or questions is None or run.state is not RunState.INTERRUPTED:
            self._parts.library.drop_unfinished(job.notebook, job.cell)
            return
        variants = self._view.variants_of(run.cell)
        parts = self._parts
        run = msgspec.structs.replace(
            run, state=RunState.RUNNING, reason="", engine=parts.engine, machine=parts.machine
        )
        with self._long_jobs.held(job.person):
            record.begin(run)
            record.save()
            yield from self._measure(record, run, variants, questions, own_parts, job)

    def _measure(
        self,
        record: RunRecord,
        run: Run,
        variants: Sequence[Variant],
        questions: CellQuestions,
        own_parts: Parts,
        job: RunJob,
    ) -> Iterator[RunUpdate]:
        own_parts.pool.check_busy()
        pack = None
        if questions.pack:
            demo.refuse(self._parts.settings, "Reference packs are not used here")
            pack = self._view.pack(self._parts.library.own(record.key), questions)
            run = against_pack(run, pack, variants)
        run = record.begin(run)
        with self._unfinished(job, run.number):
            limits = questions.limits
            if questions.sensitivity:
                demo.refuse(self._parts.settings, "Which tensors matter is not looked for here")
                if limits.max_bytes is not None or limits.max_kl is not None:  # a recipe's files
                    made_files.check_room(self._parts, next(v.bytes for v in variants if v.id == run.reference))
            question_set = self._view.question_set(self._parts.library.own(record.key), questions)
            updates = measure_cell(run, variants, question_set, own_parts.lab, self._parts.workshop, job.stop, pack)
            shown_at = 0.0
            for update in self._metrics.measured(updates):
                if not isinstance(update, Progress):  # the run with what it has so far
                    made_files.keep_recipe(self._parts, update)
                    if job.resumes is not None:  # how long the earlier process took is unknown
                        update = msgspec.structs.replace(update, elapsed_s=None)
                    record.keep(update)
                    record.save()
                elif time.monotonic() - shown_at > _PROGRESS_S:
                    shown_at = time.monotonic()
                    yield RunUpdate(cell=run.cell.id, outputs=measurement_view.progress(update), runs=run.number)

    @contextmanager
    def _unfinished(self, job: RunJob, number: int) -> Iterator[None]:
        """Remembers a measurement, so that the next start goes on with it if the app ends meanwhile."""
        times = 0 if job.resumes is None else job.resumes.times + 1
        self._parts.library.put_unfinished(Unfinished(job.notebook, job.cell, number, times))
        try:
            yield
        finally:
            if job.stop.reason != APP_ENDED:
                self._parts.library.drop_unfinished(job.notebook, job.cell)

    def _whole(self, record: RunRecord, run: Run) -> RunUpdate:
        infos = self._parts.library.runs(self._parts.library.own(record.key), run.cell.id)
        n_runs = max((info.number for info in infos), default=run.number)
        return RunUpdate(cell=run.cell.id, outputs=self._view.run_html(record.key, run), runs=n_runs)

    def _ended(self, record: RunRecord, cell_id: str) -> RunUpdate:
        if record.run is None:
            return RunUpdate(cell=cell_id, ended=True)
        whole = self._whole(record, record.run)
        return msgspec.structs.replace(whole, problem=self._parts.library.problem, ended=True)


class RunRecord:
    """Owns the newest state of a run that goes on, and its copy in the library."""

    def __init__(self, library: Library, key: str, stop: StopFlag) -> None:
        self.key = key
        self._library = library
        self._stop = stop
        self.run: Run | None = None  # None until it has begun

    def begin(self, run: Run) -> Run:
        """A run that has a number goes on where it ended; any other gets one."""
        self.run = run if run.number else self._library.begin_run(self.key, run)
        return self.run

    def keep(self, run: Run) -> Run:
        """Not yet on disk: see `save`."""
        assert self.run is not None
        run = msgspec.structs.replace(run, number=self.run.number)
        self.run = self._stopped(run) if run.state is RunState.STOPPED else run
        return self.run

    def put(self, run: Run) -> Run:
        """Something was added to a run that has ended, whichever end that was. Not yet on disk."""
        self.run = run
        return run

    def save(self) -> None:
        assert self.run is not None
        self._library.save_run(self.key, self.run)

    def stop(self) -> bool:
        """Save the run as stopped, if it has begun and not ended. False: there was nothing to stop."""
        if self.run is None or self.run.state is not RunState.RUNNING:
            return False
        self.run = self._stopped(self.run)
        self.save()
        return True

    def _stopped(self, run: Run) -> Run:
        reason = self._stop.reason
        return settled(run, RunState.INTERRUPTED if reason == APP_ENDED else RunState.STOPPED, reason)


def _ended_panes(run: Run) -> int:
    return sum(pane.state.ended for result in run.results for pane in result.update.panes)
