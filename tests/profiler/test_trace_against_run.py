"""A trace and a run's own ranges, hop by hop; and what only holds the device back, which is nobody's work."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nsys_builder import ExportBuilder
from test_nsys import read, row
from test_trace_cli import run

from profiler.nsys_trace import TraceReading
from profiler.record import RangeSample, RunRecord, load_record, write_run
from profiler.trace_against_run import compare_with_run

KERNEL = "unfused_nf4"
CAST_NS, COMP_NS, GAP_NS, HELD_NS = 40, 60, 10, 5000


class Trace(ExportBuilder):
    """A replay of batches: hops with two linears of a cast and a product each, back to back on the device."""

    at = 1000
    device = 1000
    number = 0

    def work(self, kernel_ns: int, gap_ns: int = GAP_NS) -> None:
        self.number += 1
        self.launch(self.number, self.at + 1, self.device + gap_ns, self.device + gap_ns + kernel_ns)
        self.device += gap_ns + kernel_ns
        self.at += 4

    def hop(self, kernel: str, index: int) -> None:
        start = self.at
        self.at += 1
        for _ in range(2):
            for name, kernel_ns in (("tau_cast", CAST_NS), ("tau_comp", COMP_NS)):
                opened = self.at
                self.at += 1
                if name == "tau_comp":
                    held = self.at
                    self.at += 1
                    self.work(HELD_NS)
                    self.range("held", held, self.at)
                    self.at += 1
                self.work(kernel_ns)
                self.range(name, opened, self.at)
                self.at += 1
        self.work(7)
        self.range("hop", start, self.at, payload=index)
        self.at += 1
        self.range(kernel, start - 1, self.at)
        self.at += 2

    def replay(
        self, batches: list[int], kernels: tuple[str, ...] = (KERNEL,), name: str = "timed_ranges"
    ) -> None:
        outer = self.at
        self.at += 2
        cost = self.at
        for _ in range(3):
            self.at += 1
            pair = self.at
            self.work(9)
            self.work(9)
            self.range("two_kernels", pair, self.at)
            self.device += 500
        self.range("range_cost", cost - 1, self.at + 1)
        self.at += 4
        for hops in batches:
            query = self.at
            self.at += 2
            for index in range(hops):
                for kernel in kernels:
                    self.hop(kernel, index)
            self.range("query", query, self.at)
            self.at += 2
        self.range(name, outer, self.at)
        self.at += 2


def own(hop: int, batch: int = 0, kernel: str = KERNEL, **changes: Any) -> RangeSample:
    cast_s, comp_s = 2 * (CAST_NS + GAP_NS) / 1e9, 2 * (COMP_NS + GAP_NS) / 1e9
    fields = {"cast_s": cast_s, "comp_s": comp_s, "linear_s": cast_s + comp_s, "range_cost_s": 3e-6}
    return RangeSample(
        kernel=kernel, batch_size=1, repeat=0, batch_index=batch, hop=hop, **(fields | changes)
    )


@pytest.fixture
def store(tmp_path: Path, make_record: Callable[..., RunRecord]) -> Callable[..., Path]:
    def write(*samples: Any) -> Path:
        return write_run(tmp_path / "runs", make_record(), samples)

    return write


def reading(tmp_path: Path, *args: Any, **settings: Any) -> TraceReading:
    trace = Trace()
    trace.replay(*args, **settings)
    return read(trace, tmp_path)


def test_what_holds_the_device_back_is_work_of_its_own_range_alone(tmp_path: Path) -> None:
    found = reading(tmp_path, [2])
    hop = row(found, f"timed_ranges/query/{KERNEL}/hop").figures
    assert (hop.kernels, hop.device_ns) == (2 * 5, 2 * (2 * (CAST_NS + COMP_NS) + 7))
    assert hop.launches == 2 * 5
    assert (hop.cast_ns, hop.comp_ns, hop.linear_ns) == (4 * CAST_NS, 4 * COMP_NS, 4 * (CAST_NS + COMP_NS))
    assert hop.linear_kernels == 8
    assert hop.busy_ns == hop.device_ns and hop.gap_ns >= 4 * HELD_NS
    held = row(found, f"timed_ranges/query/{KERNEL}/hop/tau_comp/held").figures
    assert (held.kernels, held.device_ns, held.comp_ns) == (4, 4 * HELD_NS, None)
    assert row(found, "timed_ranges").figures.device_ns == hop.device_ns + 6 * 9


def test_hops_are_matched_by_batch_and_number(tmp_path: Path, store: Callable[..., Path]) -> None:
    samples = [own(hop, batch) for batch in range(2) for hop in (1, 2)]
    compared = compare_with_run(reading(tmp_path, [3, 4]), store(*samples))
    assert [(p.batch, p.hop) for p in compared.hops] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    for pair in compared.hops:
        assert (pair.trace_cast_ns, pair.trace_comp_ns, pair.kernels) == (2 * CAST_NS, 2 * COMP_NS, 4)
        assert pair.own_linear_ns == pytest.approx(2 * (CAST_NS + COMP_NS) + 4 * GAP_NS)
    assert compared.gap_ns == GAP_NS
    assert compared.range_cost_ns == pytest.approx(3000)
    ratio, with_gaps = compared.ratios_p50()[KERNEL]
    assert ratio == pytest.approx(240 / 200)
    assert with_gaps == pytest.approx(1.0)


def test_a_fused_kernel_is_compared_by_its_linears_and_old_runs_have_no_cost(
    tmp_path: Path, store: Callable[..., Path]
) -> None:
    samples = [own(1), own(1, kernel="fused_nf4", cast_s=None, comp_s=None, range_cost_s=None)]
    samples = [s.model_copy(update={"range_cost_s": None}) for s in samples]
    compared = compare_with_run(reading(tmp_path, [2], ("fused_nf4", KERNEL)), store(*samples))
    assert [p.kernel for p in compared.hops] == [KERNEL, "fused_nf4"]
    assert compared.range_cost_ns is None
    assert compared.hops[1].own_cast_ns is None and compared.hops[1].ratio == pytest.approx(1.2)


def test_what_cannot_be_compared_is_one_sentence(
    tmp_path: Path, store: Callable[..., Path], samples: list[Any]
) -> None:
    found = reading(tmp_path, [3])
    none = store(*[s for s in samples if not isinstance(s, RangeSample)])
    with pytest.raises(ValueError, match="0 samples of ranges to compare .*t.sqlite with"):
        compare_with_run(found, none)
    (tmp_path / "b").mkdir()
    elsewhere = reading(tmp_path / "b", [3], name="other")
    mine = [own(hop) for hop in (1, 2)]
    run_folder = write_again(tmp_path / "c", none, mine)
    with pytest.raises(
        ValueError, match="has 3 hops, none of them with kernels in the linears and inside timed_"
    ):
        compare_with_run(elsewhere, run_folder)
    with pytest.raises(ValueError, match="shows unfused_nf4, .* has timed unfused_fp4: no kernel in common"):
        compare_with_run(found, write_again(tmp_path / "d", none, [own(1, kernel="unfused_fp4")]))
    with pytest.raises(ValueError, match="shows 1 batches of unfused_nf4, .* has timed 2"):
        compare_with_run(found, write_again(tmp_path / "e", none, [own(1), own(1, batch=1)]))
    with pytest.raises(ValueError, match="have no hop of unfused_nf4 in common"):
        compare_with_run(found, write_again(tmp_path / "f", none, [own(7)]))
    with pytest.raises(ValueError, match="is not a run"):
        compare_with_run(found, tmp_path / "nothing")


def write_again(folder: Path, of: Path, samples: list[RangeSample]) -> Path:
    return write_run(folder, load_record(of), samples)


def test_the_command_prints_and_stores_the_comparison(tmp_path: Path, store: Callable[..., Path]) -> None:
    trace = Trace()
    trace.replay([3])
    file, folder = trace.write(tmp_path / "t.sqlite"), store(own(1), own(2))
    result = run("trace", "read", file, "--against", folder)
    assert result.exit_code == 0
    assert f"{KERNEL}: own / trace 1.200, own / (trace + gaps) 1.000, medians of the hops" in result.stdout
    assert "taken off each range 3.00 µs, a gap between kernels 0.01 µs" in result.stdout
    cells = [line.split("│") for line in result.stdout.splitlines() if f"│ {KERNEL} " in line]
    assert [c.strip() for c in cells[-1][1:-1]] == [
        *(KERNEL, "0", "2", "4", "0.08", "0.12", "0.20", "0.10", "0.14", "0.24", "1.200")
    ]
    found = json.loads(run("trace", "read", file, "--against", folder, "--json").stdout)["against"]
    assert (found["run"], found["gap_ns"], found["ratio_p50"]) == (
        folder.name,
        10,
        {KERNEL: pytest.approx(1.2)},
    )
    assert [hop["hop"] for hop in found["hops"]] == [1, 2]
    assert found["hops"][0]["trace_cast_ns"] == 2 * CAST_NS
    wrong = run("trace", "--json", "read", file, "--against", tmp_path)
    assert wrong.exit_code == 2 and "is not a run" in json.loads(wrong.stdout)["error"]
    traced = run("trace", "--json", "--against", folder, "--", "kernels")
    assert traced.exit_code == 2
    assert "takes trace read FILE, got kernels" in json.loads(traced.stdout)["error"]
