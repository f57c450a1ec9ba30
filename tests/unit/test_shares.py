"""Which place measures which variants, when a measurement is spread over several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from playground.measuring.shares import Shares, at_least


def shares(
    groups: Sequence[str],
    *,
    fits: Callable[[str, str], bool] = lambda place, variant: True,
    loaded: Sequence[tuple[str, str]] = (),
    lost: Sequence[str] = (),
    at: Sequence[str] = ("here", "there"),
    seconds: Callable[[str, Sequence[str]], float] = lambda place, group: 1.0,
    clock: Callable[[], float] = lambda: 0.0,
) -> Shares[str, str]:
    """Each letter is a variant. `at`: the places at work. `lost`: those whose machine is gone; the list may change."""
    shares: Shares[str, str] = Shares(
        [list(group) for group in groups],
        fits=fits,
        loaded_at=lambda variant: [place for place, held in loaded if held == variant],
        is_there=lambda place: place not in lost,
        seconds=seconds,
        clock=clock,
    )
    shares.join(*at)
    return shares


def test_groups_when_places_take_them_in_turn_then_each_is_given_once_and_wholly() -> None:
    left = shares(["ab", "c", "d"])
    assert (left.take("here"), left.take("there")) == (["a", "b"], ["c"])
    assert left.take("there") == ["d"]
    assert (left.take("here"), left.take("there")) == ([], [])


def test_group_when_loaded_at_a_place_then_that_place_gets_it() -> None:
    left = shares(["a", "b", "c"], loaded=[("there", "a"), ("here", "c")])
    assert left.take("here") == ["c"]
    assert left.take("there") == ["a"]
    assert left.take("here") == ["b"]


def test_group_when_loaded_at_another_place_then_a_fresh_one_is_taken_first() -> None:
    left = shares(["b", "a"], loaded=[("there", "b")])
    assert left.take("here") == ["a"]
    assert left.take("here") == ["b"]


def test_groups_when_taken_from_the_end_then_the_first_is_left_for_last_and_the_nearest_comes_first() -> None:
    left = shares(["a", "b", "c", "d"], loaded=[("there", "b")])
    assert left.fair_share == 2
    assert [left.take("there", ahead=True, from_the_end=True) for _ in range(3)] == [["b"], ["d"], ["c"]]
    assert left.take("here") == ["a"]


def test_place_when_it_waited_for_something_else_then_it_does_not_count_as_slow() -> None:
    def taken(waited: float) -> list[str]:
        now = [0.0]
        left = shares(["a", "b", "c", "d"], clock=lambda: now[0])
        assert left.take("there")
        assert left.take("here")
        now[0] = 1.0
        assert left.take("here")
        now[0] = 2.5
        left.waited("there", waited)
        return left.take("there")

    assert taken(0.0) == []
    assert taken(1.5) == ["d"]


def test_group_when_too_large_for_a_place_then_it_is_left_to_one_that_holds_it() -> None:
    left = shares(["a", "B"], fits=lambda place, variant: place == "large" or variant.islower(), at=("large", "small"))
    assert left.take("large") == ["a"]
    assert left.take("small") == []
    assert left.take("large") == ["B"]


def test_group_when_it_fits_nowhere_then_somebody_takes_it_and_says_why() -> None:
    left = shares(["A"], fits=lambda place, variant: False)
    assert left.take("here") == ["A"]


def test_last_groups_when_taken_ahead_then_they_are_left_to_whoever_is_free_first() -> None:
    left = shares(["a", "b", "c", "d"])
    left.take("here")
    left.take("there")
    assert left.take("here", ahead=True) == ["c"]
    assert left.take("there", ahead=True) == []
    assert left.take("there") == ["d"]


def test_group_when_it_is_likely_then_it_is_not_taken() -> None:
    left = shares(["a", "b", "c"])
    assert left.take("here") == ["a"]
    assert left.likely("here") == ["b"]
    assert left.likely("there", from_the_end=True) == ["c"]
    assert [left.take("there"), left.take("there")] == [["b"], ["c"]]
    assert left.likely("here") == []


def test_place_when_lost_then_the_others_take_what_is_left() -> None:
    lost = list[str]()
    left = shares(["a", "b", "c"], lost=lost)
    left.take("here")
    left.take("there")
    lost.append("there")
    assert left.take("there") == []
    assert left.take("here") == ["c"]


def test_place_when_lost_and_no_other_is_at_work_then_it_goes_on_with_what_is_left() -> None:
    lost = list[str]()
    left = shares(["a", "b", "c"], lost=lost, fits=lambda place, variant: place not in lost)
    left.take("here")
    left.take("there")
    assert left.take("here") == ["c"]
    lost.append("there")
    assert (left.take("here"), left.take("there")) == ([], [])
    alone = shares(["a", "b"], lost=lost, at=["there"])
    assert alone.take("there") == ["a"]
    assert alone.take("there") == ["b"]


def slow_to_load(place: str, group: Sequence[str]) -> float:
    """The models are loaded here; there they have to be loaded first."""
    return 1.0 if place == "here" else 5.0


def test_place_when_the_others_end_before_it_has_loaded_then_it_gets_nothing() -> None:
    left = shares(["a", "b", "c"], seconds=slow_to_load)
    assert left.take("there") == []
    assert [left.take("here"), left.take("here"), left.take("here")] == [["a"], ["b"], ["c"]]


def test_place_when_the_faster_one_waits_for_its_turn_then_it_helps_after_a_while() -> None:
    now = [0.0]
    left = shares(["a"], seconds=slow_to_load, clock=lambda: now[0])
    assert left.take("there") == []
    now[0] = 4.0
    assert left.take("there") == ["a"]


def test_place_when_there_is_more_to_do_than_it_takes_to_load_then_it_helps_but_for_the_end() -> None:
    now = [0.0]
    left = shares("abcdefgh", seconds=slow_to_load, clock=lambda: now[0])
    assert (left.take("here"), left.take("there")) == (["a"], ["b"])
    for second, group in enumerate("cdefg", 1):
        now[0] = float(second)
        assert left.take("here") == [group]
    assert left.take("there") == []  # one second here, five there
    now[0] = 6.0
    assert left.take("here") == ["h"]


def test_place_when_it_was_slower_than_expected_then_it_leaves_the_last_group_to_the_other() -> None:
    now = [0.0]
    left = shares("abcdefg", clock=lambda: now[0])
    assert (left.take("here"), left.take("there")) == (["a"], ["b"])
    for second, group in enumerate("cdef", 1):
        now[0] = float(second)
        assert left.take("here") == [group]
    assert left.take("there") == []  # four times as slow: it would end "g" at 8 s, and the other one ends it at 6 s
    now[0] = 5.0
    assert left.take("here") == ["g"]


def test_last_place_when_the_others_have_left_then_it_takes_whatever_it_costs() -> None:
    left = shares(["a"], seconds=slow_to_load)
    left.leave("here")
    assert left.take("there") == ["a"]


@pytest.mark.parametrize(
    ("groups", "n", "expected"),
    [
        (["abcd"], 1, ["abcd"]),
        (["abcde"], 2, ["abc", "de"]),
        (["abcd"], 3, ["a", "b", "cd"]),
        (["ab", "c"], 2, ["ab", "c"]),
        (["a", "bcd"], 3, ["a", "bc", "d"]),
        (["a"], 4, ["a"]),
        ([], 2, []),
    ],
)
def test_groups_when_fewer_than_places_then_the_largest_are_halved(
    groups: list[str], n: int, expected: list[str]
) -> None:
    assert ["".join(group) for group in at_least(groups, n)] == expected


def test_halves_of_a_grid_when_loading_takes_longer_than_measuring_then_one_place_takes_both() -> None:
    left = shares(["ab", "ab"], loaded=[("here", "a")], seconds=lambda place, group: 5.0 if place == "there" else 1.0)
    assert left.take("there") == []
    assert (left.take("here"), left.take("here")) == (["a", "b"], ["a", "b"])


def test_halves_of_a_grid_when_measuring_takes_longer_than_loading_then_two_places_take_them() -> None:
    left = shares(["ab", "cd"], loaded=[("here", "a"), ("here", "c")], seconds=lambda place, group: 8.0)
    assert (left.take("here"), left.take("there")) == (["a", "b"], ["c", "d"])
