import pytest

from profiler.energy import EnergyReading, FakeMeter, HliMeter, NoMeter
from reasoning.chain import ChainOutcome, ChainRun
from reasoning.chain_energy import ChainEnergy
from reasoning.chain_problems import select_problems
from reasoning.chain_spec import ChainSpec
from reasoning.model import load_model

FEW_TOKENS = {"max_new_tokens": 4, "ablation_problems": 0, "limit": 3}


def run(meter, **settings) -> ChainOutcome:
    spec = ChainSpec(**{**FEW_TOKENS, **settings})
    problems, _ = select_problems(spec)
    return ChainRun(spec, load_model("tiny", device="cpu"), problems, meter).run()


def windows_of(outcome: ChainOutcome, kernel: str) -> list:
    return [s for s in outcome.samples if s.type == "energy" and s.kernel == kernel]


def test_a_meter_without_a_shortest_window_has_one_per_batch_and_nothing_twice() -> None:
    outcome = run(FakeMeter(power_w=50.0, idle_w=20.0, tdp_w=80.0))
    for row in outcome.rows:
        windows = windows_of(outcome, row.kernel)
        assert [(w.repeat, w.queries, w.passes) for w in windows] == [(0, 1, 1), (1, 1, 1), (2, 1, 1)]
        assert (row.energy_windows, row.energy_passes, row.idle_w) == (3, 3, 20.0)
        duration_s = sum(w.duration_s for w in windows)
        assert row.counter_j_per_query == row.polled_j_per_query == row.energy_j_per_query
        assert row.energy_j_per_query == pytest.approx(50 * duration_s / 3)
        assert row.hli_j_per_query == pytest.approx(80 * duration_s / 3)
        assert row.active_j_per_query == pytest.approx(30 * duration_s / 3)
        low, high = row.energy_j_per_query_ci95
        assert low <= row.energy_j_per_query <= high


def test_work_is_repeated_until_windows_are_full_and_hops_are_counted_once() -> None:
    outcome = run(FakeMeter(power_w=50.0, shortest_window_s=0.4), energy_windows=2)
    blocks = {}
    for row in outcome.rows:
        windows = windows_of(outcome, row.kernel)
        assert len(windows) == row.energy_windows >= 2
        assert all(w.duration_s >= 0.4 for w in windows)
        assert row.energy_passes == sum(w.passes for w in windows)
        # What the first pass decoded is counted, and no repeat of it.
        assert (row.problems, row.hops) == (3, 9)
        hops = [s for s in outcome.samples if s.type == "hop" and s.kernel == row.kernel]
        assert sorted((s.batch_index, s.hop) for s in hops) == [(b, h) for b in range(3) for h in range(3)]
        for window in windows:
            assert window.queries * 3 == window.hops
        spent_j = sum(w.energy_j for w in windows)
        assert row.energy_j_per_query == pytest.approx(spent_j / sum(w.queries for w in windows))
        blocks[row.kernel] = [w.queries // w.passes for w in windows]
    assert blocks["bf16"] == blocks["fused_nf4"]  # the same problems in each pair of windows
    assert len([s for s in outcome.samples if s.type == "query"]) == 6


def test_without_windows_a_meter_that_needs_them_is_not_read() -> None:
    outcome = run(FakeMeter(idle_w=20.0, shortest_window_s=60.0), energy_windows=0)
    for row in outcome.rows:
        assert (row.energy_source, row.energy_j_per_query, row.idle_w) == ("none", None, None)
        assert (
            row.energy_detail == "not measured: fake needs windows of 60 s, and energy_windows=0 fills none"
        )
        assert (row.problems, row.hops) == (3, 9)
    assert all(s.energy_j is None for s in outcome.samples if s.type == "energy")


def test_without_windows_a_meter_that_needs_none_is_read() -> None:
    for row in run(FakeMeter(idle_w=20.0), energy_windows=0).rows:
        assert (row.energy_source, row.energy_windows) == ("fake", 3) and row.energy_j_per_query is not None


def test_estimates_and_missing_sources_stay_what_they_are() -> None:
    (row, *_) = run(HliMeter(100.0), limit=1).rows
    assert (row.energy_source, row.counter_j_per_query, row.idle_w) == ("hli", None, None)
    assert row.hli_j_per_query == row.energy_j_per_query
    (row, *_) = run(NoMeter("nothing counts here"), limit=1).rows
    assert (row.energy_source, row.energy_j_per_query) == ("none", None)
    assert row.energy_detail == "not measured: nothing counts here"


def test_one_downgraded_window_marks_the_row() -> None:
    energy = ChainEnergy(FakeMeter(), batch_size=1)
    window = energy.open()
    good = EnergyReading(10.0, 5.0, "nvml_counter", 1.0, "counter", 0.1, 10.0, 10.0, 30.0)
    bad = EnergyReading(
        12.0, 5.0, "nvml_polled", 1.0, "lost; downgraded to nvml_polled", None, None, 12.0, 30.0
    )
    energy.add("bf16", window, good, problems=2, hops=8)
    sample = energy.add("bf16", window, bad, problems=2, hops=8)
    assert (sample.energy_source, sample.energy_detail) == ("nvml_polled", "lost; downgraded to nvml_polled")
    fields = energy.row_fields("bf16")
    assert (fields["energy_source"], fields["counter_j_per_query"]) == ("nvml_polled", None)
    assert fields["energy_j_per_query"] == 5.5
    assert fields["polled_j_per_query"] == 5.5
    assert "downgraded" in str(fields["energy_detail"])
    assert energy.row_fields("fused_nf4") == {"energy_source": "fake"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"energy_windows": -1}, "energy_windows=-1 is below 0"),
        ({"grid_kgco2e_per_kwh": 0.0}, "grid_kgco2e_per_kwh=0 is not a positive number"),
        ({"grid_kgco2e_per_kwh": float("nan")}, "grid_kgco2e_per_kwh=nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        ChainSpec(**settings)
