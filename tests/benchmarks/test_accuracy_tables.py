"""Accuracy by kernel and batch size, paired with the bf16 of the same run."""

from typing import Any

import pytest
from published_chain_runs import cells, heading, row, run, scored

from benchmarks.accuracy_tables import accuracy_by_batch_table
from benchmarks.published import NotPublished

TINY: dict[str, Any] = {"model": "tiny", "weights": "real", "context": None, "hops": None}


def pairs(**by_kernel: float) -> dict[str, Any]:
    return {"mcnemar": {kernel: {"problems": 1000, "p_value": p} for kernel, p in by_kernel.items()}}


def test_accuracy_by_batch_with_paired_tests() -> None:
    rows = [
        scored("bf16", 1, 980, 1000),
        scored("fused_nf4", 1, 975, 1000),
        scored("bf16", 64, 979, 1000),
        scored("fused_nf4", 64, 900, 1000),
        scored("native_int8", 64, 960, 1000),
    ]
    sizes = {"1": pairs(fused_nf4=0.36), "64": pairs(fused_nf4=2e-9, native_int8=0.004)}
    text = accuracy_by_batch_table([run(1, rows, derived={"by_batch_size": sizes}, **TINY)])
    assert heading(text) == [
        "B = 1: correct [Wilson 95 %]",
        "McNemar p",
        "B = 64: correct [Wilson 95 %]",
        "McNemar p",
    ]
    assert cells(text, "`bf16`") == ["980/1,000 [96.9%, 98.7%]", "–", "979/1,000 [96.8%, 98.6%]", "–"]
    assert cells(text, "`fused_nf4`")[1::2] == ["0.36", "< 0.0001"]
    assert cells(text, "`native_int8`") == ["–", "–", "960/1,000 [94.6%, 97.0%]", "0.0040"]
    # Three tests: 0.05 / 3, which 0.004 is below.
    assert (
        "Of 3 paired tests against `bf16`, below p = 0.05 / 3 = 0.0167: `fused_nf4` at B = 64, `native_int8` at B = 64."
    ) in text


def test_a_difference_must_hold_for_as_many_tests_as_were_made() -> None:
    names = ("fused_nf4", "fused_fp4", "fused_int8")
    rows = [scored("bf16", 1, 90, 100), *(scored(name, 1, 80, 100) for name in names)]
    # A run with one batch size, as older records have it: the tests stand in ``derived`` itself.
    text = accuracy_by_batch_table([run(1, rows, derived=pairs(**dict.fromkeys(names, 0.03)), **TINY)])
    assert "Of 3 paired tests against `bf16`, below p = 0.05 / 3 = 0.0167: none." in text


def test_most_problems_win_then_the_latest() -> None:
    many, again = (run(n, [scored("bf16", 1, correct, 1000)], **TINY) for n, correct in ((1, 980), (2, 981)))
    few = run(3, [scored("bf16", 1, 6, 6)], **TINY)
    assert cells(accuracy_by_batch_table([few, again, many]), "`bf16`")[0].startswith("981/1,000")


def test_a_test_against_another_baseline_is_none_against_bf16() -> None:
    rows = [scored("fused_nf4", 1, 90, 100), scored("fused_int8", 1, 80, 100)]
    text = accuracy_by_batch_table(
        [run(1, rows, derived=pairs(fused_int8=0.01), baseline="fused_nf4", **TINY)]
    )
    assert cells(text, "`fused_int8`")[1] == "–" and "No kernel was paired with `bf16`." in text


def test_what_was_not_scored_or_ran_otherwise_is_no_accuracy() -> None:
    chains = [
        run(1, [row("bf16", 1)], **TINY),
        run(2, [scored("bf16", 1, 9, 10)], **(TINY | {"engine": "eager"})),
        run(3, [scored("bf16", 1, 9, 10)], **(TINY | {"weights": "random"})),
    ]
    with pytest.raises(NotPublished, match="no chain run of tiny with engine fused that was scored"):
        accuracy_by_batch_table(chains)


@pytest.mark.parametrize("value", [-0.1, 1.5, "0.5"])
def test_a_p_value_that_is_none_is_refused(value: object) -> None:
    rows = [scored("bf16", 1, 9, 10), scored("fused_nf4", 1, 9, 10)]
    derived = {"by_batch_size": {"1": {"mcnemar": {"fused_nf4": {"p_value": value}}}}}
    with pytest.raises(ValueError, match=f"p_value={value!r} of fused_nf4 is not from 0 to 1"):
        accuracy_by_batch_table([run(1, rows, derived=derived, **TINY)])
