"""What the app counts, in Prometheus form: runs and their panes as they end, and what the pool holds when asked.

No label holds a person's or a file's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from playground.errors import Busy, Interrupted, PlaygroundError
from playground.notebooks.cells import Run
from playground.values.answer import ComparisonUpdate, Pane, PaneState
from playground.values.memory import MemoryReport, machine_of

_Update = TypeVar("_Update")
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
_PHASES = {"load": "load_s", "load projector": "projector_load_s", "encode": "encode_s", "prompt": "prompt_s",
           "first token": "ttft_s", "decode": "decode_s"}  # fmt: skip


class RunMetrics:
    """Owns the counters. Safe to use from several threads."""

    def __init__(self, memory: Callable[[], MemoryReport]) -> None:
        self._registry = CollectorRegistry()
        r = self._registry
        self._started = Counter("playground_runs_started", "Runs that were asked for.", ["kind"], registry=r)
        self._ended = Counter(
            "playground_runs_ended", "done, failed (a pane), stopped, refused, busy.", ["kind", "outcome"], registry=r
        )
        self._panes = Counter("playground_panes_ended", "Variants that have answered, or not.", ["state"], registry=r)
        self._tokens = Counter("playground_generated_tokens", "Tokens of all answers.", registry=r)
        self._phases = Histogram(
            "playground_phase_seconds", "Phases of a pane.", ["phase"], buckets=_SECONDS, registry=r
        )
        self._registry.register(_PoolCollector(memory))

    def text(self) -> bytes:
        """In Prometheus' text form."""
        return generate_latest(self._registry)

    def compared(self, updates: Iterator[ComparisonUpdate]) -> Iterator[ComparisonUpdate]:
        """The same updates; counts the comparison and its panes."""
        return self._counted("compare", updates, lambda update: update.panes)

    def ran(self, updates: Iterator[Run]) -> Iterator[Run]:
        """The same updates of a cell; counts the panes that they add."""
        return self._counted(
            "compare", updates, lambda run: [pane for result in run.results for pane in result.update.panes]
        )

    def measured(self, updates: Iterator[_Update]) -> Iterator[_Update]:
        """The same updates of a measurement, which has no panes."""
        return self._counted("measure", updates, lambda update: ())

    def _counted(
        self, kind: str, updates: Iterator[_Update], panes_of: Callable[[_Update], Sequence[Pane]]
    ) -> Iterator[_Update]:
        self._started.labels(kind).inc()
        outcome = "stopped"  # closed by who asked
        before: int | None = None
        panes: Sequence[Pane] = ()
        try:
            for update in updates:
                panes = panes_of(update)
                if before is None:  # a conversation that goes on brings its answered questions
                    before = sum(pane.state.ended for pane in panes)
                yield update
            states = {pane.state for pane in panes[before:]}
            failed, stopped = PaneState.FAILED in states, PaneState.STOPPED in states
            outcome = "failed" if failed else "stopped" if stopped else "done"
        except PlaygroundError as error:
            if not isinstance(error, Interrupted):
                outcome = "busy" if isinstance(error, Busy) else "refused"
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            self._ended.labels(kind, outcome).inc()
            for pane in panes[before:]:
                self._pane(pane)

    def _pane(self, pane: Pane) -> None:
        self._panes.labels((pane.state if pane.state.ended else PaneState.STOPPED).value).inc()
        self._tokens.inc(len(pane.token_ids))
        for phase, name in _PHASES.items():
            seconds = getattr(pane.metrics, name)
            if seconds is not None and not (phase == "encode" and pane.metrics.encode_cached):
                self._phases.labels(phase).observe(seconds)


class _PoolCollector(Collector):
    """What the pool holds, read when it is asked for. What is unknown has no sample."""

    def __init__(self, memory: Callable[[], MemoryReport]) -> None:
        self._memory = memory

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing is read when the collector is registered."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        report = self._memory()
        families: dict[str, GaugeMetricFamily] = {}

        def add(name: str, about: str, value: float | None, **labels: str) -> None:
            if value is not None:
                family = families.setdefault(name, GaugeMetricFamily(f"playground_{name}", about, labels=[*labels]))
                family.add_metric([*labels.values()], value)

        def on(machine: str) -> dict[str, str]:
            """The label of a machine, only where there are several; "": the page's own."""
            return {"machine": machine} if report.machines else {}

        groups: dict[tuple[str, str, str], list[tuple[int | None, int | None, int | None]]] = {}
        for worker in report.workers:
            sizes = worker.bytes, worker.peak_bytes, worker.forecast_bytes
            groups.setdefault((worker.role.value, worker.state.value, worker.place), []).append(sizes)
        for (role, state, place), workers in groups.items():
            where = {"role": role, "state": state, "place": place} | on(machine_of(place))
            held, peak, forecast = (_sum(column) for column in zip(*workers, strict=True))
            add("workers", "Processes that hold a model.", len(workers), **where)
            add("worker_bytes", "What they hold; on a GPU if they use one.", held, **where)
            add("worker_peak_bytes", "The most that they have held.", peak, **where)
            add("worker_forecast_bytes", "What was told before they were loaded.", forecast, **where)
        add("spare_workers", "Processes that are started and hold no model.", len(report.spares), **on(""))
        held = _sum([spare.host_rss_bytes for spare in report.spares])
        add("spare_worker_bytes", "Resident memory of the host that they take.", held, **on(""))
        for gpu in report.gpus:
            where = {"gpu": str(gpu.index)} | on(gpu.machine)
            add("gpu_total_bytes", "Memory of the GPU.", gpu.total_bytes, **where)
            add("gpu_used_bytes", "Used by anybody.", gpu.used_bytes, **where)
            add("gpu_utilization_ratio", "Share of the last moment, 0 to 1.", gpu.utilization, **where)
            add("gpu_temperature_celsius", "Of the GPU.", gpu.temperature_c, **where)
            add("gpu_power_watts", "Drawn now.", gpu.power_w, **where)
        add("host_total_bytes", "Memory of the host.", report.host_total_bytes, **on(""))
        add("host_available_bytes", "What could be allocated.", report.host_available_bytes, **on(""))
        for machine in report.machines:
            add("host_total_bytes", "", machine.host_total_bytes, **on(machine.name))
            add("host_available_bytes", "", machine.host_available_bytes, **on(machine.name))
        for place, budget in report.budgets.items():
            add("budget_bytes", "For all workers of a place.", budget, place=place, **on(machine_of(place)))
        for name in ("", *(machine.name for machine in report.machines)):
            running = sum(queued.is_on(name) for queued in report.queue)
            add("queue_runs", "Runs that generate or wait.", running, state="running", **on(name))
        waiting = sum(queued.place is None for queued in report.queue)
        add("queue_runs", "", waiting, state="waiting", **on(""))
        add("memory_alarms", "Times that memory did not come back, of the last 20.", len(report.alarms))
        yield from families.values()


def _sum(values: Sequence[int | None]) -> int | None:
    """None if one of them is unknown."""
    return None if None in values else sum(value or 0 for value in values)
