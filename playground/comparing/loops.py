"""Whether an answer ended in a loop: its last tokens, repeated again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# Conventions: shorter than this it may be a list or a table. Not measured.
_MIN_TOKENS = 32  # of all repetitions together
_MIN_TIMES = 4
_LONGEST = 256  # tokens that are repeated


class Loop(NamedTuple):
    """The end of an answer."""

    period: int  # tokens that are repeated
    times: int  # how often they stand there, whole

    def __str__(self) -> str:
        what = "token" if self.period == 1 else f"{self.period} tokens"
        return f"The answer ends in a loop: its last {what} {self.times} times."


def loop_of(token_ids: Sequence[int]) -> Loop | None:
    """The shortest repetition that the answer ends in; None if it does not end in one."""
    for period in range(1, min(_LONGEST, len(token_ids) // _MIN_TIMES) + 1):
        same = 0
        while same < len(token_ids) - period and token_ids[-1 - same] == token_ids[-1 - same - period]:
            same += 1
        if same + period >= max(_MIN_TOKENS, _MIN_TIMES * period):
            return Loop(period, (same + period) // period)
    return None
