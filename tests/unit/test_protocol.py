"""The messages between the app and its workers."""

from __future__ import annotations

from typing import get_args

import pytest

from playground.engine import protocol

REQUESTS = {kind for kind in get_args(protocol.AnyRequest) if issubclass(kind, protocol.Request)}


@pytest.mark.parametrize("kind", sorted(REQUESTS, key=str))
def test_request_when_of_any_kind_then_its_reply_is_one_that_ends_it(
    kind: type[protocol.Request[protocol.Message]],
) -> None:
    assert kind.reply_type() in set(get_args(protocol.Reply)) - {
        protocol.Ready, protocol.Chunk, protocol.Step, protocol.Failed, protocol.SequenceChunk, protocol.SequenceEnded
    }  # fmt: skip
