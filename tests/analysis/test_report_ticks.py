"""Ticks of logarithmic axes: which places keep theirs where many stand close."""

import pytest

from analysis.report.ticks import powers_of_two


@pytest.mark.parametrize(
    ("places", "kept"),
    [
        ((1, 8, 32, 64, 128), (1, 8, 32, 64, 128)),
        # 160 lies a third of an octave above 128; at 224 there is room again.
        ((128, 1, 32, 64, 160, 192, 224, 8), (1, 8, 32, 64, 128, 224)),
        ((128, 160, 192, 224, 256), (128, 160, 192, 224, 256)),
        ((3, 3, 0, -1), (3,)),
        ((), ()),
    ],
)
def test_powers_of_two_come_first_and_no_two_ticks_touch(
    places: tuple[float, ...], kept: tuple[float, ...]
) -> None:
    assert powers_of_two(places) == tuple((place, f"{place:g}") for place in kept)
