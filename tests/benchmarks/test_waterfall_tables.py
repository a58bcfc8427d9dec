"""The table of waterfalls: which runs give its rows, in which order, and what a row says."""

import pytest
from published_chain_runs import cells, heading, row, run

from benchmarks.published import NotPublished
from benchmarks.waterfall_tables import waterfall_table


def parts(variant_ms: float, *, gap_share: float | None = 0.02, has_ends: bool = True) -> dict:
    values = {
        "reference": 4.0, "saving": 2.5, "exposed_cast": 0.25, "other": -0.125, "host": 0.0, "variant": variant_ms
    }  # fmt: skip
    half = {"host": 0.0}
    ends = {f"{k}_ms_ci95": [v - half.get(k, 0.125), v + half.get(k, 0.125)] for k, v in values.items()}
    ends = ends if has_ends else {}
    return {f"{k}_ms": v for k, v in values.items()} | ends | {"gap_share": gap_share}


def ablated(number: int, falls: dict[int, dict[str, dict]], **changed):
    rows = [row(kernel, size, mode="replay") for size, by in falls.items() for kernel in ("bf16", *by)]
    derived = {"by_batch_size": {str(size): {"waterfall": by} for size, by in falls.items()}}
    return run(number, rows, derived=derived | changed.pop("derived", {}), **changed)


def labels(text: str) -> list[str]:
    return [line.split("|")[1].strip() for line in text.splitlines()[2:] if line.startswith("|")]


def test_a_row_holds_every_part_with_its_interval() -> None:
    text = waterfall_table([ablated(1, {1: {"fused_nf4": parts(1.625)}})])
    assert heading(text) == [
        "`bf16`",
        "− saving",
        "+ exposed cast",
        "+ other",
        "+ host",
        "the kernel",
        "off by",
    ]
    assert cells(text, "mistral-7b, `fused`, B = 1: `fused_nf4`") == [
        "4.00 [3.88, 4.12]", "2.50 [2.38, 2.62]", "0.25 [0.12, 0.38]", "-0.12 [-0.25, 0.00]", "–",
        "1.62 [1.50, 1.75]", "+2.0%",
    ]  # fmt: skip
    bare = waterfall_table([ablated(1, {1: {"fused_nf4": parts(1.5, has_ends=False)}})])
    assert cells(bare, "mistral-7b, `fused`, B = 1: `fused_nf4`")[0] == "4.00"


def test_rows_go_by_model_engine_and_batch_and_the_latest_run_wins() -> None:
    old = ablated(1, {64: {"fused_nf4": parts(9.0)}, 1: {"unfused_nf4": parts(8.0), "fused_nf4": parts(7.0)}})
    new = ablated(2, {1: {"fused_nf4": parts(1.5)}})
    small = ablated(3, {1: {"fused_int8": parts(1.0)}}, model="qwen3-0.6b", engine="eager")
    text = waterfall_table([new, small, old])
    assert labels(text) == [
        "qwen3-0.6b, `eager`, B = 1: `fused_int8`",
        "mistral-7b, `fused`, B = 1: `fused_nf4`",
        "mistral-7b, `fused`, B = 1: `unfused_nf4`",
        "mistral-7b, `fused`, B = 64: `fused_nf4`",
    ]
    assert cells(text, "mistral-7b, `fused`, B = 1: `fused_nf4`")[5].startswith("1.50")
    assert "3 chain records" in text


def test_what_does_not_say_how_far_it_holds_is_left_out() -> None:
    others = [
        ablated(1, {1: {"fused_nf4": parts(1.5, gap_share=None)}}),
        ablated(2, {1: {"fused_nf4": parts(1.5)}}, weights="real"),
        ablated(3, {1: {"fused_nf4": parts(1.5)}}, status="interrupted"),
        run(4, [row("fused_nf4", 1, mode="replay")]),
        run(
            5,
            [row("fused_nf4", 1)],
            derived={"by_batch_size": {"1": {"waterfall": {"fused_nf4": parts(1.5)}}}},
        ),
    ]
    with pytest.raises(NotPublished, match="no chain run with random weights and a waterfall"):
        waterfall_table(others)
    kept = ablated(
        6,
        {1: {"fused_nf4": parts(1.5)}, 64: {"fused_nf4": parts(3.0)}},
        status="interrupted",
        derived={"batch_sizes_measured": [1]},
    )
    assert labels(waterfall_table([*others, kept])) == ["mistral-7b, `fused`, B = 1: `fused_nf4`"]
