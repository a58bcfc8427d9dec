"""Numbers as the report prints them."""

import pytest

from analysis.report.section import number, with_interval


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (7, "7"),
        (12345, "12,345"),
        (0.0999999999, "0.100"),
        (-2.5, "−2.50"),
        (1234.5, "1,234"),
        (0.0, "0"),
        (3e-7, "3e-07"),
        (-0.0004, "−0.0004"),
        (float("inf"), "∞"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_intervals_are_beside_their_number() -> None:
    assert with_interval(1.804, (1.71, 1.9)) == "1.80 [1.71, 1.90]"
    assert with_interval(None, (1, 2)) == "–" and with_interval(2.0, None) == "2.00"
