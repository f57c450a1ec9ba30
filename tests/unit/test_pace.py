"""How long a measurement is likely to take, from the newest one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from playground.measuring import pace
from playground.support.result_cache import ResultCache
from testkit.notebooks import variant

F16, Q4 = variant("F16"), variant("Q4_K_M", bytes=600)


@pytest.fixture
def results(tmp_path: Path) -> Iterator[ResultCache]:
    cache = ResultCache(tmp_path, "engine")
    yield cache
    cache.close()


def test_outlook_when_nothing_or_too_little_was_measured_then_it_is_not_known(results: ResultCache) -> None:
    assert "known after the first measurement" in pace.outlook(results, [F16], 100, 16)
    pace.keep(results, F16, 1000.0, 4, 16)  # most of it was loading
    assert "known after the first measurement" in pace.outlook(results, [F16], 100, 16)
    pace.keep(results, F16, 10.0, 20, 16)
    assert "known after the first measurement" in pace.outlook(results, [F16, Q4], 100, 16)
    assert "known after the first measurement" in pace.outlook(results, [], 100, 16)


@pytest.mark.parametrize(
    ("n", "words"), [(50, "about 40 s,"), (1000, "about 12 minutes,"), (20_000, "about 4.2 hours,")]
)
def test_outlook_when_all_variants_were_measured_then_their_newest_paces_add_up(
    results: ResultCache, n: int, words: str
) -> None:
    pace.keep(results, F16, 1000.0, 10, 16)
    pace.keep(results, F16, 10.0, 20, 16)
    pace.keep(results, Q4, 5.0, 20, 16)
    text = pace.outlook(results, [F16, Q4], n, 16)
    assert f"{n:,} answers of each of 2 variants" in text
    assert words in text
    assert "tokens" not in text
    assert "up to 16 tokens, here up to 64" in pace.outlook(results, [F16, Q4], n, 64)
