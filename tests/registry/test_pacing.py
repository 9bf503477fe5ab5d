"""How requests are spaced where a registry limits them."""

from __future__ import annotations

import heapq
import random

import pytest

from layerkit.registry.pacing import Pace

HOST = "registry.example"


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def pace(now: list[float]) -> Pace:
    return Pace(lambda: now[0])


def test_nothing_waits_at_first(pace: Pace) -> None:
    """Without a refusal, requests start at once, as many as there are."""
    turns = [pace.turn(HOST) for _ in range(5)]
    assert [turn.wait for turn in turns] == [0.0] * 5
    pace.served(turns[0])
    assert pace.turn(HOST).wait == 0.0


def test_a_refusal_spaces_all(pace: Pace, now: list[float]) -> None:
    """After a refusal, the turns of all threads are apart; those of another host are not."""
    pace.refused(pace.turn(HOST))
    assert [pace.turn(HOST).wait for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert pace.turn("other.example").wait == 0.0
    now[0] = 101.0
    assert pace.turn(HOST).wait == 0.0


def test_refusals_of_one_moment_count_once(pace: Pace) -> None:
    """Four threads that were refused together double the distance once, not four times."""
    for _ in range(2):
        turns = [pace.turn(HOST) for _ in range(4)]
        for turn in turns:
            pace.refused(turn)
    first, second = pace.turn(HOST), pace.turn(HOST)
    assert second.wait - first.wait == pytest.approx(0.2)


def test_the_distance_has_an_end(pace: Pace, now: list[float]) -> None:
    """However often it refuses, a host is asked again after 1.5 s, and an outage is forgotten in some 10 s."""
    for _ in range(30):
        pace.refused(pace.turn(HOST))
        now[0] += 10
    waited = 0.0
    for _ in range(60):
        turn = pace.turn(HOST)
        assert turn.wait <= 1.5
        waited += turn.wait
        now[0] += turn.wait
        pace.served(turn)
    assert pace.turn(HOST).wait == 0.0
    assert waited <= 12


def test_a_hold_is_for_all(pace: Pace, now: list[float]) -> None:
    """A time that the registry named is waited for by every turn, and the longer one holds."""
    pace.hold(HOST, 30.0)
    pace.hold(HOST, 5.0)
    now[0] = 110.0
    assert [pace.turn(HOST).wait for _ in range(3)] == [20.0] * 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("rate", [2.0, 5.0, 50.0])
def test_through_a_limit(pace: Pace, now: list[float], threads: int, rate: float, seed: int) -> None:
    """A limit of so many requests a second is passed by all threads, with few refusals."""
    chance = random.Random(seed)
    last, done, refused, worst = float("-inf"), 0, 0, 0
    asks = [(now[0], number, 0, None) for number in range(threads)]
    began = now[0]
    while done < 200:
        now[0], number, tries, turn = heapq.heappop(asks)
        if turn is None:
            turn = pace.turn(HOST)
            heapq.heappush(asks, (now[0] + turn.wait, number, tries, turn))
        elif now[0] - last >= 1 / rate:
            last, done = now[0], done + 1
            pace.served(turn)
            heapq.heappush(asks, (now[0] + 0.001, number, 0, None))
        else:
            pace.refused(turn)
            refused, worst = refused + 1, max(worst, tries + 1)
            own_wait = chance.uniform(0.5, 1.0) * 0.5 * 2.0**tries  # as Transport.retry has it
            heapq.heappush(asks, (now[0] + own_wait, number, tries + 1, None))
    assert worst <= 5, "a request has six attempts"
    assert refused <= done
    assert rate > 10 or now[0] - began <= 3 * 200 / rate
