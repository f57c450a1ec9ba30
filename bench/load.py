"""Many people at once on the embedded pair, on the CPU: what they wait, what fails, what memory does; and the same
while somebody kills workers at random. `python -m bench load [--minutes 5]`"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import httpx
import psutil
from gradio_client import Client, handle_file

from playground.models.presets import data_folder
from testkit.webapp import WebApp, running

PEOPLE = 50
_KILL_EVERY_S = 3.0
_ENDED = {"done", "stopped", "failed"}
_VARIANTS = ("F16", "Q8_0", "Q4_K_M", "Q3_K_M", "Q2_K")
_PROMPTS = ("Describe the image in one sentence.", "What text is shown?", "How many shapes are there?")


@dataclass
class _Tally:
    """Guarded by `lock`."""

    lock: Lock = field(default_factory=Lock)
    waits_s: list[float] = field(default_factory=list)  # from the request to this run's turn
    runs: Counter[int] = field(default_factory=Counter)  # by person
    panes: Counter[str] = field(default_factory=Counter)  # by state, and why
    failures: Counter[str] = field(default_factory=Counter)  # what failed panes said
    busy: int = 0
    errors: list[str] = field(default_factory=list)


def measure(folder: Path, minutes: float) -> dict[str, float]:
    with running(folder / "cache", folder / "first.log"):
        pass  # the first start makes the quantized variants
    users = {"PLAYGROUND_LOGIN": "password", "PLAYGROUND_USERS": json.dumps({f"p{n}": "x" for n in range(PEOPLE)})}
    with running(folder / "cache", folder / "log.txt", more=users) as app:  # without names they would be one person
        calm = _people(app, minutes * 60, kill=False)
        calm |= {f"killer_{key}": value for key, value in _people(app, minutes * 60, kill=True).items()}
        calm["app_alive"] = float(httpx.get(f"{app.url}/health", timeout=10).status_code == 200)
    return calm


def _people(app: WebApp, seconds: float, *, kill: bool) -> dict[str, float]:
    tally, over = _Tally(), Event()
    clients = [Client(app.url, auth=(f"p{n}", "x"), verbose=False) for n in range(PEOPLE)]
    threads = [Thread(target=_person, args=(n, client, tally, over)) for n, client in enumerate(clients)]
    killer = Thread(target=_kill, args=(app, over))
    for thread in threads:
        thread.start()
    if kill:
        killer.start()
    samples = []
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        time.sleep(min(5.0, seconds / 10))
        samples.append(_resident(app.pid))
    over.set()
    for thread in threads:
        thread.join(120)
    stuck = sum(thread.is_alive() for thread in threads)
    if kill:
        killer.join()
    for client in clients:
        client.close()
    time.sleep(2)
    for error, count in Counter(tally.errors).most_common(5):
        print(f"  {count} x {error}")
    print(f"  panes: {dict(tally.panes)}; {dict(tally.failures.most_common(5))}")
    mean = statistics.fmean(tally.waits_s)
    return {
        "people": PEOPLE,
        "seconds": seconds,
        "runs": sum(tally.runs.values()),
        "fewest_runs_of_a_person": min(tally.runs[n] for n in range(PEOPLE)),
        "most_runs_of_a_person": max(tally.runs.values()),
        "told_busy": tally.busy,
        "errors": len(tally.errors),
        "people_stuck": stuck,
        "panes_in_no_stated_state": sum(n for state, n in tally.panes.items() if state not in _ENDED),
        "panes_failed": tally.panes["failed"],
        "wait_mean_s": mean,
        "wait_p95_s": sorted(tally.waits_s)[int(0.95 * len(tally.waits_s))],
        "wait_longest_over_mean (goal 3)": max(tally.waits_s) / mean,
        "app_mb_after_a_fifth": samples[len(samples) // 5] / 1e6,
        "app_mb_at_the_end": samples[-1] / 1e6,
        "app_mb_when_they_have_left": _resident(app.pid) / 1e6,
    }


def _person(n: int, client: Client, tally: _Tally, over: Event) -> None:
    draw = random.Random(n)
    images = sorted((data_folder() / "tiny-vlm/evaluation").glob("easy-*.png"))
    while not over.is_set():
        image = handle_file(str(draw.choice(images)))
        variants = draw.sample(_VARIANTS, draw.randrange(1, 4))
        ids = [f"tiny-vlm:{name}+mmproj-F16" for name in variants]
        begun, turn_at, last = time.monotonic(), None, None
        try:
            job = client.submit(image, draw.choice(_PROMPTS), ids, {"max_tokens": 24}, api_name="/compare")
            for last in job:
                if turn_at is None and last["queue_place"] is None and _began(last):
                    turn_at = time.monotonic()
            job.result()  # raises what the server refused
            assert last is not None
        except Exception as error:  # whatever a client meets is what is counted here
            busy = "Busy" in str(error)
            with tally.lock:
                tally.busy += busy
                if not busy:
                    tally.errors.append(f"{type(error).__name__}: {str(error)[:120]}")
            over.wait(draw.uniform(0.5, 2.0))
            continue
        with tally.lock:
            tally.runs[n] += 1
            tally.panes.update(pane["state"] for pane in last["panes"])
            tally.failures.update(pane["error"][:100] for pane in last["panes"] if pane["error"])
            if turn_at is not None:
                tally.waits_s.append(turn_at - begun)


def _began(document: dict[str, Any]) -> bool:
    return any(pane["state"] != "queued" for pane in document["panes"])


def _kill(app: WebApp, over: Event) -> None:
    draw = random.Random(1)
    while not over.wait(_KILL_EVERY_S):
        workers = [p for p in psutil.Process(app.pid).children() if "playground.engine.worker" in " ".join(_command(p))]
        if workers:
            try:
                os.kill(draw.choice(workers).pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _resident(pid: int) -> int:
    return psutil.Process(pid).memory_info().rss
