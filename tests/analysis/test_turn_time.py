"""What calls take longer in a hop, over shapes and rows."""

import math

import pytest

from analysis.fit_crossing import Layer
from analysis.fit_file import InTurn
from analysis.turn_time import NO_TURNS, TurnTimes


def call(m: int, n: int, k: int, extra_us: float) -> InTurn:
    return InTurn(m=m, n=n, k=k, extra_s=extra_us * 1e-6)


def test_between_shapes_a_line_in_their_logarithm_and_beyond_them_level() -> None:
    times = TurnTimes.of([call(1, 64, 64, 1.0), call(1, 1024, 64, -3.0)])
    extra = {n: float(times.of_layers([Layer(n, 64, 1)]).at(1)) for n in (16, 64, 256, 1024, 9999)}
    assert extra == pytest.approx({16: 1e-6, 64: 1e-6, 256: -1e-6, 1024: -3e-6, 9999: -3e-6})


def test_layers_count_as_often_as_they_are_and_rows_lie_on_lines() -> None:
    times = TurnTimes.of([call(8, 64, 64, 3.0), call(1, 64, 64, 1.0)])
    cost = times.of_layers([Layer(64, 64, 3), Layer(128, 64, 2)])
    assert [float(cost.at(m)) for m in (0, 1, 4.5, 8, 100)] == pytest.approx(
        [5e-6, 5e-6, 1e-5, 1.5e-5, 1.5e-5]
    )


def test_shapes_of_the_same_number_of_weights_are_averaged() -> None:
    times = TurnTimes.of([call(1, 64, 128, 1.0), call(1, 128, 64, 2.0)])
    assert times.by_rows == ((1, ((pytest.approx(math.log(8192)), pytest.approx(1.5e-6)),)),)


def test_without_measurements_there_is_nothing_to_add() -> None:
    assert not NO_TURNS and not TurnTimes.of([]) and TurnTimes.of([call(1, 64, 64, 0.0)])
    with pytest.raises(ValueError, match="0 calls were timed"):
        NO_TURNS.of_layers([Layer(64, 64, 1)])
