"""Ranges: off unless a profiler listens; then in our domain, nested, with payloads, and closed by errors too."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kernels.ranges import NO_RANGES
from kernels.registry import get_kernel
from profiler import nvtx as ours
from profiler.nvtx import NvtxSink, mark_layers, open_range, ranges_on, ranges_to, wanted
from profiler.timing import RangeTimer
from profiler.torch_trace import RecordFunctionSink, chrome_trace
from reasoning.quant_linear import QuantLinear, Replacement

ROOT = Path(__file__).resolve().parents[2]


class Recorder:
    """Keeps the path of every range, with its payload."""

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.paths: list[str] = []

    def push(self, name: str, payload: int | None) -> None:
        self.stack.append(name if payload is None else f"{name}={payload}")
        self.paths.append("/".join(self.stack))

    def pop(self) -> None:
        self.stack.pop()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    found = Recorder()
    with ranges_to(found):
        yield found
    assert found.stack == []


class Stack(nn.Module):
    """Two layers; the second one fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.norm = nn.LayerNorm(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        normed: torch.Tensor = self.norm(x)
        return normed


@pytest.mark.parametrize(
    ("environment", "on"),
    [
        ({}, False),
        ({"QT_PROFILE_NVTX": "1"}, True),
        ({"NSYS_PROFILING_SESSION_ID": "4711"}, True),
        ({"NVTX_INJECTION64_PATH": "/lib/x.so"}, True),
        ({"NVTX_INJECTION64_PATH": ""}, False),
        ({"QT_PROFILE_NVTX": "0", "NSYS_PROFILING_SESSION_ID": "4711"}, False),
    ],
)
def test_who_listens(environment: dict[str, str], on: bool) -> None:
    assert wanted(environment) is on


def test_a_switch_of_another_value_is_refused() -> None:
    with pytest.raises(ValueError, match="QT_PROFILE_NVTX='yes' is neither 0 nor 1"):
        wanted({"QT_PROFILE_NVTX": "yes"})


def test_off_costs_nothing() -> None:
    with ranges_to(None):
        assert not ranges_on()
        assert open_range("hop", 1) is open_range("tau_cast")
        model = Stack()
        assert mark_layers(model) == 0
        assert not model.layers[0]._forward_hooks
        assert QuantLinear("q", torch.zeros(2, 2), None).ranges is NO_RANGES


def test_the_package_is_not_even_imported_when_off() -> None:
    code = (
        "import sys\n"
        "from profiler.nvtx import open_range, ranges_to\n"
        "with ranges_to(None), open_range('hop', 1): pass\n"
        "print('nvtx' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False\n"


def test_ranges_nest_and_close_after_errors(recorder: Recorder) -> None:
    with pytest.raises(KeyError), open_range("hop", 3), open_range("tau_cast"):
        raise KeyError
    assert recorder.paths == ["hop=3", "hop=3/tau_cast"]


def test_layers_are_marked_by_their_number(recorder: Recorder) -> None:
    model = Stack()
    assert mark_layers(model) == 2
    model(torch.zeros(1, 3))
    with pytest.raises(RuntimeError):
        model(torch.zeros(1, 5))
    assert recorder.paths == ["layer.0", "layer.1", "layer.0"]


def test_a_timer_and_a_profiler_see_the_same_ranges(recorder: Recorder) -> None:
    layer = QuantLinear("q", torch.zeros(4, 64), None)
    replacement = Replacement({"q": layer}, {})
    replacement.use(get_kernel("bf16"))
    assert replacement.running == "bf16"
    layer(torch.zeros(1, 64))
    timer = RangeTimer("cpu")
    replacement.time_ranges(timer)
    layer(torch.zeros(1, 64))
    assert list(timer.take()) == ["linear"]
    replacement.time_ranges(NO_RANGES)
    layer(torch.zeros(1, 64))
    assert timer.take() == {}
    assert recorder.paths == ["linear"] * 3


class FakeDomain:
    def __init__(self, name: str) -> None:
        self.name = name
        self.made: list[dict[str, Any]] = []
        self.open: list[dict[str, Any]] = []

    def get_event_attributes(self, **attributes: Any) -> dict[str, Any]:
        self.made.append(attributes)
        return attributes

    def push_range(self, attributes: dict[str, Any]) -> None:
        self.open.append(attributes)

    def pop_range(self) -> None:
        self.open.pop()


def test_nvtx_gets_our_domain_names_and_payloads(monkeypatch: pytest.MonkeyPatch) -> None:
    import nvtx

    monkeypatch.setattr(nvtx, "get_domain", FakeDomain)
    sink = NvtxSink()
    domain: FakeDomain = sink._domain
    with ranges_to(sink):
        for hop in (0, 1):
            with open_range("hop", hop), open_range("tau_cast"):
                assert [a["message"] for a in domain.open] == ["hop", "tau_cast"]
                assert domain.open[0]["payload"] == hop
    assert domain.name == ours.DOMAIN == "qt-profile"
    # A payload of 0 is a payload, and names without one are registered once.
    assert [a["message"] for a in domain.made] == ["hop", "tau_cast", "hop"]


def test_the_real_package_takes_our_calls() -> None:
    with ranges_to(NvtxSink()), open_range("hop", 0), open_range("tau_cast"):
        assert ranges_on()


def test_a_chrome_trace_shows_the_ranges(tmp_path: Path) -> None:
    import gzip
    import json

    target = tmp_path / "t.json.gz"
    with pytest.raises(KeyboardInterrupt), chrome_trace(target), open_range("hop", 2), open_range("tau_cast"):
        torch.zeros(3).sum()
        raise KeyboardInterrupt
    events = json.loads(gzip.decompress(target.read_bytes()))["traceEvents"]
    shown = {event["name"] for event in events if event.get("cat") == "user_annotation"}
    assert {"hop 2", "tau_cast"} <= shown


def test_each_thread_closes_its_own_blocks() -> None:
    from concurrent.futures import ThreadPoolExecutor

    sink = RecordFunctionSink()
    sink.push("here", None)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(sink.push, "there", None).result()
        pool.submit(sink.pop).result()
    sink.pop()
    assert sink._stack() == []
