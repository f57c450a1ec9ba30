"""Long jobs: how many run or wait at once."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from playground.errors import Busy
from playground.web.job_limits import JobLimits


def test_jobs_when_one_person_has_many_then_refused_and_others_go_on() -> None:
    limits = JobLimits("imports", 3, 2)
    with ExitStack() as held:
        held.enter_context(limits.held("anna"))
        held.enter_context(limits.held("anna"))
        with pytest.raises(Busy, match="2 of your imports"), limits.held("anna"):
            pass
        held.enter_context(limits.held("bert"))
        with pytest.raises(Busy, match="3 imports run or wait"), limits.held("carl"):
            pass
    with limits.held("carl"):
        pass


def test_jobs_when_one_fails_then_its_place_is_free() -> None:
    limits = JobLimits("imports", 1, 1)
    with pytest.raises(ZeroDivisionError), limits.held("anna"):
        raise ZeroDivisionError
    with limits.held("anna"):
        pass
