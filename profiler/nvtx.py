"""Ranges that a profiler shows: NVTX ranges in the domain ``qt-profile``, or whatever another sink makes of them.

Off unless a profiler listens, and then they cost nothing: :func:`open_range` returns one and the same empty context.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

DOMAIN = "qt-profile"
SWITCH = "QT_PROFILE_NVTX"
"""Environment variable: 1 opens ranges, 0 does not; unset, they are open under Nsight tools."""

# What Nsight Systems and Nsight Compute set in the program they run.
_LISTENERS = ("NSYS_PROFILING_SESSION_ID", "NVTX_INJECTION64_PATH")
_NOTHING: AbstractContextManager[None] = nullcontext()
_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)")


class RangeSink(Protocol):
    """Where ranges go; calls come in pairs, properly nested on each thread."""

    def push(self, name: str, payload: int | None) -> None:
        """Open a range on this thread."""
        ...

    def pop(self) -> None:
        """Close the range that this thread opened last."""
        ...


class NvtxSink:
    """Opens NVTX push/pop ranges in the domain ``qt-profile``."""

    def __init__(self) -> None:
        import nvtx

        self._domain: Any = nvtx.get_domain(DOMAIN)
        self._attributes: dict[str, Any] = {}

    def push(self, name: str, payload: int | None) -> None:
        """Open a range; the payload is a signed 64-bit integer."""
        if payload is not None:
            self._domain.push_range(self._domain.get_event_attributes(message=name, payload=payload))
            return
        attributes = self._attributes.get(name)
        if attributes is None:
            attributes = self._attributes[name] = self._domain.get_event_attributes(message=name)
        self._domain.push_range(attributes)

    def pop(self) -> None:
        """Close the last range."""
        self._domain.pop_range()


class _Switchboard:
    def __init__(self) -> None:
        self.is_decided = False
        self.sink: RangeSink | None = None


_SWITCHBOARD = _Switchboard()


def wanted(environment: dict[str, str] | None = None) -> bool:
    """Whether this process should open NVTX ranges.

    Args:
        environment: variables; None takes the process's.

    Raises:
        ValueError: the switch is neither 0 nor 1.
    """
    variables = os.environ if environment is None else environment
    switch = variables.get(SWITCH, "")
    if switch not in ("", "0", "1"):
        raise ValueError(f"{SWITCH}={switch!r} is neither 0 nor 1")
    return switch == "1" or (switch == "" and any(variables.get(name) for name in _LISTENERS))


def ranges_on() -> bool:
    """Whether ranges go anywhere; decided once, at the first call."""
    return _sink() is not None


def open_range(name: str, payload: int | None = None) -> AbstractContextManager[object]:
    """A context that is a range while a profiler listens, and nothing otherwise.

    Args:
        name: such as ``hop`` or ``tau_cast``; the function is a range hook for kernels.
        payload: such as the index of the hop.
    """
    sink = _sink()
    return _NOTHING if sink is None else _Range(sink, name, payload)


@contextmanager
def ranges_to(sink: RangeSink | None) -> Iterator[None]:
    """Send the ranges of this process to ``sink`` within the block; None turns them off."""
    before = _SWITCHBOARD.is_decided, _SWITCHBOARD.sink
    _SWITCHBOARD.is_decided, _SWITCHBOARD.sink = True, sink
    try:
        yield
    finally:
        _SWITCHBOARD.is_decided, _SWITCHBOARD.sink = before


def mark_layers(model: Any) -> int:
    """Open ``layer.<i>`` around every decoder layer of a model, by hooks that exist only while ranges are on.

    Args:
        model: a ``torch.nn.Module`` whose decoder layers are named ``...layers.<i>``.

    Returns:
        The number of layers marked; 0 where ranges are off.
    """
    sink = _sink()
    if sink is None:
        return 0
    marked = 0
    for name, module in model.named_modules():
        found = _LAYER.fullmatch(name)
        if found is not None:
            _mark(module, sink, f"layer.{found[1]}")
            marked += 1
    return marked


def _mark(module: Any, sink: RangeSink, name: str) -> None:
    def before(*_: object) -> None:
        sink.push(name, None)

    def after(*_: object) -> None:
        sink.pop()

    module.register_forward_pre_hook(before)
    # A forward that raises has to close its range too.
    module.register_forward_hook(after, always_call=True)


class _Range:
    __slots__ = ("_name", "_payload", "_sink")

    def __init__(self, sink: RangeSink, name: str, payload: int | None) -> None:
        self._sink, self._name, self._payload = sink, name, payload

    def __enter__(self) -> None:
        self._sink.push(self._name, self._payload)

    def __exit__(self, *_: object) -> None:
        self._sink.pop()


def _sink() -> RangeSink | None:
    if not _SWITCHBOARD.is_decided:
        _SWITCHBOARD.sink = NvtxSink() if wanted() else None
        _SWITCHBOARD.is_decided = True
    return _SWITCHBOARD.sink
