import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import profiler.cli as cli
from profiler.record import list_runs, load_record

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
RUN = list_runs(RESULTS / "cpu")[-1]


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["runs", *map(str, arguments)])


def test_runs_are_listed_with_machine_and_counts():
    result = invoke("list", RESULTS / "cpu", "--json")
    assert result.exit_code == 0
    entries = json.loads(result.stdout)["runs"]
    record = load_record(RUN)
    entry = next(entry for entry in entries if entry["run"] == RUN.name)
    assert entry["kind"] == record.kind and entry["rows"] == len(record.results)
    assert entry["samples"] == record.samples_count and entry["machine"] == record.environment.cpu_model
    text = invoke("list", RESULTS / "cpu").stdout
    assert f"{len(entries)} runs in" in text and "complete" in text


def test_a_damaged_run_is_listed_with_what_is_wrong(tmp_path):
    broken = tmp_path / "20260101T000000Z-broken"
    broken.mkdir()
    (broken / "run.json").write_text("{")
    entry = json.loads(invoke("list", tmp_path, "--json").stdout)["runs"][0]
    assert entry["run"] == broken.name and "is not JSON" in entry["error"] and entry["rows"] is None
    shown = invoke("show", broken)
    assert shown.exit_code != 0 and "is not JSON" in (shown.output + str(shown.exception))


def test_a_run_is_shown_with_its_samples_checked():
    text = invoke("show", RUN).stdout
    record = load_record(RUN)
    assert record.run_id in text.replace("\n", "") and "their digest is the record's" in text
    assert record.results[0].kernel in text
    assert json.loads(invoke("show", RUN, "--json").stdout)["run_id"] == record.run_id


def test_the_schema_describes_records_and_samples():
    schema = json.loads(invoke("schema").stdout)
    assert schema["run.json"]["properties"]["schema_version"]["const"] == 1
    assert "kernel" in json.dumps(schema["samples.jsonl.gz"])


@pytest.mark.parametrize("command", ["list", "show"])
def test_a_folder_that_is_not_there_is_named(command, tmp_path):
    result = invoke(command, tmp_path / "nowhere")
    assert result.exit_code != 0
    assert "nowhere" in (result.output + str(result.exception))
