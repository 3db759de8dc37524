"""How many steps fit into the minutes of a run; numbers by hand."""

from __future__ import annotations

from owled_ros.tuning.pace import TIMED_STEPS, Pace


def taken(pace: Pace, count: int, seconds: float) -> Pace:
    for _ in range(count):
        pace.stepped(seconds)
    return pace


def test_steps_that_are_given_stand() -> None:
    assert not taken(Pace(100), 50, 9.0).fit(50, again=True)


def test_a_run_is_as_long_as_its_minutes() -> None:
    pace = Pace(1000, minutes=2.0)
    pace.measured(2.0)
    for _ in range(3):
        pace.stepped(4.0)  # the first steps of a process are slow
    assert not taken(pace, TIMED_STEPS - 4, 1.0).fit(7)
    assert taken(pace, 1, 1.0).fit(8)
    assert pace.measures == 6  # of 2 s in a tenth of 120 s
    assert pace.steps == 8 + 89  # s left of 120: less 2 + 12 + 5 spent, less 6 measurements of 2 s; a step each
    assert not pace.fit(9), "it stands"
    taken(pace, 12, 3.0)  # the machine has become busy
    assert pace.fit(20, again=True)
    assert pace.steps == 20 + 18  # 120 - 19 - 36 s, less 6 x (1 - 20 / 97) measurements of 2 s: 55.47 s, 3 s a step
    taken(pace, 10, 1.0)
    assert not pace.fit(30, again=True), "more than half of it is done: the schedule stands"


def test_the_time_of_a_run_that_goes_on_counts_and_more_minutes_make_it_longer() -> None:
    state = {"steps": 89, "minutes": 2.0, "timed": True, "spent_s": 119.0}
    same, longer, given = Pace(1000, minutes=2.0), Pace(10, minutes=4.0), Pace(200)
    same.go_on(80, state)
    assert (same.steps, same.timed) == (89, True)
    longer.go_on(89, state)
    assert longer.steps > 2 * 89, "the rate does not fall before the new length is known"
    assert taken(longer, TIMED_STEPS, 1.0).fit(97)
    assert longer.steps == 97 + 113  # 240 - 119 - 8 s
    given.go_on(89, state)
    assert given.steps == 200
