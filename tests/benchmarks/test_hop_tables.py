"""Hop times of several runs in one table: which run a cell is from, what is left out, what is said below."""

import pytest
from published_chain_runs import cells, heading, row, run

from analysis.cost_ratio import quotient
from benchmarks.hop_tables import engine_table, hop_table
from benchmarks.published import NotPublished

SIZES = (1, 8, 32, 64, 128)


def test_the_latest_run_wins_each_cell_with_its_own_ratio() -> None:
    old = run(1, [row("bf16", 1, 6.0), row("fused_nf4", 1, 3.0), row("fused_int8", 1, 4.0)])
    new = run(2, [row("bf16", 1, 5.0), row("fused_nf4", 1, 2.0), row("bf16", 64, 8.0)])
    for chains in ([old, new], [new, old]):
        text = hop_table(chains, SIZES)
        assert heading(text) == ["B = 1", "B = 64"]
        assert cells(text, "mistral-7b `bf16`") == ["5.00", "8.00"]
        assert cells(text, "mistral-7b `fused_nf4`") == ["2.00 (2.50)", "–"]
        # Its ratio is to the bf16 of its own run, not to the later one.
        assert cells(text, "mistral-7b `fused_int8`") == ["4.00 (1.50)", "–"]


def test_models_and_kernels_stand_in_the_order_of_size_and_kind() -> None:
    first = run(1, [row(k, 1) for k in ("bnb_nf4", "unfused_nf4", "fused_nf4", "gemv_bf16", "bf16")])
    second = run(2, [row("bf16", 1), row("native_fp8", 1)], model="qwen3-0.6b")
    labels = [line.split("|")[1].strip() for line in hop_table([first, second], SIZES).splitlines()[2:9]]
    assert labels == [
        "qwen3-0.6b `bf16`",
        "qwen3-0.6b `native_fp8`",
        "mistral-7b `bf16`",
        "mistral-7b `gemv_bf16`",
        "mistral-7b `fused_nf4`",
        "mistral-7b `unfused_nf4`",
        "mistral-7b `bnb_nf4`",
    ]


def test_only_fused_random_timed_and_finished_hops_count() -> None:
    good = run(1, [row("bf16", 1, 5.0), row("bf16", 3, 1.0)])
    others = [
        run(2, [row("bf16", 1, 9.0)], engine="graph"),
        run(3, [row("bf16", 1, 9.0)], weights="real"),
        run(4, [row("bf16", 1, 9.0, mode="replay"), row("bf16", 8, None)]),
        run(5, [row("bf16", 1, 9.0)], context=None),
        run(6, [row("bf16", 1, 9.0)], status="interrupted"),
    ]
    text = hop_table([good, *others], SIZES)
    assert heading(text) == ["B = 1"] and cells(text, "mistral-7b `bf16`") == ["5.00"]
    with pytest.raises(NotPublished, match="no chain run with engine fused"):
        hop_table(others, SIZES)
    with pytest.raises(NotPublished, match="no chain run with engine fused"):
        hop_table([], SIZES)


def test_an_interrupted_run_gives_the_batch_sizes_that_it_finished() -> None:
    rows = [row("bf16", 1, 5.0), row("bf16", 8, 6.0)]
    text = hop_table([run(1, rows, status="interrupted", derived={"batch_sizes_measured": [1]})], SIZES)
    assert heading(text) == ["B = 1"]


def test_other_lengths_of_prompts_are_another_question() -> None:
    usual = run(1, [row("bf16", b, 5.0) for b in (1, 8, 64)], context=448)
    near = run(2, [row("fused_nf4", 1, 2.0)], context=480)
    far = run(3, [row("bf16", 1, 4.0), row("bnb_nf4", 1, 4.5)], context=212)
    text = hop_table([usual, near, far], SIZES)
    assert cells(text, "mistral-7b `bf16`")[0] == "5.00" and "bnb_nf4" not in text
    assert "prompts of 448 and 480 tokens, 64 hops" in text
    assert cells(hop_table([far], SIZES), "mistral-7b `bnb_nf4`") == ["4.50 (0.89)"]


def test_a_model_without_bf16_has_times_and_no_ratio() -> None:
    chains = [
        run(
            1,
            [row("fused_int8", 1, 17.25), row("fused_nf4", 1, 11.0)],
            model="qwen2.5-72b",
            baseline="fused_int8",
        ),
        run(2, [row("bf16", 1, 5.0)]),
    ]
    text = hop_table(chains, SIZES)
    assert cells(text, "qwen2.5-72b `fused_nf4`") == ["11.0"]
    assert "Without a ratio: runs of qwen2.5-72b that have no `bf16`." in text


def test_the_line_below_names_machine_versions_dates_records_and_throttling() -> None:
    alone = hop_table([run(1, [row("bf16", 1)], throttled=True)], SIZES).splitlines()[-1]
    assert alone == (
        "NVIDIA H200; torch 2.11.0, triton 3.6.0; engine `fused`, random weights, prompts of 448 tokens, 64 hops; "
        "2026-01-31; record `results/h200/20260131T120100Z-chain-mistral-7b`; clocks were held down (power cap)."
    )
    many = [
        run(n, [row("bf16", 2**n)], throttled=n == 3, torch=f"2.{9 + n}.0", hops=32 * n) for n in (0, 3, 5)
    ]
    many[0][1].arguments["hops"] = 16
    line = hop_table(many, SIZES + (16, 2**5)).splitlines()[-1]
    assert "torch 2.12.0, 2.14.0 and 2.9.0" in line and "16, 96 and 160 hops" in line
    assert "3 chain records of 20260131T120000Z to 20260131T120500Z in `results/h200`" in line
    assert "clocks were held down (power cap) in 1 of 3 runs." in line


def test_engines_side_by_side() -> None:
    chains = [
        run(1, [row("bf16", 1, 4.0), row("fused_nf4", 1, 2.0), row("bf16", 8, 9.0)]),
        run(2, [row("bf16", 1, 8.0), row("bnb_nf4", 1, 7.0)], engine="hf_graph", context=480),
        run(3, [row("bf16", 1, 44.0), row("bnb_int8", 1, 90.0)], engine="eager", context=212),
        # Later, but with prompts of another length.
        run(4, [row("bf16", 1, 3.5), row("bnb_nf4", 1, 5.0)], context=212),
        run(5, [row("bf16", 1, 1.0)], model="qwen3-0.6b"),
        # Prompts or solutions of lengths of their own.
        run(6, [row("bf16", 1, 30.0)], engine="eager", context=None),
        run(7, [row("bf16", 1, 31.0)], engine="eager", hops=None),
    ]
    text = engine_table(chains)
    assert heading(text) == ["`eager`", "`hf_graph`", "`fused`"]
    assert cells(text, "mistral-7b `bf16`") == ["44.0 (11.0)", "8.00 (2.0)", "4.00"]
    assert cells(text, "mistral-7b `bnb_nf4`") == ["–", "7.00 (1.4)", "5.00"]
    assert cells(text, "mistral-7b `bnb_int8`") == ["90.0", "–", "–"]
    assert cells(text, "mistral-7b `fused_nf4`") == ["–", "–", "2.00"]
    # One engine is no comparison, and a run that gives no cell is no source.
    assert "qwen3" not in text and "B = 8" not in text
    with pytest.raises(NotPublished, match="in two engines"):
        engine_table(chains[:1])


def test_a_quotient_holds_every_ratio_that_its_intervals_allow() -> None:
    ratio = quotient(6.0, (5.0, 8.0), 2.0, (1.0, 4.0))
    assert ratio is not None and (ratio.point, ratio.low, ratio.high) == (3.0, 1.25, 8.0)
    assert quotient(6.0, None, 2.0, (1.0, 4.0)) is None
    assert quotient(None, None, 2.0, (1.0, 4.0)) is None
    assert quotient(6.0, (5.0, 8.0), 2.0, (0.0, 4.0)) is None
    assert quotient(6.0, (5.0, 8.0), 0.0, (0.0, 0.0)) is None
