"""phi, energy, host and the time between linears: known parameters come back from simulated measurements."""

import dataclasses

import numpy as np
import pytest

from analysis.fit_between import BETWEEN_PARAMETERS, HopBetween, fit_between
from analysis.fit_cast import CAST_PARAMETERS, CastCell, fit_cast
from analysis.fit_energy import EnergyWork, Product, alpha_j_per_bit, busy_w, fit_energy, phi_j, product_j
from analysis.fit_host import LaunchChain, fit_host

SHAPES = ((1024, 3072), (2560, 2458), (4096, 4096), (4096, 14336), (28672, 4096))


def casts(
    truth: tuple[float, float, float, float], *, noise_s: float = 0.0, ms: tuple[int, ...] = (1, 16, 64, 256)
) -> list[CastCell]:
    random = np.random.default_rng(1)
    cells = []
    for n, k in SHAPES:
        for m in ms:
            cast = truth[0] + truth[1] * n * k + truth[2] * m * n * k + truth[3] * m * (n + k)
            cells.append(CastCell(m, n, k, cast + noise_s * random.standard_normal(), noise_s, 5e-13 * n * k))
    return cells


def test_a_cast_paid_once_per_pass_has_no_row_part() -> None:
    fit = fit_cast(casts((3e-6, 1.85e-12, 0.0, 0.0), noise_s=5e-8), seed=0)
    assert fit.solution.interval("pass_s_per_weight").point == pytest.approx(1.85e-12, rel=0.02)
    assert fit.solution.interval("row_s_per_weight").high * 256 < 0.05 * 1.85e-12
    assert fit.solution.interval("launch_s").low <= 3e-6 <= fit.solution.interval("launch_s").high


def test_a_cast_that_every_row_pays_has_no_pass_part() -> None:
    fit = fit_cast(casts((0.0, 0.0, 2e-15, 3e-12)), seed=0)
    assert dict(zip(CAST_PARAMETERS, fit.solution.point, strict=True)) == pytest.approx(
        {"launch_s": 0, "pass_s_per_weight": 0, "row_s_per_weight": 2e-15, "edge_s_per_element": 3e-12},
        rel=1e-5,
        abs=1e-20,
    )


def test_a_hidden_cast_is_zero_and_negative_differences_are_named() -> None:
    cells = [CastCell(c.m, c.n, c.k, -1e-6, 1e-8, c.comp_s) for c in casts((0, 0, 0, 0))]
    fit = fit_cast(cells, seed=0)
    assert fit.solution.point == pytest.approx(np.zeros(4))
    assert any("20 of 20 casts are below 0" in warning for warning in fit.warnings)


def test_one_m_cannot_show_the_row_part() -> None:
    fit = fit_cast(casts((1e-6, 1e-12, 0, 0), ms=(1,)), seed=0)
    assert set(fit.not_identified) == {"row_s_per_weight", "edge_s_per_element"}


def test_no_casts_are_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        fit_cast([], seed=0)


STATIC_W, PER_BYTE, PER_FLOP, PER_DECODED = 130.0, 5.0e-11, 4.0e-13, 6.0e-12


def work(
    *, noise: float = 0.0, loads: tuple[str, ...] = ("idle", "memory", "compute", "fused_nf4")
) -> list[EnergyWork]:
    random = np.random.default_rng(2)
    weights = float(28672 * 4096)
    units = {
        "idle": (1.0, 0.0, 0.0, 0.0),
        "memory": (57e-6, 2 * weights, 2 * weights, 0.0),
        "compute": (2.4e-3, 2 * weights, 2 * 8192 * weights, 0.0),
        "fused_nf4": (19e-6, 0.53 * weights, 2 * weights, weights),
    }
    found = []
    for load in loads:
        for scale in (1.0, 0.25, 0.06):
            time_s, moved, flops, decoded = (scale * x for x in units[load])
            energy = STATIC_W * time_s + PER_BYTE * moved + PER_FLOP * flops + PER_DECODED * decoded
            energy *= 1 + noise * random.standard_normal()
            products = (Product(load, 4, decoded, 1),) if decoded else ()
            found.append(EnergyWork(load, energy, noise, time_s, moved, flops, products))
    return found


def test_energy_parameters_come_back() -> None:
    fit = fit_energy(work(noise=0.003), seed=0)
    wanted = {
        "static_w": STATIC_W,
        "j_per_byte": PER_BYTE,
        "j_per_flop": PER_FLOP,
        "cast_j_per_weight.fused_nf4": PER_DECODED,
    }
    assert fit.solution.names == tuple(wanted)
    for name, value in wanted.items():
        interval = fit.solution.interval(name)
        assert interval.low <= value <= interval.high and interval.point == pytest.approx(value, rel=0.1)
    assert fit.warnings == ()


def test_memory_bound_windows_alone_cannot_tell_static_power_from_bytes() -> None:
    fit = fit_energy(work(loads=("memory", "compute")), seed=0)
    assert any("no idle window" in warning for warning in fit.warnings)
    only_memory = [w for w in work(loads=("idle", "memory", "compute")) if w.load == "memory"]
    with pytest.raises(ValueError, match="3 observations cannot determine 3"):
        fit_energy(only_memory, seed=0)
    collinear = fit_energy(only_memory * 2, seed=0)
    assert any("condition number" in warning for warning in collinear.warnings)


def test_alpha_and_phi_by_hand() -> None:
    fitted = {"static_w": 100.0, "j_per_byte": 8e-11, "cast_j_per_weight.fused_nf4": 2e-12}
    assert alpha_j_per_bit(fitted, 1e9, 1e12) == pytest.approx(1e9 / 8 * (8e-11 + 1e-10))
    assert phi_j(fitted, "fused_nf4", 1e9, 1e-3) == pytest.approx(0.1 + 2e-3)
    assert phi_j(fitted, "fused_int8", 1e9, 1e-3) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="weights=0"):
        alpha_j_per_bit(fitted, 0, 1e12)


def test_a_product_pays_for_its_structure_its_rows_and_its_cast() -> None:
    fitted = {
        "own_j_per_weight.null_nf4": 2e-11,
        "own_row_j_per_weight.null_nf4": 3e-13,
        "own_j_per_weight.gemv_bf16": 7e-11,
        "cast_j_per_weight.fused_nf4": 1e-11,
        "cast_j_per_weight.unfused_nf4": 8e-11,
    }
    wanted = {
        ("fused_nf4", 4): (3e-11, 3e-13),
        ("fused_fp4", 4): (2e-11, 3e-13),
        ("null_nf4", 4): (2e-11, 3e-13),
        ("unfused_nf4", 4): (8e-11, 0),
        ("fused_int8", 8): (0, 0),
        ("gemv_bf16", None): (7e-11, 0),
        ("bf16", None): (0, 0),
    }
    for (kernel, bits), joules in wanted.items():
        assert product_j(fitted, kernel, bits) == pytest.approx(joules)


def test_launch_and_sync_come_back() -> None:
    chains = [
        LaunchChain(launches, syncs, launches * 4e-6 + syncs * 9e-6, 0.001)
        for launches, syncs in ((10, 0), (100, 0), (100, 100), (100, 10))
    ]
    found = fit_host(chains, seed=0)
    assert dict(zip(found.names, found.point, strict=True)) == pytest.approx(
        {"launch_s": 4e-6, "sync_s": 9e-6}, rel=1e-6
    )


def test_chains_without_syncs_cannot_show_s() -> None:
    with pytest.raises(ValueError, match="one ratio of syncs to launches"):
        fit_host([LaunchChain(n, 0, n * 4e-6, 0.0) for n in (1, 10, 100)], seed=0)


ONCE_S, LAYER_S, TRAFFIC, BYTES_PER_S = 2.1e-5, 1.05e-5, 1.3, 4.5e12


def hop_parts(
    *, noise: float = 0.0, layers: tuple[int, ...] = (4, 12), batches: tuple[int, ...] = (1, 8, 64)
) -> list[HopBetween]:
    random = np.random.default_rng(3)
    found = []
    for per_layer, once in ((2_150_000, 306_000), (2_230_000, 72_000)):
        for count in layers:
            for batch in batches:
                row_bytes = count * per_layer + once
                time_s = ONCE_S + count * LAYER_S + TRAFFIC * batch * row_bytes / BYTES_PER_S
                time_s *= 1 + noise * random.standard_normal()
                found.append(HopBetween(count, batch, row_bytes, 1024, 3072, time_s, noise))
    return found


def test_what_lies_between_linears_comes_back() -> None:
    wanted = dict(zip(BETWEEN_PARAMETERS, (ONCE_S, LAYER_S, TRAFFIC), strict=True))
    exact = fit_between(hop_parts(), BYTES_PER_S, seed=0)
    assert dict(zip(exact.solution.names, exact.solution.point, strict=True)) == pytest.approx(
        wanted, rel=1e-6
    )
    fit = fit_between(hop_parts(noise=0.01), BYTES_PER_S, seed=0)
    for name, value in wanted.items():
        interval = fit.solution.interval(name)
        assert interval.low <= value <= interval.high and interval.point == pytest.approx(value, rel=0.1)
    assert fit.warnings == ()


def test_hop_parts_that_cannot_tell_parameters_apart_are_refused_or_named() -> None:
    with pytest.raises(ValueError, match="6 hops of 12 layers cannot tell a hop from its layers"):
        fit_between(hop_parts(layers=(12,)), BYTES_PER_S, seed=0)
    with pytest.raises(ValueError, match="4 hops of B = 8 cannot tell layers from their traffic"):
        fit_between(hop_parts(batches=(8,)), BYTES_PER_S, seed=0)
    with pytest.raises(ValueError, match="0 hops of no layers"):
        fit_between([], BYTES_PER_S, seed=0)
    with pytest.raises(ValueError, match="bytes_per_s=0"):
        fit_between(hop_parts(), 0, seed=0)
    alike = fit_between(hop_parts(layers=(400, 401)), BYTES_PER_S, seed=0)
    assert any("once_s" in w and "few and of many layers" in w for w in alike.warnings)
    crooked = [
        dataclasses.replace(h, time_s=h.time_s * (4 if i % 2 else 1), relative_se=0.0)
        for i, h in enumerate(hop_parts())
    ]
    assert any("too simple" in w for w in fit_between(crooked, BYTES_PER_S, seed=0).warnings)


def busy_work(active_w: float, *, noise: float = 0.002) -> list[EnergyWork]:
    """Idling, and kernels with much, some and little traffic and arithmetic for their time."""
    random = np.random.default_rng(5)
    units = {"idle": (1.0, 0.0, 0.0)}
    units |= {f"memory{share}": (57e-6, 2.3e8 * share, 2e8) for share in (1.0, 0.5, 0.1)}
    units |= {f"compute{share}": (2.4e-3, 2.3e8, 1.8e12 * share) for share in (1.0, 0.3)}
    found = []
    for load, (time_s, moved, flops) in units.items():
        drawn_w = STATIC_W + active_w * (load != "idle")
        energy = drawn_w * time_s + PER_BYTE * moved + PER_FLOP * flops
        energy *= 1 + noise * random.standard_normal()
        found.append(EnergyWork(load, energy, noise, time_s, moved, flops))
    return found


@pytest.mark.parametrize("active_w", [0.0, 70.0])
def test_the_power_of_a_busy_device_comes_back(active_w: float) -> None:
    fit = fit_energy(busy_work(active_w), seed=0)
    assert fit.solution.names == ("static_w", "j_per_byte", "j_per_flop", "active_w")
    for name, value in (("static_w", STATIC_W), ("active_w", active_w), ("j_per_byte", PER_BYTE)):
        interval = fit.solution.interval(name)
        assert interval.low <= value <= interval.high
        assert interval.point == pytest.approx(value, rel=0.05, abs=3.0)


def test_the_power_of_a_busy_device_needs_idling_and_little_traffic() -> None:
    assert "active_w" not in fit_energy(work(noise=0.003), seed=0).solution.names
    without_idle = [w for w in busy_work(70.0) if w.load != "idle"]
    assert "active_w" not in fit_energy(without_idle, seed=0).solution.names


def test_alpha_and_phi_hold_the_power_of_a_busy_device() -> None:
    fitted = {"static_w": 100.0, "active_w": 50.0, "j_per_byte": 8e-11}
    assert busy_w(fitted) == 150.0 and busy_w({"static_w": 100.0}) == 100.0
    assert alpha_j_per_bit(fitted, 1e9, 1e12) == pytest.approx(1e9 / 8 * (8e-11 + 1.5e-10))
    assert phi_j(fitted, "fused_nf4", 1e9, 1e-3) == pytest.approx(0.15)
