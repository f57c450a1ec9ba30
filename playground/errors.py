"""Every error that a person may see. Each message says what is wrong and what to do next.

PlaygroundError
├── Failure                this request failed; another one may succeed
│   ├── BadInput           the request is invalid; nothing was loaded
│   │   ├── BadImage       not an image, truncated, or too large
│   │   ├── BadPrompt      empty, or longer than the context
│   │   ├── NotAllowed     this person, or the page, lacks the permission
│   │   └── NoNotebook     nothing has this link or name; a deleted notebook gives the same error
│   ├── BadModel           a file cannot be used
│   │   └── BadPair        the projector does not belong to the language model
│   ├── EngineError        llama.cpp failed; carries its last log lines
│   │   └── WorkerDied     the worker's process ended before it answered
│   │       └── MachineLost  the worker's machine left the cluster
│   └── EndpointError      a server elsewhere refused, or answered what cannot be used
├── Unavailable            the request is valid, but the machine or the network cannot serve it now
│   ├── Busy               too many runs wait already, or too many of this person's
│   ├── OutOfMemory        the pool's budget cannot hold what the request needs
│   ├── NoRoom             the disk is full, or its allowance is used up
│   ├── Unreadable         the disk cannot be read now; what it holds is unknown, not empty
│   └── Offline            the Hub cannot be reached, or asks to wait
├── Interrupted            a person stopped the run, or the app is closing; not a fault
└── BadSettings            invalid playground.toml or environment; for the operator, before anything runs

A job of many steps catches `Failure`, records it with its step, and goes on. Whatever else is raised ends the job.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import ClassVar


class PlaygroundError(Exception):
    """Base of all errors whose text is meant for the person at the page.

    `code` is the error's name in JSON documents and in the API. It never changes.
    """

    code: ClassVar[str] = "error"

    @property
    def message(self) -> str:
        return str(self)


class Failure(PlaygroundError):
    code = "failure"


class BadInput(Failure):
    code = "bad_input"


class BadImage(BadInput):
    code = "bad_image"


class BadPrompt(BadInput):
    code = "bad_prompt"


class NotAllowed(BadInput):
    code = "not_allowed"


class NoNotebook(BadInput):
    code = "no_notebook"


class BadModel(Failure):
    code = "bad_model"


class BadPair(BadModel):
    code = "bad_pair"


class EngineError(Failure):
    """llama.cpp failed.

    `log` holds its last lines, oldest first; the page shows them under the message.
    """

    code = "engine_error"

    def __init__(self, message: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.log = log


class WorkerDied(EngineError):
    code = "worker_died"


class MachineLost(WorkerDied):
    """What was asked may be asked again: it is then asked elsewhere."""

    code = "machine_lost"

    def __init__(self, message: str, log: tuple[str, ...] = (), machine: str = "") -> None:
        super().__init__(message, log)
        self.machine = machine

    @classmethod
    def of(cls, machine: str, why: str) -> MachineLost:
        return cls(f"The machine {machine} was lost ({why}). Run again: another machine takes its place.", (), machine)


class EndpointError(Failure):
    code = "endpoint_error"


class Unavailable(PlaygroundError):
    code = "unavailable"


class Busy(Unavailable):
    code = "busy"


class OutOfMemory(Unavailable):
    code = "out_of_memory"


class NoRoom(Unavailable):
    code = "no_room"


class Unreadable(Unavailable):
    code = "unreadable"


class Offline(Unavailable):
    code = "offline"


class Interrupted(PlaygroundError):
    code = "interrupted"


class BadSettings(PlaygroundError):
    code = "bad_settings"


def disk_is_full(error: OSError) -> bool:
    """Whether the disk, the person's quota or the process's limit on file size has no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cannot_write(path: Path | str, error: OSError) -> BadInput | NoRoom:
    """The error to raise where writing `path` failed: NoRoom if the disk is full, else BadInput."""
    if disk_is_full(error):
        return NoRoom(f"{path} cannot be written: the disk is full. Make room, and try again.")
    return BadInput(f"{path} cannot be written: {error}.")
