"""Every error that a person may see. Each message says what is wrong and what to do next.

PlaygroundError
├── BadInput               the request cannot be run as it is; nothing was loaded
│   ├── BadImage           not an image, cut short, or too large
│   ├── BadPrompt          empty, or longer than the context
│   ├── NotAllowed         what this person, or the page, has no right to
│   ├── NoNotebook         there is none under this link or name; not told apart from one that was deleted
│   └── Busy               too many wait already, or this person has enough runs waiting
├── BadModel               a file or a pair of files that cannot be used
│   └── BadPair            the projector does not belong to the language model
├── EngineError            llama.cpp said no; carries its last log lines
│   └── WorkerDied         the worker's process ended before it answered
├── Offline                the Hub cannot be reached, or asks to wait
├── OutOfMemory            the pool's budget cannot hold what was asked for
├── BadSettings            playground.toml or the environment; for the operator, before anything runs
└── Stopped                a person stopped it; not a fault
"""

from __future__ import annotations


class PlaygroundError(Exception):
    """Base of all errors whose text is meant for the person at the page."""

    @property
    def message(self) -> str:
        return str(self)


class BadInput(PlaygroundError): ...


class BadImage(BadInput): ...


class BadPrompt(BadInput): ...


class NotAllowed(BadInput): ...


class NoNotebook(BadInput): ...


class Busy(BadInput): ...


class BadModel(PlaygroundError): ...


class BadPair(BadModel): ...


class EngineError(PlaygroundError):
    """llama.cpp failed.

    `log` holds its last lines, oldest first; the page shows them under the message.
    """

    def __init__(self, message: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.log = log


class WorkerDied(EngineError): ...


class Offline(PlaygroundError): ...


class OutOfMemory(PlaygroundError): ...


class BadSettings(PlaygroundError): ...


class Stopped(PlaygroundError): ...
