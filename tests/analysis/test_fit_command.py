"""``qt-profile fit``: what it prints, stores and refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from fit_world import ONCE_S, chain, energy_run, hop_parts, sweep
from typer.testing import CliRunner

from analysis.fit_file import read_fits
from analysis.fit_input import read_runs
from profiler.cli import app
from profiler.record import load_record, write_run


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["fit", *arguments])


def test_the_command_prints_and_stores(tmp_path: Path) -> None:
    derived = {**sweep().derived, "hop_parts": hop_parts()}
    for record in (sweep(derived=derived), energy_run(), chain(1, -0.4, number=2), chain(64, 0.3, number=3)):
        write_run(tmp_path / "runs", record, [])
    out = ("--out", str(tmp_path / "fits"), "--draws", "20")
    result = invoke(str(tmp_path / "runs"), *out, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.strip().splitlines()[-1])
    fits = read_fits(Path(said["fits"]))
    assert fits.machine == "NVIDIA H200" and len(fits.runs) == 4 and Path(said["picture"]).is_file()
    assert said["b_star_time"]["unfused_nf4"]["regime"] == "always" and "null_nf4" not in said["b_star_time"]
    assert said["measured_chains"] == [
        {"model": "tiny", "kernel": "fused_nf4", "loses_at": [64], "wins_at": [1]}
    ]
    assert said["between"]["bf16"]["once_s"]["point"] == pytest.approx(ONCE_S, rel=1e-3)
    text = invoke(str(tmp_path / "runs"), *out)
    assert text.exit_code == 0
    for words in (
        "phi, time of casting",
        "time between the linears",
        "B* of the linear layers of mistral-7b",
        "loses at every size",
    ):
        assert words in text.stdout


def test_the_command_refuses_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = write_run(tmp_path / "runs", sweep(), [])
    good = (folder / "run.json").read_text("utf-8")
    cases = {
        "holds no runs": [str(tmp_path / "empty")],
        "is not a run": [str(tmp_path / "nowhere")],
        "--b-max 1 is below 2": [str(folder), "--b-max", "1"],
        "n_draws=3": [str(folder), "--draws", "3"],
        "unknown model": [str(folder), "--model", "nosuch"],
    }
    for words, arguments in cases.items():
        result = invoke(*arguments, "--out", str(tmp_path / "fits"))
        assert result.exit_code in (1, 2) and words in result.stderr, (words, result.stderr)
        assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert not (tmp_path / "fits").exists()
    for change in (('"schema_version":1', '"schema_version":99'), ('"timings":20', '"timings":NaN')):
        (folder / "run.json").write_text(
            good.replace(*change)
            if change[0] in good
            else good.replace(change[0].replace(":", ": "), change[1].replace(":", ": ")),
            "utf-8",
        )
        result = invoke(str(folder), "--out", str(tmp_path / "fits"))
        assert result.exit_code in (1, 2) and result.stderr.startswith("error: "), result.stderr
    with pytest.raises(ValueError):
        load_record(folder)
    with pytest.raises(ValueError):
        read_runs([folder])
