"""Gives the fake NVML of ``conftest`` instantaneous power, violation counters and errors with codes."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

POWER_INSTANT = 186
UNSIGNED_INT, UNSIGNED_LONG_LONG = 1, 3
NOT_SUPPORTED = 3


def give_power(
    fake: Any, power_w: Sequence[float] | None = (), violation_ns: Mapping[int, int] | None = None
) -> Any:
    """Let the fake answer field values: its own power by default, no power for None."""
    counters = {} if violation_ns is None else violation_ns

    def value(handle: int, key: int) -> Any:
        known, kind, member, number = 0, UNSIGNED_INT, "uiVal", 0
        if key == POWER_INSTANT and power_w is not None:
            number = round(1e3 * (power_w or fake.power_w)[handle])
        elif key in counters:
            kind, member, number = UNSIGNED_LONG_LONG, "ullVal", counters[key]
        else:
            known = NOT_SUPPORTED
        union = SimpleNamespace(**{member: number})
        return SimpleNamespace(fieldId=key, nvmlReturn=known, valueType=kind, value=union)

    fake.nvmlDeviceGetFieldValues = lambda handle, keys: [value(handle, key) for key in keys]
    return fake


def failing(fake: Any, code: int) -> Callable[..., Any]:
    """A getter that fails with one of NVML's codes."""

    def fail(*arguments: Any) -> Any:
        error = fake.NVMLError(f"code {code}")
        error.value = code
        raise error

    return fail
