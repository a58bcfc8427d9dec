"""Notes about ranges whose own cost could not be taken off, and where they go."""

from test_chain_summary import row

from analysis.chain_figures import BatchFigures
from analysis.chain_ranges import range_notes
from profiler.record import RangeSample


def sample(cost_s: float | None, at_zero: int | None = 0, kernel: str = "fused_nf4") -> RangeSample:
    fields = {} if at_zero is None else {"ranges": 56, "ranges_at_zero": at_zero}
    return RangeSample(
        kernel=kernel, repeat=0, batch_index=0, hop=1, linear_s=1e-3, range_cost_s=cost_s, **fields
    )


def test_costs_that_were_measured_and_old_records_say_nothing() -> None:
    assert range_notes([]) == []
    assert range_notes([sample(3e-6), sample(2e-6)]) == []
    assert range_notes([sample(None, None)]) == []


def test_nonsense_and_floored_ranges_are_counted() -> None:
    notes = range_notes([sample(0.0), sample(3e-6, 4), sample(3e-6, 1)])
    assert notes == [
        "ranges: measuring what a range costs made no sense for 1 of 3 hops, whose times hold it",
        "ranges: 5 of 168 took less than a range costs, and count 0",
    ]


def test_the_replayed_row_of_the_kernel_has_the_notes_once() -> None:
    rows = [row("bf16", "replay"), row("fused_nf4", "generate"), row("fused_nf4", "replay", notes=["known"])]
    for _ in range(2):
        rows = BatchFigures(rows, [sample(0.0)], "bf16", 1).rows()
    assert [len(r.notes) for r in rows] == [0, 0, 2]
    assert rows[2].notes[0] == "known" and "made no sense for 1 of 1 hops" in rows[2].notes[1]
