"""Runs the command ``qt-profile`` in tests, and what they ask it for."""

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from profiler.cli import app

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("QT_PROFILE_DATA", ROOT / "../shared/data"))
TINY = Path(str(resources.files("reasoning").joinpath("tiny")))
SHORT = ("--limit", "1", "--max-new", "3", "--ablation", "0", "--kernel", "unfused_int8", "--device", "cpu")
SWEEP = ("--batch", "1,2", "--hops", "2", "--engine", "graph", "--limit", "2")
NORM = "model.layers.0.input_layernorm.weight"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def run(*words: object) -> Any:
    result = CliRunner().invoke(app, [str(word) for word in words], prog_name="qt-profile")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_short(*words: object) -> Any:
    """Run a chain of two hops; later words win over the short ones."""
    return run("chain", *SHORT, *words)


def assert_refused(words: tuple[object, ...], code: int, *parts: str) -> None:
    """The command ends with a code and one sentence on stderr, with ``--json`` in one object on stdout."""
    plain, as_json = run(*words), run(*words, "--json")
    assert (plain.exit_code, as_json.exit_code) == (code, code), plain.stderr
    assert plain.stdout == ""
    sentence = json.loads(as_json.stdout)
    assert sentence.keys() == {"error", "exit_code"}
    assert sentence["exit_code"] == code
    for stderr in (plain.stderr, as_json.stderr):
        assert stderr == f"error: {sentence['error']}\n"
    assert "\n" not in sentence["error"]
    for part in parts:
        assert part in sentence["error"]
