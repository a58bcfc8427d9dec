"""Calls at full clocks beside the same calls under a power cap: which runs are compared, and what k is."""

import math
from typing import Any

import pytest
from published_chain_runs import cells, row, run

from benchmarks.power_cap_tables import power_cap_table
from benchmarks.published import NotPublished

IDLE_W, CAP_W, HELD_W = 120.0, 700.0, 690.0


def window(
    load: str, power_w: float, call_s: float = 4e-5, *, pause: float = 0.0, m: int | None = 64
) -> dict:
    """A window of 1,000 calls with pauses after them, as a row of a record."""
    is_call = load not in ("idle", "wait")
    units = 1000 if is_call else 0
    busy_s = units * call_s if is_call else 5.0
    wait_s = pause * busy_s
    joules = power_w * busy_s + IDLE_W * wait_s
    size = {"m": m, "n": 1024, "k": 512} if is_call else {}
    return {
        "type": "energy",
        "load": load,
        "unit": "call" if is_call else "none",
        "windows": 1,
        "units": units,
        "duration_s": busy_s + wait_s,
        "wait_s": wait_s or None,
        "energy_j": joules,
        "energy_source": "nvml_counter",
        "power_w": joules / (busy_s + wait_s),
        **size,
    }


def sweep(number: int, *windows: dict, has_rest: bool = True, cap_w: float | None = CAP_W) -> Any:
    rest = [window("idle", IDLE_W + 9), window("wait", IDLE_W)] if has_rest else []
    path, record = run(number, [row("bf16", 1)], derived={"energy": [*rest, *windows]})
    gpu = record.environment.gpus[0].model_copy(update={"power_limit_w": cap_w})
    environment = record.environment.model_copy(update={"gpus": [gpu]})
    return path, record.model_copy(update={"kind": "sweep", "environment": environment})


def test_k_is_what_power_and_time_give() -> None:
    k, clocks = 1.7, 0.9
    full_w = IDLE_W + (HELD_W - IDLE_W) / clocks**k
    free = sweep(2, window("fused_nf4", full_w, 4e-5, pause=0.6), window("bf16", 720.0, 6e-5, pause=0.6))
    held = sweep(1, window("fused_nf4", HELD_W, 4e-5 / clocks), window("bf16", 692.0, 6.05e-5))
    text = power_cap_table([held, free])
    assert cells(text, "`fused_nf4` 1024×512, m = 64") == [
        f"{full_w:.0f}", "690", "40.0", "44.4 (1.11 times)", "1.7"
    ]  # fmt: skip
    assert cells(text, "`bf16` 1024×512, m = 64")[3:] == ["60.5 (1.01 times)", "waits for memory"]
    assert math.isclose(full_w, 801.8, abs_tol=0.1)
    last = text.splitlines()[-1]
    assert last.startswith("NVIDIA H200, power cap 700 W; 2026-01-31; records ") and held[1].run_id in last


def test_the_latest_of_each_kind_counts_and_only_what_both_hold_down() -> None:
    free = sweep(3, window("fused_nf4", 800.0, pause=0.6), window("slow", 500.0, pause=0.6))
    old = sweep(1, window("fused_nf4", HELD_W, 5e-5))
    new = sweep(2, window("fused_nf4", HELD_W, 4.4e-5), window("slow", 499.0), window("other", HELD_W))
    text = power_cap_table([old, new, free])
    assert "44.0 (1.10 times)" in text and "slow" not in text and "other" not in text


def test_a_later_sweep_that_tells_k_of_fewer_calls_does_not_count() -> None:
    calls = ("fused_nf4", "fused_int8")
    free = sweep(2, *(window(name, 800.0, pause=0.6) for name in calls))
    later = sweep(3, window("fused_nf4", 850.0, pause=0.6), window("fused_int8", 760.0, 4.4e-5, pause=0.6))
    held = sweep(1, *(window(name, HELD_W, 4.4e-5) for name in calls))
    text = power_cap_table([held, free, later])
    assert cells(text, "`fused_nf4` 1024×512, m = 64")[0] == "800" and free[1].run_id in text
    assert "850" in power_cap_table([held, later]) and "waits for memory" in power_cap_table([held, later])


@pytest.mark.parametrize("missing", ["pauses", "no pauses", "rest", "cap", "shared"])
def test_without_both_kinds_there_is_no_table(missing: str) -> None:
    free = sweep(2, window("fused_nf4", 800.0, pause=0.6), has_rest=missing != "rest")
    name, cap_w = ("bf16" if missing == "shared" else "fused_nf4"), (None if missing == "cap" else CAP_W)
    held = sweep(1, window(name, HELD_W), cap_w=cap_w)
    runs = {"pauses": [held], "no pauses": [free]}.get(missing, [held, free])
    with pytest.raises(
        NotPublished, match="no load was measured both" if missing == "shared" else "no sweeps"
    ):
        power_cap_table(runs)
