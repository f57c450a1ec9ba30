"""How much of other machines' memory a page may take, where another page has workers too."""

from __future__ import annotations

import pytest

from playground.pool.budgets import Budgets, PoolLimits
from playground.pool.contract import HostMemory, Joined
from playground.pool.forecast import Forecasts
from playground.pool.handles import Handle, Handles
from playground.pool.worker_spec import WorkerSpec
from playground.values.memory import HOST, Forecast, MachineMemory, MemoryParts, WorkerRole

GIB = 2**30
BOX2 = "box2 · host"


@pytest.fixture
def handles() -> Handles:
    return Handles()


@pytest.fixture
def budgets(handles: Handles) -> Budgets:
    budgets = Budgets(PoolLimits(), (), HostMemory(100 * GIB, 50 * GIB), handles, Forecasts(None, {}, ""))
    budgets.join(Joined("box2", "EPYC", (), 80 * GIB))
    return budgets


def test_budget_when_another_page_takes_memory_there_then_it_shrinks_and_grows_again(budgets: Budgets) -> None:
    assert budgets.by_place() == {HOST: 40 * GIB, BOX2: 80 * GIB}
    budgets.observe_hosts([MachineMemory("box2", 128 * GIB, 20 * GIB)])
    assert budgets.by_place() == {HOST: 40 * GIB, BOX2: 16 * GIB}
    budgets.observe_hosts([MachineMemory("box2", 128 * GIB, 128 * GIB)])
    assert budgets.by_place()[BOX2] == 80 * GIB


def test_budget_when_the_page_itself_has_taken_memory_there_then_that_stays_its_own(
    budgets: Budgets, handles: Handles
) -> None:
    forecast = Forecast({BOX2: MemoryParts(60 * GIB)}, "header")
    handles.add(Handle(WorkerSpec(WorkerRole.LANGUAGE, ("a",)), (BOX2,), forecast))
    budgets.observe_hosts([MachineMemory("box2", 128 * GIB, 40 * GIB)])
    assert budgets.by_place()[BOX2] == 80 * GIB
    budgets.observe_hosts([MachineMemory("box2", 128 * GIB, 0)])
    assert budgets.by_place()[BOX2] == 60 * GIB


def test_budget_when_a_machine_is_unknown_or_has_left_then_nothing_is_noted_of_it(budgets: Budgets) -> None:
    budgets.observe_hosts([MachineMemory("box2"), MachineMemory("box3", 8 * GIB, 4 * GIB)])
    assert budgets.by_place() == {HOST: 40 * GIB, BOX2: 80 * GIB}
    budgets.observe_hosts([MachineMemory("box2", 128 * GIB, 20 * GIB)])
    budgets.leave("box2")
    assert budgets.by_place() == {HOST: 40 * GIB}
