"""Processes of the machine that may end at any moment, while a test looks at them too."""

from __future__ import annotations

import time

import psutil


def wait_ended(pid: int, seconds: float = 30) -> None:
    """Waits until the process has ended, whether or not somebody has taken its exit status.

    Raises:
        TimeoutError: It lives on.
    """
    deadline = time.monotonic() + seconds
    while not _ended(pid):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} lives on")
        time.sleep(0.01)


def children_of(pid: int, word: str) -> list[int]:
    """The living children of this process whose command holds this word."""
    pids: list[int] = []
    for child in psutil.Process(pid).children():
        try:
            if child.status() != psutil.STATUS_ZOMBIE and word in " ".join(child.cmdline()):
                pids.append(child.pid)
        except psutil.NoSuchProcess:
            pass
    return pids


def _ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
