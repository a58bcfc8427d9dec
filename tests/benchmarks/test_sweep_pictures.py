import json
from pathlib import Path
from typing import Any

import pytest
import typer
from fake_peers import FAKES
from typer.testing import CliRunner

from benchmarks import kernel_sweep, pictures
from benchmarks.pictures import Machine, draw_pictures, roofline_png, speedup_png
from kernels.peers import registry
from profiler.hardware import get_arch
from profiler.record import SweepRow, load_run

PNG = b"\x89PNG"
app = typer.Typer()
app.command()(kernel_sweep.sweep_command)


def row(kernel: str, m: int, time_us: float, *, n: int = 4096, k: int = 4096, bits: int = 4) -> SweepRow:
    moved = n * k * bits // 8 + 2 * m * (n + k)
    return SweepRow(
        kernel=kernel,
        m=m,
        n=n,
        k=k,
        bits=bits,
        weight_only=True,
        time_us_p50=time_us,
        timings=3,
        bytes_moved=moved,
        flops=2 * m * n * k,
        gb_s=moved / time_us / 1e3,
        speedup_p50=None if kernel == "bf16" else 12 / time_us,
        gate="no meaning" if kernel.startswith("null") else "passed",
    )


def rows() -> list[SweepRow]:
    made = []
    for m in (1, 16, 256):
        made += [row("bf16", m, 12.0 + m / 64, bits=16), row("fused_nf4", m, 5.0 + m / 20)]
        made += [row("bnb_nf4", m, 11.0 + m / 10), row("null_nf4", m, 4.0), row("unfused_nf4", m, 30.0)]
        made += [row("fused_int8", m, 8.0 + m / 20, bits=8)]
    return made


H200 = Machine("NVIDIA H200", 4500.0, get_arch("h200"))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn."""
    drawn: list[Any] = []
    real = pictures._png
    monkeypatch.setattr(pictures, "_png", lambda figure: (drawn.append(figure), real(figure))[1])
    return drawn


def lines(axes: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.get_lines()}


def test_the_roofline_has_the_limits_and_says_whose_they_are(figures: list[Any]) -> None:
    assert roofline_png(rows(), H200).startswith(PNG)
    four, eight = figures[0].axes
    found = lines(four)
    assert set(found) == {
        "bf16",
        "fused_nf4",
        "bnb_nf4",
        "measured read, 4,500 GB/s",
        "vendor's bandwidth, 4,800 GB/s",
        "vendor's bf16 peak, 989 TFLOP/s",
    }
    expected = row("fused_nf4", 16, 5.0 + 16 / 20).gb_s
    assert list(found["fused_nf4"].get_xdata()) == [1, 16, 256]
    assert found["fused_nf4"].get_ydata()[1] == pytest.approx(expected)
    peak = found["vendor's bf16 peak, 989 TFLOP/s"].get_ydata()
    bytes_moved, flops = 4096 * 4096 // 2 + 2 * 256 * 8192, 2 * 256 * 4096 * 4096
    assert peak[-1] == pytest.approx(get_arch("h200").bf16_tflops * 1e12 / flops * bytes_moved / 1e9)
    assert "8-bit" in eight.get_title() and "fused_int8" in lines(eight) and "fused_nf4" not in lines(eight)


def test_without_a_row_of_the_table_there_is_no_vendors_line(figures: list[Any]) -> None:
    roofline_png(rows(), Machine("a CPU", 10.0, None))
    assert [label for label in lines(figures[0].axes[0]) if "vendor" in label] == []


def test_ours_are_solid_and_peers_are_dashed(figures: list[Any]) -> None:
    assert speedup_png(rows(), H200).startswith(PNG)
    found = lines(figures[0].axes[0])
    styles = {name: line.get_linestyle() for name, line in found.items()}
    assert styles["fused_nf4"] == "-" and styles["bnb_nf4"] == "--" and styles["unfused_nf4"] == ":"
    assert "null_nf4" not in styles
    assert found["fused_nf4"].get_color() == found["unfused_nf4"].get_color() != found["bnb_nf4"].get_color()
    assert figures[0].axes[0].get_ylim()[1] > 12 / 5.05


def test_more_shapes_than_panels_are_told(figures: list[Any]) -> None:
    made = [row(name, 1, 5.0, n=64 * size) for size in range(1, 10) for name in ("bf16", "fused_nf4")]
    speedup_png(made, H200)
    assert len(figures[0].axes) == 6
    assert "the 6 largest of 9 shapes" in figures[0].get_suptitle()
    assert "n=576" in figures[0].axes[-1].get_title()


def test_what_cannot_be_drawn_is_a_sentence_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    unmeasured = SweepRow(kernel="bf16", m=1, n=2, k=3, not_measured="interrupted before it was timed")
    drawn, problems = draw_pictures([unmeasured], H200)
    assert drawn == {}
    assert problems == [
        "roofline.png was not drawn: ValueError: 0 of 1 rows have a time and a bandwidth",
        "speedup.png was not drawn: ValueError: 0 of 1 rows have a speed-up over bf16",
    ]

    def fail(figure: Any) -> bytes:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(pictures, "_png", fail)
    assert draw_pictures(rows(), H200)[1][0] == "roofline.png was not drawn: RuntimeError: no fonts"


def test_a_sweep_leaves_both_pictures_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PEERS", FAKES)
    words = [
        "--arch",
        "cpu",
        "--shapes",
        "24x64",
        "--m",
        "1",
        "--repeats",
        "3",
        "--format",
        "int8",
        "--peers",
    ]
    result = CliRunner().invoke(app, [*words, "--json", "--out", str(tmp_path)])
    folder = Path(json.loads(result.stdout)["run"])
    assert {file.name for file in folder.iterdir()} == {
        "run.json",
        "samples.jsonl.gz",
        "roofline.png",
        "speedup.png",
    }
    assert (folder / "speedup.png").read_bytes().startswith(PNG)


def test_a_missing_picture_is_a_warning_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*rest: Any) -> bytes:
        raise ImportError("No module named 'matplotlib'")

    monkeypatch.setattr(pictures, "roofline_png", fail)
    words = ["--arch", "cpu", "--shapes", "24x64", "--m", "1", "--repeats", "3", "--kernels", "fused_int8"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    assert result.exit_code == 0
    (folder,) = tmp_path.iterdir()
    sentence = "roofline.png was not drawn: ImportError: No module named 'matplotlib'"
    assert sentence in load_run(folder)[0].warnings
    assert "roofline.png was not drawn" in result.stdout
    assert not (folder / "roofline.png").exists() and (folder / "speedup.png").exists()
