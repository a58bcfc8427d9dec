"""``qt-profile trace`` as a user meets it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nsys_builder import ExportBuilder, thread
from test_nsys import unfused_hop
from test_nsys_tool import FAKE, put
from test_nvtx import Recorder
from typer.testing import CliRunner

from profiler import cli_trace
from profiler.cli import app
from profiler.nsys import NsysMissingError
from profiler.nvtx import ranges_to

PNG = b"\x89PNG\r\n\x1a\n"


def run(*words: object) -> Any:
    result = CliRunner().invoke(app, [str(word) for word in words], prog_name="qt-profile")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def export(tmp_path: Path) -> Path:
    builder = ExportBuilder()
    for hop in range(5):
        unfused_hop(builder, 1000 * hop + 1000, first=10 * hop)
    return builder.write(tmp_path / "t.sqlite")


@pytest.fixture
def no_nsys(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> Path:
        raise NsysMissingError("nsys is not here; install it")

    monkeypatch.setattr(cli_trace, "find_nsys", find)


@pytest.fixture
def fake_nsys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    nsys = put(tmp_path / "nsight" / "nsys", FAKE.format(python=sys.executable))
    monkeypatch.setattr(cli_trace, "find_nsys", lambda: nsys)
    return nsys


def test_reading_prints_ranges_and_quantiles_of_hops(export: Path) -> None:
    result = run("trace", "read", export)
    assert result.exit_code == 0
    assert "ranges, sums over their instances" in result.stdout
    lines = [line.split("│") for line in result.stdout.splitlines() if "│" in line]
    ranges = {line[1].strip(): [cell.strip() for cell in line[2:-1]] for line in lines if len(line) == 13}
    assert ranges["hop"][:3] == ["5", "15", "15"]
    assert ranges["hop"][6:9] == ["0.050", "0.100", "0.500"]
    assert ranges["tau_cast"][2] == "5"
    assert "hop_" not in result.stdout
    assert "cast_us_p50" in result.stdout


def test_json_is_one_object_in_nanoseconds(export: Path) -> None:
    result = run("trace", "read", export, "--json")
    found = json.loads(result.stdout)
    assert [row["range"] for row in found["ranges"]] == ["hop", "hop/tau_cast", "hop/tau_comp"]
    hop = found["hops"][0]
    assert (hop["cast_ns"], hop["comp_ns"], hop["cor_direct"], hop["kernels"]) == (10, 20, 0.5, 3)
    assert found["warnings"] == []


def test_several_processes_get_a_column(tmp_path: Path) -> None:
    builder = ExportBuilder()
    unfused_hop(builder, 1000, on=thread(7))
    unfused_hop(builder, 1000, on=thread(9))
    builder.kernel(99, 10, 20)
    file = builder.write(tmp_path / "t.sqlite")
    result = run("trace", "read", file)
    assert "process" in result.stdout
    assert "note: 1 kernels (0.000 ms) belong to no range" in result.stdout


def test_the_picture_is_drawn(export: Path, tmp_path: Path) -> None:
    png = tmp_path / "t.png"
    result = run("trace", "read", export, "--png", png)
    assert result.exit_code == 0
    assert f"picture: {png}" in result.stdout
    content = png.read_bytes()
    assert content.startswith(PNG) and len(content) > 5000


def test_a_picture_without_hops_shows_all(tmp_path: Path) -> None:
    builder = ExportBuilder()
    builder.range("sweep", 0, 100)
    file = tmp_path / "t.sqlite"
    builder.write(file)
    assert run("trace", "read", file, "--png", tmp_path / "t.png").exit_code == 2
    file.unlink()
    builder.launch(1, 10, 50, 190)
    builder.copy(1, 195, 205)
    builder.write(file)
    assert run("trace", "read", file, "--png", tmp_path / "t.png").exit_code == 0
    assert (tmp_path / "t.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("read",), "trace read takes 1 file, got 0"),
        (("read", "a", "b"), "trace read takes 1 file, got 2"),
        (("read", "no.sqlite"), "no.sqlite is no file"),
        (("read", "no.nsys-rep"), "no.nsys-rep is no file"),
        (("read", "no.sqlite", "--png", "no/such/t.png"), "--png no/such/t.png: no/such is no folder"),
        (("--", "chian"), "got 'chian'"),
        (("--", "qt-profile"), "got nothing"),
        (("--", "trace", "read"), "got 'trace'"),
        ((), "Missing argument"),
    ],
)
def test_words_that_cannot_be_used(words: tuple[str, ...], sentence: str) -> None:
    assert run("trace", *words).exit_code == 2
    result = run("trace", "--json", *words)
    assert result.exit_code == 2
    assert sentence in json.loads(result.stdout)["error"]


@pytest.mark.usefixtures("no_nsys")
def test_without_nsys_the_exit_code_is_3(tmp_path: Path) -> None:
    result = run("trace", "--out", tmp_path / "runs", "--", "qt-profile", "kernels")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "install it; --fallback traces by torch.profiler instead" in result.stderr
    report = tmp_path / "t.nsys-rep"
    report.write_text("a report")
    assert run("trace", "read", report).exit_code == 3
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("no_nsys")
def test_the_fallback_writes_a_chrome_trace(tmp_path: Path) -> None:
    result = run("trace", "--fallback", "--out", tmp_path, "--", "kernels", "--json")
    assert result.exit_code == 0
    (trace,) = tmp_path.glob("*-trace-kernels.trace.json.gz")
    assert trace.read_bytes().startswith(b"\x1f\x8b")
    assert f"trace: {trace}" in result.stdout
    assert '"kernels"' in result.stdout


@pytest.mark.usefixtures("no_nsys")
def test_the_fallback_keeps_the_code_of_the_command_and_prints_one_object(tmp_path: Path) -> None:
    words = ("trace", "--fallback", "--json", "--out", tmp_path, "--", "chain", "--kernel", "fused_nf5")
    result = run(*words)
    assert result.exit_code == 2
    assert len(list(tmp_path.glob("*.trace.json.gz"))) == 1
    picture = run("trace", "--fallback", "--png", tmp_path / "t.png", "--out", tmp_path, "--", "kernels")
    assert picture.exit_code == 2
    assert "draws a trace of nsys" in picture.stderr


def test_a_command_under_nsys(
    fake_nsys: Path, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NSYS_SQLITE", str(export))
    out = tmp_path / "runs"
    result = run("trace", "--json", "--out", out, "--", "qt-profile", "chain", "--kernel", "fused_nf5")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["command_exit_code"], len(found["hops"])) == (2, 2, 5)
    (report,) = out.glob("*-trace-chain.nsys-rep")
    words = report.read_text().split("\n")
    assert words[-7:] == ["-m", "profiler.cli", "chain", "--kernel", "fused_nf5", "--energy-windows", "0"]
    assert "a traced chain fills no energy windows: --energy-windows 0" in result.stderr
    assert report.with_suffix(".sqlite").read_bytes() == export.read_bytes()


@pytest.mark.parametrize(
    "words", [["chain", "--energy-windows=3"], ["chain", "--energy-windows", "3"], ["kernels"]]
)
def test_what_the_user_asked_for_is_traced(words: list[str]) -> None:
    assert cli_trace._without_energy_windows(words) == words


def test_a_report_is_exported_elsewhere_and_read(
    fake_nsys: Path, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NSYS_SQLITE", str(export))
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "t.nsys-rep").write_text("a report")
    assert len(json.loads(run("trace", "read", folder / "t.nsys-rep", "--json").stdout)["hops"]) == 5
    assert [path.name for path in folder.iterdir()] == ["t.nsys-rep"]
    monkeypatch.setenv("FAKE_NSYS_EXPORT", "fails")
    result = run("trace", "read", folder / "t.nsys-rep")
    assert result.exit_code == 1
    assert "Failed to open the report" in result.stderr


def test_ranges_of_a_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QT_PROFILE_NO_COMPILE", "1")
    threads = torch.get_num_threads()
    recorder = Recorder()
    with ranges_to(recorder):
        words = ("--limit", 1, "--max-new", 3, "--ablation", 1, "--kernel", "unfused_int8", "--device", "cpu")
        result = run("chain", *words, "--out", tmp_path)
    torch.set_num_threads(threads)
    assert result.exit_code == 0
    assert recorder.stack == []
    paths = set(recorder.paths)
    hop = "chain/generate/query/unfused_int8/hop=1"
    assert {hop, f"{hop}/layer.7", f"{hop}/layer.7/tau_cast", f"{hop}/layer.7/tau_comp"} <= paths
    assert "chain/generate/query/bf16/prefill/layer.0/linear" in paths
    assert "chain/warm_up/query/fused_int8/hop=0" in paths
    assert "chain/replay/query/null_int8/hop=1/layer.3/linear" in paths
    assert "chain/replay/timed_ranges/query/unfused_int8/hop=1/layer.3/tau_cast" in paths
