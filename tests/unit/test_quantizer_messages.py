"""What quantizing says without a worker."""

from __future__ import annotations

import pytest

from playground.quantizing.quantizer import no_room


@pytest.mark.parametrize(
    ("wanted", "free", "said"),
    [
        (40_000, 12_000, "needs 40.0 kB, 12.0 kB are free"),
        (3_400_000, 900_000, "needs 3,400.0 kB, 900.0 kB are free"),
        (4_700_000_000, 1_200_000_000, "needs 4,700.0 MB, 1,200.0 MB are free"),
    ],
)
def test_room_when_a_small_file_does_not_fit_then_no_number_is_rounded_to_nothing(
    wanted: int, free: int, said: str
) -> None:
    assert said in no_room("x.gguf", wanted, free)
