"""What one client can do to another visitor: each costly input is sent every second, on loopback alone.

`python -m bench attack [--seconds 60] [--only NAME]`. The app runs without a login; the attacker and the visitor have
different loopback addresses, so they are two people to the app. Goals: the visitor's page opens within 2 s, a run
begins within 3 s, tokens per second fall by at most 20 % where the pane does not call them shared, memory grows by at
most 1 GB, and the process answers within 0.25 s. Exits with 1 where one is missed. The attacker is a process of its
own, behind the visitor and the app: one from elsewhere would share neither's interpreter nor processor.

A machine that others share changes its speed within a minute. So the attack pauses twice, and the speed of all panes
in it that do not call theirs shared is compared with that of such panes before, between and after.
"""

from __future__ import annotations

import functools
import io
import json
import multiprocessing
import os
import socket
import statistics
import struct
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import msgspec
import psutil
from PIL import Image

from playground.models.presets import data_folder
from playground.notebooks.cells import Picture
from playground.notebooks.file_format import to_json
from playground.support.background import give_way
from playground.values.answer import Metrics
from testkit.notebooks import F16, Q2, compare_cell, pane, result, run_of
from testkit.webapp import WebApp, running

GOALS = {"page_s": 2.0, "run_s": 3.0, "speed_drop": 0.2, "memory_mb": 1000.0, "freeze_s": 0.25}
_HEAD = ("page <= 2 s", "run <= 3 s", "speed >= 80 %", "memory <= 1 GB", "freeze <= .25 s")
_ROUNDS = 3  # of the attack, with a calm before, between and after them
_CALM_S = 4.0
_FEWEST_SPEEDS = 5  # that a median is taken of
_MOSTLY = 0.75  # panes called shared, of which too few others are left
_NICENESS = 19
_VISITOR, _ATTACKER = "127.0.0.2", "127.0.0.3"
_VARIANT = "tiny-vlm:F16+mmproj-F16"
_CONNECTIONS = 800  # below a process's usual limit of 1024 file descriptors
_TIMEOUT_S = 60.0


@dataclass
class _Seen:
    """What the visitor met. Each list is written by one thread; a visit counts for the time in which it began."""

    page_s: list[float] = field(default_factory=list)
    run_s: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)  # of panes that do not call theirs shared
    shared: list[float] = field(default_factory=list)  # of those that do
    answers_s: list[float] = field(default_factory=list)  # of /health
    memory: list[int] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


class _Person:
    """A client of the app, from an address of its own."""

    def __init__(self, app: WebApp, address: str) -> None:
        transport = httpx.HTTPTransport(local_address=address, limits=httpx.Limits(max_connections=None))
        self.replies: Counter[str] = Counter()  # what the app answered
        self.client = httpx.Client(
            base_url=app.url, transport=transport, timeout=_TIMEOUT_S, event_hooks={"response": [self._count]}
        )
        self.config = self.client.get("/config").json()
        self.notebook = self.ask("open")
        self.key = self.notebook["key"]
        self.cell = self.ask("add", key=self.key, kind="compare")["order"][-1]

    def ask(self, function: str, **fields: Any) -> dict[str, Any]:
        """Call a function of the notebook's script."""
        parts = self.config["components"]
        id = next(part["id"] for part in parts if "open" in (part["props"].get("server_fns") or ()))
        data = {"browser": self.notebook["browser"], **fields} if hasattr(self, "notebook") else fields
        body = {"session_hash": "x", "component_id": id, "fn_name": function, "data": data}
        reply = self.client.post("/gradio_api/component_server", json=body)
        document: dict[str, Any] = reply.json()
        if "error" in document:
            self.replies[str(document["error"])[:50]] += 1
        return document

    def _count(self, reply: httpx.Response) -> None:
        self.replies[str(reply.status_code)] += 1

    def upload(self, name: str, content: bytes) -> str:
        reply = self.client.post("/gradio_api/upload", files={"files": (name, content)})
        (path,) = reply.raise_for_status().json()
        return str(path)

    def join(self, button: str, data: list[Any], session: str) -> int:
        """Press a button. Returns the status."""
        named = [part["id"] for part in self.config["components"] if part["props"].get("value") == button]
        targets = [
            (dependency["id"], *target)
            for dependency in self.config["dependencies"]
            for target in dependency["targets"]
        ]
        index = next(index for index, id, _ in targets if id in named)
        body = {"data": data, "fn_index": index, "session_hash": session}
        return self.client.post("/gradio_api/queue/join", json=body).status_code

    def compare(self, settings: dict[str, Any]) -> tuple[float, float | None, bool]:
        """Seconds until a run begins, its tokens per second, and whether its pane calls them shared."""
        image = {"path": self.upload("scene.png", _scene()), "meta": {"_type": "gradio.FileData"}}
        data = [image, "Describe the image.", [_VARIANT], settings]
        begun, run_s, last = time.monotonic(), None, None
        id = self.client.post("/gradio_api/call/compare", json={"data": data}).raise_for_status().json()["event_id"]
        with self.client.stream("GET", f"/gradio_api/call/compare/{id}") as stream:
            for line in stream.iter_lines():
                if line == "event: error":
                    raise RuntimeError("the run was refused")
                if line.startswith("data: [{"):
                    (last,) = json.loads(line.removeprefix("data: "))
                    if run_s is None and last["panes"][0]["state"] != "queued":
                        run_s = time.monotonic() - begun
        if last is None or run_s is None:
            raise RuntimeError("the run did not begin")
        numbers = msgspec.convert(last["panes"][0]["metrics"], Metrics)
        return run_s, numbers.decode_tok_per_s, numbers.beside_others

    def close(self) -> None:
        self.client.close()


Input = Callable[[_Person, WebApp], object]


def measure(folder: Path, seconds: float, only: str | None = None) -> dict[str, float]:
    """Prints a table. Returns its numbers by input; what is unknown is left out."""
    with running(folder / "cache", folder / "first.log") as app:  # the first start makes the quantized variants
        while httpx.get(f"{app.url}/health/ready").status_code != 200:
            time.sleep(0.5)
    print(f"{'input':18}" + "".join(f"{goal:>24}" for goal in _HEAD) + "  what the attacker and the visitor were told")
    numbers: dict[str, float] = {}
    for name in only.split(",") if only else INPUTS:
        with running(folder / "cache", folder / f"{name}.log") as app:
            row, replies, errors = _attacked(app, name, seconds)
        shown = "".join(f"{_shown(row, goal):>24}" for goal in GOALS)
        print(f"{name:18}{shown}  {dict(replies.most_common(4))} {dict(errors.most_common(2))}", flush=True)
        numbers |= {f"{name}_{key}": value for key, value in row.items()}
        numbers |= {f"{name}_{goal}_missed": 1.0 for goal in GOALS if not _is_met(row, goal)}
    return numbers


def _is_met(row: dict[str, float], goal: str) -> bool:
    """A number that is missing is a miss; but where nearly all panes call their speed shared, none is left."""
    return row[goal] <= GOALS[goal] if goal in row else goal == "speed_drop" and row.get("shared", 0.0) >= _MOSTLY


def _shown(row: dict[str, float], goal: str) -> str:
    shown = f"{row[goal]:.3g}" if goal in row else "-"
    if goal == "speed_drop":
        shown = f"{1 - row[goal]:.0%}" if goal in row else "-"
        shown += f" ({row['shared']:.0%} shared)" if row.get("shared") else ""
    return f"{shown} {'PASS' if _is_met(row, goal) else 'MISS'}"


def _attacked(app: WebApp, name: str, seconds: float) -> tuple[dict[str, float], Counter[str], Counter[str]]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    attacker = context.Process(target=_attack, args=(app, name, seconds / _ROUNDS, there))
    attacker.start()
    here.recv()  # it is ready
    visitor = _Person(app, _VISITOR)
    visitor.compare({"max_tokens": 64})  # loads the model
    watched = _Watched()
    watchers = [Thread(target=watch, args=(app, visitor, watched)) for watch in (_visit, _look)]
    for thread in watchers:
        thread.start()
    replies: Counter[str] = Counter()
    for _ in range(_ROUNDS):
        time.sleep(_CALM_S)
        watched.seen = watched.struck
        here.send("strike")
        replies = here.recv()  # of all rounds until now
        watched.seen = watched.calm
    time.sleep(_CALM_S)
    here.send("end")
    watched.over.set()
    for thread in watchers:
        thread.join(2 * _TIMEOUT_S)
    attacker.join()
    visitor.close()
    return _row(watched.calm, watched.struck), replies, watched.struck.errors


def _row(calm: _Seen, struck: _Seen) -> dict[str, float]:
    row = {name: max(values) for name, values in (("page_s", struck.page_s), ("run_s", struck.run_s)) if values}
    if min(len(struck.speeds), len(calm.speeds)) >= _FEWEST_SPEEDS:
        row["speed_drop"] = max(0.0, 1 - statistics.median(struck.speeds) / statistics.median(calm.speeds))
    for seen, word in ((struck, "shared"), (calm, "calm_shared")):
        if seen.speeds or seen.shared:
            row[word] = len(seen.shared) / len([*seen.speeds, *seen.shared])
    if struck.memory and calm.memory:
        row["memory_mb"] = (max(struck.memory) - calm.memory[0]) / 1e6
    if struck.answers_s:
        row["freeze_s"] = max(struck.answers_s)
    return row


def _attack(app: WebApp, name: str, seconds: float, visitor: Connection) -> None:
    """Strikes each second for so long, whenever it is told. In a process of its own: says when it is ready, and what
    the app has answered."""
    os.setsid()
    give_way(_NICENESS)
    if build := _BUILT_BEFORE.get(name):
        build()
    attacker = _Person(app, _ATTACKER)
    attacker.replies.clear()
    visitor.send("ready")
    while visitor.recv() == "strike":
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            Thread(target=_strike, args=(INPUTS[name], attacker, app), daemon=True).start()
            time.sleep(1.0)
        visitor.send(Counter(attacker.replies))


def _strike(attack: Input, attacker: _Person, app: WebApp) -> None:
    with suppress(Exception):  # a refusal is what is hoped for
        attack(attacker, app)


class _Watched:
    """Where the watching threads write what they see now."""

    def __init__(self) -> None:
        self.calm, self.struck = _Seen(), _Seen()
        self.seen = self.calm
        self.over = Event()


def _visit(app: WebApp, visitor: _Person, watched: _Watched) -> None:
    while not watched.over.is_set():
        seen = watched.seen
        try:
            begun = time.monotonic()
            visitor.client.get("/").raise_for_status()
            visitor.ask("open", key=visitor.key)["page"]
            seen.page_s.append(time.monotonic() - begun)
            run_s, speed, is_shared = visitor.compare({"max_tokens": 64})
            seen.run_s.append(run_s)
            if speed is not None:
                (seen.shared if is_shared else seen.speeds).append(speed)
        except Exception as error:  # whatever the visitor meets is what is counted here
            seen.errors[f"{type(error).__name__}: {str(error)[:60]}"] += 1
        watched.over.wait(0.5)


def _look(app: WebApp, visitor: _Person, watched: _Watched) -> None:
    process = psutil.Process(app.pid)
    with httpx.Client(base_url=app.url, timeout=_TIMEOUT_S) as client:
        while not watched.over.is_set():
            seen, begun = watched.seen, time.monotonic()
            with suppress(httpx.HTTPError, psutil.Error):
                client.get("/health")
                seen.memory.append(process.memory_info().rss)
            seen.answers_s.append(time.monotonic() - begun)
            watched.over.wait(0.1)


# --- the inputs --------------------------------------------------------------------------------------------------


def _calm(attacker: _Person, app: WebApp) -> None:
    """Nothing: what the bench itself costs."""


def _full_queue(attacker: _Person, app: WebApp) -> None:
    for n in range(257):
        data = [f"{attacker.key}/{attacker.cell}", "Projector (mmproj)", "Q4_0", "", True]
        attacker.join("Quantize", data, f"q{n}")


def _brackets(attacker: _Person, app: WebApp) -> None:
    note = attacker.ask("add", key=attacker.key, kind="note")["order"][-1]
    attacker.ask("write", key=attacker.key, cell=note, text="[" * 60_000)


def _many_cells(attacker: _Person, app: WebApp) -> None:
    _import(attacker, _NOTEBOOK + b"1," * 5_000_000 + b"1]}")


_NOTEBOOK = b'{"format":"vlm-quant-playground/notebook","version":1,"title":"t","cells":['


def _import(attacker: _Person, notebook: bytes) -> None:
    attacker.ask("import_file", path=attacker.upload("notebook.json", notebook))


def _long_words(attacker: _Person, app: WebApp) -> None:
    _import(attacker, _one_answer())


def _white_space(attacker: _Person, app: WebApp) -> None:
    _import(attacker, _fenced())


def _many_runs(attacker: _Person, app: WebApp) -> None:
    """Each is written to the disk, and deleted again."""
    key = attacker.ask("import_file", path=attacker.upload("runs.json", _runs()))["key"]
    attacker.ask("remove", key=key)


@functools.cache
def _one_answer() -> bytes:
    return _notebook(1, 1, " ".join(str(n * 7919 % 10) for n in range(250_000)))


@functools.cache
def _fenced() -> bytes:
    """A code fence full of white space, which once held every thread for 8 s."""
    space = "```html\n" + " " * 45_000 + "x"
    return _notebook(1, 1, "WORD").replace(b'"a WORD"', json.dumps(space).encode())


@functools.cache
def _runs() -> bytes:
    return _notebook(500, 30, "word " * 50)


def _notebook(cells: int, runs: int, text: str) -> bytes:
    """With answers that begin alike and go on differently."""
    cell = compare_cell(pictures=())
    panes = (pane(F16, f"a {text}"), pane(Q2, f"a b {text[::-1]}", first_divergence=1))
    answers = result(*(replace(pane, token_ids=(1, 2), scores=()) for pane in panes))
    stored_runs = tuple(run_of(cell, answers, number=number) for number in range(1, runs + 1))
    return to_json("t", [(cell, stored_runs)] * cells, lambda sha256: None).encode()


def _foreign_pictures(attacker: _Person, app: WebApp) -> None:
    """Cells that name pictures without holding them: each is looked for among the attacker's notebooks."""
    pictures = tuple(Picture(f"{n:064x}", 9, 9, "a.png") for n in range(16))
    _import(attacker, to_json("t", [(compare_cell(pictures=pictures), ())] * 500, lambda sha256: None).encode())


def _questions(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def _own_questions(attacker: _Person, content: bytes) -> None:
    cell = attacker.ask("add", key=attacker.key, kind="measure")["order"][-1]
    attacker.ask("own_questions", key=attacker.key, cell=cell, path=attacker.upload("q.zip", content))


def _bad_lines(attacker: _Person, app: WebApp) -> None:
    _own_questions(attacker, _zip("lines"))


def _many_lists(attacker: _Person, app: WebApp) -> None:
    _own_questions(attacker, _zip("lists"))


def _deep_line(attacker: _Person, app: WebApp) -> None:
    _own_questions(attacker, _zip("deep"))


@functools.cache
def _zip(kind: str) -> bytes:
    if kind == "lists":
        return _questions({f"l{n}.csv": b"x" * (2**26 - 1) for n in range(6)})
    return _questions({"items.jsonl": b"[1]\n" * 4_000_000 if kind == "lines" else b"[" * 1_000_000})


def _big_picture(attacker: _Person, app: WebApp) -> None:
    attacker.ask("add_picture", key=attacker.key, cell=attacker.cell, path=attacker.upload("big.png", _png()))


@functools.cache
def _png() -> bytes:
    out = io.BytesIO()
    Image.new("RGBA", (9400, 9400)).save(out, "PNG")
    return out.getvalue()


def _slow_jpeg(attacker: _Person, app: WebApp) -> None:
    attacker.ask("add_picture", key=attacker.key, cell=attacker.cell, path=attacker.upload("slow.jpg", _jpeg()))


@functools.cache
def _jpeg() -> bytes:
    """64 megapixels whose coefficients are refined 5000 times, by nothing."""
    out = io.BytesIO()
    Image.new("L", (8000, 8000)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    scan = data.rindex(b"\xff\xda")
    return data[:-2] + data[scan:-2] * 5000 + data[-2:]


def _many_pages(attacker: _Person, app: WebApp) -> None:
    attacker.ask("add_picture", key=attacker.key, cell=attacker.cell, path=attacker.upload("pages.tif", _tiff()))


@functools.cache
def _tiff() -> bytes:
    """10,000 pages of one pixel each."""
    pages = []
    for n in range(10_000):
        tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        size = 2 + len(entries) + 4
        after = 0 if n == 9_999 else 10 + (n + 1) * size
        pages.append(struct.pack("<H", len(tags)) + entries + struct.pack("<I", after))
    return struct.pack("<2sHI", b"II", 42, 10) + b"\0\0" + b"".join(pages)


def _many_threads(attacker: _Person, app: WebApp) -> None:
    attacker.compare({"n_threads": 256, "max_tokens": 256})


def _looping_template(attacker: _Person, app: WebApp) -> None:
    """It would render for minutes."""
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    attacker.compare({"chat_template": loops + "{{ messages[0].content }}"})


def _doubling_template(attacker: _Person, app: WebApp) -> None:
    """Its text would take a terabyte."""
    doubled = "{% set all = namespace(t='x') %}{% for a in range(40) %}{% set all.t = all.t + all.t %}{% endfor %}"
    attacker.compare({"chat_template": doubled + "{{ all.t }}{{ messages[0].content }}"})


def _many_starts(attacker: _Person, app: WebApp) -> None:
    attacker.ask("write", key=attacker.key, cell=attacker.cell, text="Describe yourself.")  # else no run begins
    for _ in range(40):
        attacker.client.post("/vp-runs", json={"key": attacker.key, "cells": [attacker.cell]})


def _closed_heartbeats(attacker: _Person, app: WebApp) -> None:
    url = httpx.URL(app.url)
    connections = []
    for n in range(_CONNECTIONS):
        connection = socket.create_connection((url.host, url.port or 80), source_address=(_ATTACKER, 0))
        connection.sendall(f"GET /gradio_api/heartbeat/h{n} HTTP/1.1\r\nHost: {url.host}\r\n\r\n".encode())
        connections.append(connection)
    for connection in connections:
        connection.close()


def _large_body(attacker: _Person, app: WebApp) -> None:
    content = b'{"session_hash":"' + b"x" * 150_000_000 + b'"}'
    attacker.client.post("/gradio_api/cancel", content=content, headers={"Content-Type": "application/json"})


def _many_values(attacker: _Person, app: WebApp) -> None:
    """Starlette would decode them in the event loop."""
    content = b'{"session_hash":"x","data":[' + b"[]," * 2_600_000 + b"[]]}"
    attacker.client.post("/gradio_api/component_server", content=content, headers={"Content-Type": "application/json"})


def _copies(attacker: _Person, app: WebApp) -> None:
    for _ in range(5):
        attacker.ask("copy", key=attacker.key)


def _uploads(attacker: _Person, app: WebApp) -> None:
    attacker.upload("large.bin", b"x" * 49_000_000)


def _scene() -> bytes:
    return (data_folder() / "tiny-vlm/evaluation/hard-62.png").read_bytes()


# What takes the attacker some seconds, before anything is measured.
_BUILT_BEFORE: dict[str, Callable[[], object]] = {
    "long_words": _one_answer,
    "white_space": _fenced,
    "many_runs": _runs,
    "bad_lines": functools.partial(_zip, "lines"),
    "many_lists": functools.partial(_zip, "lists"),
    "deep_line": functools.partial(_zip, "deep"),
    "big_picture": _png,
    "slow_jpeg": _jpeg,
    "many_pages": _tiff,
}

# The most telling first: what has missed a goal or come near to one, or what was changed last.
INPUTS: dict[str, Input] = {
    "slow_jpeg": _slow_jpeg,
    "many_starts": _many_starts,
    "many_runs": _many_runs,
    "closed_heartbeats": _closed_heartbeats,
    "copies": _copies,
    "big_picture": _big_picture,
    "full_queue": _full_queue,
    "long_words": _long_words,
    "white_space": _white_space,
    "looping_template": _looping_template,
    "many_threads": _many_threads,
    "many_values": _many_values,
    "foreign_pictures": _foreign_pictures,
    "many_cells": _many_cells,
    "deep_line": _deep_line,
    "bad_lines": _bad_lines,
    "many_lists": _many_lists,
    "brackets": _brackets,
    "large_body": _large_body,
    "uploads": _uploads,
    "many_pages": _many_pages,
    "doubling_template": _doubling_template,
    "calm": _calm,
}
