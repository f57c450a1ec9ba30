"""What a comparison may ask, whatever its models are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from playground.comparing.comparison_request import check, comparison_of
from playground.comparing.run_settings import RunSettings
from playground.errors import BadPrompt
from playground.values.request import ConversationMessage
from testkit.notebooks import F16


def test_prompt_when_longer_than_any_context_then_refused_before_a_worker_splits_it_into_tokens() -> None:
    asked = comparison_of([], "x" * 4_000_000, [F16], RunSettings())
    check(asked, max_panes=1)
    with pytest.raises(BadPrompt, match=r"4,000,001 characters; at most 4,000,000"):
        check(replace(asked, prompt=asked.prompt + "x"), max_panes=1)
    messages = tuple(ConversationMessage("user", "x" * 2_000_001) for _ in range(2))
    with pytest.raises(BadPrompt, match=r"4,000,002 characters"):
        check(replace(asked, conversation=messages), max_panes=1)
