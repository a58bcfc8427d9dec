"""Energy per query: only measured joules of the same work, and verdicts by intervals."""

import pytest
from published_chain_runs import cells, heading, row, run, with_energy

from benchmarks.published import NotPublished
from benchmarks.query_energy_tables import energy_page, energy_summary

LONG = {"energy_windows": 1, "hops": 300, "context": 212}


def test_joules_with_interval_and_ratio() -> None:
    rows = [with_energy("bf16", 1, 1200.0), with_energy("fused_nf4", 1, 600.0), with_energy("bf16", 64, 25.0)]
    text = energy_summary([run(1, rows, throttled=True, **LONG)])
    assert text.startswith(
        "| mistral-7b, engine `fused`: J per query of 300 hops [95 %] (ratio to `bf16`) | B = 1 | B = 64 |"
    )
    assert cells(text, "`bf16`") == ["1,200 [1,188, 1,212]", "25 [24.8, 25.2]"]
    assert cells(text, "`fused_nf4`") == ["600 [594, 606] (0.50)", "–"]
    assert "a prompt of 212 tokens included, energy by `nvml_counter`" in text
    assert text.endswith("clocks were held down (power cap).")


def test_verdicts_are_those_of_whole_intervals() -> None:
    rows = [with_energy("bf16", size, 100.0) for size in (1, 8, 64)]
    rows += [with_energy("unfused_nf4", 64, 103.0), with_energy("unfused_nf4", 8, 150.0)]
    rows += [with_energy("fused_nf4", 1, 50.0), with_energy("fused_nf4", 64, 97.0)]
    # Dearer and cheaper by bare numbers, not by intervals.
    rows += [with_energy("fused_int8", 1, 101.5), with_energy("fused_int8", 8, 98.5)]
    rows += [with_energy("bnb_nf4", 1, 300.0, energy_j_per_query_ci95=None)]
    text = energy_summary([run(1, rows, **LONG)])
    assert (
        "Trapped in energy (more J than `bf16`, the whole interval of the ratio above 1): `unfused_nf4` at B = 8, 64. "
        "Not trapped (the whole interval below 1): `fused_nf4` at B = 1, 64. Not told apart: `fused_int8` at B = 1, 8. "
        "Not judged, for want of an interval: `bnb_nf4` at B = 1."
    ) in text


def test_that_no_kernel_is_trapped_is_said() -> None:
    text = energy_summary(
        [run(1, [with_energy("bf16", 1, 100.0), with_energy("fused_nf4", 1, 50.0)], **LONG)]
    )
    assert (
        "the ratio above 1): no kernel. Not trapped (the whole interval below 1): `fused_nf4` at B = 1."
        in text
    )


def test_a_ratio_is_within_one_run() -> None:
    first = run(1, [with_energy("bf16", 8, 100.0), with_energy("unfused_nf4", 8, 150.0)], **LONG)
    second = run(2, [with_energy("bf16", 8, 200.0)], **LONG)
    text = energy_summary([first, second])
    assert cells(text, "`bf16`") == ["200 [198, 202]"]
    assert cells(text, "`unfused_nf4`") == ["150 [148, 152] (1.50)"]
    assert "above 1): `unfused_nf4` at B = 8." in text
    alone = energy_summary([run(1, [with_energy("fused_nf4", 1, 5.0)], baseline="fused_nf4", **LONG)])
    assert cells(alone, "`fused_nf4`") == ["5 [4.95, 5.05]"]
    assert "Not judged, for want of an interval: `fused_nf4` at B = 1." in alone


def test_estimates_short_windows_and_open_ends_are_left_out() -> None:
    rows = [with_energy("bf16", 1, 100.0)]
    bad = [
        run(1, rows, **(LONG | {"energy_windows": 0})),
        run(2, rows, **(LONG | {"hops": None})),
        run(3, [with_energy("bf16", 1, 100.0, energy_source="hli")], **LONG),
        run(4, [row("bf16", 1)], **LONG),
        run(5, rows, **(LONG | {"energy_windows": None})),
    ]
    for make in (energy_summary, energy_page):
        with pytest.raises(NotPublished, match="filled energy windows"):
            make(bad)
    assert cells(energy_page([*bad, run(6, [with_energy("bf16", 8, 7.0)], **LONG)]), "`bf16`") == [
        "7 [6.93, 7.07]"
    ]


def test_other_work_is_another_table_and_the_summary_shows_the_longest_of_each_engine() -> None:
    short = run(1, [with_energy("bf16", 1, 100.0), with_energy("fused_nf4", 1, 50.0)], energy_windows=1)
    longest = run(2, [with_energy("bf16", size, 700.0) for size in (1, 8)], **LONG)
    eager = run(
        3, [with_energy("bf16", 1, 900.0), with_energy("bnb_int8", 1, 2000.0)], engine="eager", **LONG
    )
    small = run(4, [with_energy("bf16", 1, 70.0)], model="qwen3-0.6b", **LONG)
    chains = [short, longest, eager, small]
    summary, page = energy_summary(chains), energy_page(chains)
    assert [line.split(":")[0] for line in summary.splitlines() if "J per query" in line] == [
        "| mistral-7b, engine `fused`",
        "| mistral-7b, engine `eager`",
    ]
    assert heading(summary) == ["B = 1", "B = 8"] and "300 hops" in summary and "64 hops" not in summary
    assert "above 1): `bnb_int8` at B = 1." in summary
    assert page.count("J per query of") == 4 and "J per query of 64 hops" in page
