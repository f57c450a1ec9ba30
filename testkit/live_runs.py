"""Runs a cell and watches its notebook, as the page's script does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx


def start(client: httpx.Client, key: str, *cells: str) -> dict[str, Any]:
    reply: dict[str, Any] = client.post("/vp-runs", json={"key": key, "cells": cells}).raise_for_status().json()
    return reply


@contextmanager
def watching(client: httpx.Client, key: str, since: int = 0) -> Iterator[Iterator[dict[str, Any]]]:
    """The server's events, as they come."""
    address = f"/vp-runs?notebook={key}&since={since}"
    with client.stream("GET", address, timeout=60) as stream:
        stream.raise_for_status()
        yield (json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: "))


def run(client: httpx.Client, key: str, cell: str) -> dict[str, Any]:
    """Run a cell to its end; the last update."""
    with watching(client, key) as events:
        next(events)
        start(client, key, cell)
        return until_ended(events, cell)


def until_ended(events: Iterator[dict[str, Any]], cell: str) -> dict[str, Any]:
    updates = (event["update"] for event in events if "update" in event)
    update: dict[str, Any] = next(update for update in updates if update["cell"] == cell and update.get("ended"))
    return update
