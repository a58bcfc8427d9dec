"""N* from fits and between measured models, against made-up machines whose answers are worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import report_runs as given
from fit_world import energy_run, sweep
from prediction_world import MODEL, chain, fits, fitted
from typer.testing import CliRunner

from analysis.fit_cast import CAST_PARAMETERS
from analysis.fit_crossing import Layer, fitted_time
from analysis.fit_file import FitsFile
from analysis.fit_joules import printed_b_star
from analysis.fit_time import TIME_PARAMETERS
from analysis.report.build import build_report
from analysis.report.inputs import Inputs
from analysis.report.section import Missing, Table
from analysis.scale import FamilyPoint
from analysis.scale_fits import device_n_star, host_n_star, measured_families, printed_n_star
from profiler.cli import app
from profiler.cli_fit_scale import n_star_json
from profiler.record import RunRecord, VariantResult, write_run

LAYERS = (Layer(1000, 1000, 10),)
SIZES = {"small": 1_000_000_000, "large": 3_000_000_000}
A100 = {"gpu": "NVIDIA A100-SXM4-80GB", "arch": "a100-80"}


def with_casts(pass_s: float = 1e-13, **changed: Any) -> FitsFile:
    found = fits(**changed)
    cast = fitted(CAST_PARAMETERS, (0.0, pass_s, 0.0, 0.0), 0.02, 40)
    kernels = {
        name: fit if name == "bf16" else fit.model_copy(update={"cast": cast})
        for name, fit in found.kernels.items()
    }
    return found.model_copy(update={"kernels": kernels})


def family(small: tuple[float, float], large: tuple[float, float], **changed: Any) -> list[RunRecord]:
    """Chains of two models with the hop times of bf16 and fused_nf4 at B = 1, ms."""
    return [
        chain(
            {("bf16", 1): native / 1e3, ("fused_nf4", 1): own / 1e3},
            number=number,
            **({"model": model, "context": 512} | changed),
        )
        for number, (model, (native, own)) in enumerate((("small", small), ("large", large)))
    ]


def test_the_printed_scale_is_phi_over_alpha_and_the_bits_saved() -> None:
    # alpha = 1e7/8 (5e-11 + 150/4e12) = 1.09375e-4 J/bit; phi = 150 W * 1e-6 s + 1e7 * 2e-12 J = 1.7e-4 J.
    factor = 1.7e-4 / (1.09375e-4 * 12)
    bare = printed_n_star(with_casts(), "fused_nf4", LAYERS, b_w=1)
    found = printed_n_star(with_casts(), "fused_nf4", LAYERS)
    assert bare is not None and found is not None
    assert bare.point == pytest.approx(factor) and found.point == pytest.approx(1e7 * factor)
    assert found.low < found.point < found.high and found.high == pytest.approx(1e7 * bare.high)
    star = printed_b_star(with_casts(), "fused_nf4", LAYERS)
    # In this reading it is Eq. 18 again: B* = 1 at N = N*.
    assert star is not None and found.point * star.point == pytest.approx(1e7)


def test_the_printed_scale_needs_what_it_is_made_of() -> None:
    for missing in ({"energy": None}, {"read_bytes_per_s": None}):
        assert printed_n_star(with_casts(**missing), "fused_nf4", LAYERS) is None
    assert printed_n_star(fits(), "fused_nf4", LAYERS) is None
    free = fitted(("static_w", "j_per_byte", "j_per_flop"), (0.0, 0.0, 1e-13), 0.0, 40)
    assert printed_n_star(with_casts(energy=free), "fused_nf4", LAYERS) is None
    with pytest.raises(ValueError, match="lack fused_int8"):
        printed_n_star(with_casts(), "fused_int8", LAYERS)
    with pytest.raises(ValueError, match="b_w"):
        printed_n_star(with_casts(), "fused_nf4", LAYERS, b_w=0)


def test_the_device_bound_scale_is_added_time_over_saved_time() -> None:
    found = device_n_star(fits(), "native_fp8", LAYERS)
    # 10 calls of 1 µs more, 0.2 ps less per weight.
    assert found.point == pytest.approx(5e7)
    assert found.low <= found.point <= found.high and found.high == pytest.approx(5e7)
    free, lost = (device_n_star(fits(), kernel, LAYERS) for kernel in ("fused_nf4", "unfused_nf4"))
    assert (free.low, free.point, free.high) == (0, 0, 0) and math.copysign(1, free.point) == 1
    assert lost.low == lost.point == lost.high == math.inf
    with pytest.raises(ValueError, match="lack fused_int8"):
        device_n_star(fits(), "fused_int8", LAYERS)


def test_the_fitted_layers_change_sides_at_the_device_bound_scale() -> None:
    kernels = dict(fits().kernels)
    for name, launch_s, pass_s in (("bf16", 2e-6, 4e-13), ("native_fp8", 3e-6, 2e-13)):
        time = fitted(TIME_PARAMETERS, (launch_s, pass_s, 0.0, 0.0, 0.0, 0.0), 0.0, 40)
        kernels[name] = kernels[name].model_copy(update={"time": time})
    plain = fits(kernels=kernels)
    star = device_n_star(plain, "native_fp8", LAYERS).point
    for share in (0.9, 1.1):
        layers = [Layer(1000, round(share * star / 1e4), 10)]
        own, native = (float(fitted_time(kernels[n].time, layers).at(1)) for n in ("native_fp8", "bf16"))
        assert (own > native) == (share < 1)


def test_draws_that_save_nothing_leave_the_scale_without_an_upper_end() -> None:
    found = fits(spread=0.0)
    time = found.kernels["native_fp8"].time
    draws = [row if i % 5 else [row[0], 5e-13, *row[2:]] for i, row in enumerate(time.draws)]
    kernel = found.kernels["native_fp8"].model_copy(update={"time": time.model_copy(update={"draws": draws})})
    mixed = device_n_star(
        found.model_copy(update={"kernels": {**found.kernels, "native_fp8": kernel}}), "native_fp8", LAYERS
    )
    assert mixed.point == mixed.low == pytest.approx(5e7) and mixed.high == math.inf


@pytest.mark.parametrize(("kernel", "launched"), [("fused_nf4", 107), ("unfused_nf4", 121)])
def test_the_host_bound_scale_is_what_is_read_while_the_host_launches(kernel: str, launched: int) -> None:
    # 2 layers of 32 and 2 kernels, 24 once, 14 linears, 1 output layer; an unfused linear launches two.
    found = host_n_star(fits(), kernel, MODEL)
    assert found is not None
    assert found.point == pytest.approx(4e12 * (launched * 5e-6 + 1e-5) / 2)
    assert found.low < found.point < found.high
    assert host_n_star(fits(host=None), kernel, MODEL) is None


def test_measured_models_bracket_the_scale() -> None:
    (found,) = measured_families(family((1.0, 1.5), (3.0, 2.5)), SIZES)
    assert (found.machine, found.engine, found.context) == ("NVIDIA H200", "graph", 512)
    assert (found.mode, found.kernel, found.batch_size) == ("replay", "fused_nf4", 1)
    assert found.points == (FamilyPoint(1e9, 1e-3, 1.5e-3), FamilyPoint(3e9, 3e-3, 2.5e-3))
    assert found.scale.trapped == (1e9,) and found.scale.free == (3e9,) and found.unclear == ()
    ((low, high, star),) = found.scale.brackets
    assert (low, high) == (1e9, 3e9) and star == pytest.approx(2e9)


def test_sizes_that_intervals_do_not_tell_apart_bracket_nothing() -> None:
    (found,) = measured_families(family((1.0, 1.002), (3.0, 2.5)), SIZES)
    assert found.unclear == (1e9,) and found.scale.brackets == ()
    assert found.scale.trapped == () and found.scale.free == (3e9,)


def test_only_what_was_measured_alike_is_a_family() -> None:
    small, large = family((1.0, 1.5), (3.0, 2.5))
    assert measured_families([small], SIZES) == []
    assert measured_families([small, large], {"large": 3_000_000_000}) == []
    for changed in ({"engine": "eager"}, {"context": 64}, A100):
        assert measured_families([small, family((1.0, 1.5), (3.0, 2.5), **changed)[1]], SIZES) == []
    rows = [row.model_copy(update={"mode": "generate"}) for row in large.results]
    assert measured_families([small, large.model_copy(update={"results": rows})], SIZES) == []
    # bf16 of the other batch size is no reference, and a null kernel computes nothing.
    others = [chain({("bf16", 1): 1e-3, ("fused_nf4", 8): 1e-3}, model=model) for model in SIZES]
    nulls = [chain({("bf16", 1): 1e-3, ("null_nf4", 1): 1e-3}, model=model) for model in SIZES]
    assert measured_families([*others, *nulls, sweep()], SIZES) == []


def test_of_two_runs_alike_the_newest_counts_and_batches_stay_apart() -> None:
    small, large = family((1.0, 1.5), (3.0, 2.5))
    newer = family((1.0, 1.2), (3.0, 2.5), later_s=120.0)[0]
    (found,) = measured_families([newer, small, large], SIZES)
    assert found.points[0].variant_s == pytest.approx(1.2e-3)
    rows = {(kernel, b): 1e-3 * b for kernel in ("bf16", "fused_nf4") for b in (1, 8)}
    both = measured_families([chain(rows, model=model) for model in SIZES], SIZES)
    assert [one.batch_size for one in both] == [1, 8] and all(len(one.unclear) == 2 for one in both)


def test_a_hop_without_an_interval_decides_nothing() -> None:
    records = family((1.0, 1.5), (3.0, 2.5))
    bare: list[VariantResult] = []
    for row in records[0].results:
        assert isinstance(row, VariantResult)
        bare.append(row.model_copy(update={"hop_ms_p50_ci95": None}))
    (found,) = measured_families([records[0].model_copy(update={"results": bare}), records[1]], SIZES)
    assert found.unclear == (1e9,) and found.scale.free == (3e9,)


def test_the_report_shows_measured_families_with_and_without_fits() -> None:
    records = tuple(family((1.0, 1.5), (3.0, 2.5)))
    for stored in ((), (given.fits(),)):
        report = build_report(Inputs(records, stored), given.catalogue())
        blocks = next(s for s in report.sections if s.key == "scale").blocks
        table = blocks[0]
        assert isinstance(table, Table) and table.title.startswith("N* measured")
        # 0.0336 and 3.76 G weights, the middle between them.
        assert table.rows == (
            (
                given.H200,
                "graph, context 512, replay",
                "fused_nf4",
                "1",
                "0.0336",
                "3.76",
                "–",
                "between 0.0336 and 3.76, 1.90 by a line between them",
            ),
        )
        assert any(isinstance(block, Missing) for block in blocks) == (not stored)
    for times, words in (
        (((1.0, 1.5), (3.0, 3.5)), "none: loses at every size measured"),
        (((1.0, 0.5), (3.0, 2.5)), "none: wins at every size measured"),
        (((1.0, 1.0), (3.0, 2.5)), "not told by the intervals"),
    ):
        report = build_report(Inputs(tuple(family(*times))), given.catalogue())
        table = next(s for s in report.sections if s.key == "scale").blocks[0]
        assert isinstance(table, Table) and table.rows[0][-1] == words
    report = build_report(Inputs(records[:1]), given.catalogue())
    assert not any(isinstance(b, Table) for s in report.sections if s.key == "scale" for b in s.blocks)


def test_the_json_has_no_infinity() -> None:
    from analysis.scale import family_scale

    scale = family_scale([FamilyPoint(1e9, 1.0, 2.0), FamilyPoint(3e9, 3.0, 2.0)])
    names = ("fused_nf4", "unfused_nf4", "native_fp8")
    found = n_star_json(with_casts(host=None), "mistral-7b", dict.fromkeys(names, scale))
    json.dumps(found, allow_nan=False)
    assert found["unfused_nf4"]["device_bound_weights"] == [None, None, None]
    assert found["unfused_nf4"]["device_bound_loses_at_every_size"]
    assert found["fused_nf4"]["device_bound_weights"] == [0, 0, 0]
    # 4 merged linears in each of 32 layers, 1 µs each.
    assert found["native_fp8"]["device_bound_weights"][0] == pytest.approx(128e-6 / 2e-13)
    assert found["fused_nf4"]["host_bound_eager_weights"] is None
    assert found["fused_nf4"]["by_model_weights"] == [pytest.approx(2e9)]


def test_the_fit_command_shows_every_kind(tmp_path: Path) -> None:
    for record in (sweep(), energy_run()):
        write_run(tmp_path / "runs", record, [])
    arguments = ["fit", str(tmp_path / "runs"), "--out", str(tmp_path / "fits"), "--draws", "20"]
    text = CliRunner().invoke(app, arguments)
    assert text.exit_code == 0, text.output
    for words in (
        "N* at B = 1",
        "as printed (Thm 4.6)",
        "device-bound",
        "host-bound (eager)",
        "not measured",
    ):
        assert words in text.stdout
    said = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout.strip().splitlines()[-1])
    assert set(said["n_star"]) == {"fused_nf4", "unfused_nf4"}
    found = said["n_star"]["fused_nf4"]
    assert found["printed_over_b_w"][0] > 0 and found["device_bound_weights"][0] == 0
    assert found["by_model_weights"] == said["n_star_b1"]["fused_nf4"]
