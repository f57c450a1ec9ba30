"""The branches of the errors and their codes: what programs that use the API rely on."""

from __future__ import annotations

import errno
import inspect
from pathlib import Path
from typing import Any

import pytest

from playground import errors
from playground.errors import BadInput, Failure, Interrupted, NoRoom, PlaygroundError, Unavailable, cannot_write

CLASSES: dict[str, Any] = {
    name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and kind.__module__ == errors.__name__
}


def test_code_when_of_any_error_then_its_own_and_as_published() -> None:
    assert {name: kind.code for name, kind in CLASSES.items()} == {
        "PlaygroundError": "error", "Failure": "failure", "BadInput": "bad_input", "BadImage": "bad_image",
        "BadPrompt": "bad_prompt", "NotAllowed": "not_allowed", "NoNotebook": "no_notebook", "BadModel": "bad_model",
        "BadPair": "bad_pair", "EngineError": "engine_error", "WorkerDied": "worker_died",
        "EndpointError": "endpoint_error",
        "MachineLost": "machine_lost",
        "Unavailable": "unavailable", "Busy": "busy", "OutOfMemory": "out_of_memory", "NoRoom": "no_room",
        "Unreadable": "unreadable", "Offline": "offline", "Interrupted": "interrupted", "BadSettings": "bad_settings",
    }  # fmt: skip


def test_tree_when_drawn_in_the_docstring_then_it_is_the_tree_of_the_classes() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in str(errors.__doc__).splitlines():
        name = line.lstrip("│├└─ ").partition(" ")[0]
        if name in CLASSES:
            depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
            above[depth:] = [name]
            drawn[name] = above[depth - 1] if depth else "Exception"
    assert drawn == {name: kind.__base__.__name__ for name, kind in CLASSES.items()}


@pytest.mark.parametrize("kind", [Unavailable, Interrupted])
def test_job_when_it_catches_a_failure_then_neither_a_stop_nor_a_full_machine(kind: type[PlaygroundError]) -> None:
    assert not issubclass(kind, Failure)


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, NoRoom), (errno.EDQUOT, NoRoom), (errno.EACCES, BadInput)])
def test_file_when_it_cannot_be_written_then_a_full_disk_is_told_apart(number: int, kind: type) -> None:
    error = cannot_write(Path("new.gguf"), OSError(number, "reason"))
    assert type(error) is kind
    assert error.message.startswith("new.gguf cannot be written: ")
