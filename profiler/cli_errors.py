"""How ``qt-profile`` ends: its exit codes, errors as one sentence (and one JSON object), and signals."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

EXIT_CHECK_FAILED = 1
EXIT_BAD_ARGUMENTS = 2
EXIT_MISSING_HARDWARE = 3
EXIT_INTERRUPTED = 130

_DEAF_S = 5.0
_ALREADY_STOPPING = b"\nalready stopping: what was measured is being stored\n"


class MissingHardwareError(Exception):
    """What was asked for needs hardware that is not here; the message says which, in one sentence."""


class FrontDoor(TyperGroup):
    """The group of commands: every expected error ends as one sentence, with ``--json`` in JSON too."""

    _as_json = False

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the group on a command line; exits with the command's code."""
        words = list(sys.argv[1:] if args is None else args)
        as_json = self._as_json = "--json" in words
        try:
            code = super().main(
                words,
                prog_name,
                complete_var,
                standalone_mode=standalone_mode and not as_json,
                windows_expand_args=windows_expand_args,
                **extra,
            )
        except _USAGE_ERROR as error:
            if not (as_json and standalone_mode):
                raise
            _say(error.format_message(), EXIT_BAD_ARGUMENTS, as_json=True)
            sys.exit(EXIT_BAD_ARGUMENTS)
        if standalone_mode:
            sys.exit(code)
        return code

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the context names."""
        with one_sentence(as_json=self._as_json):
            return super().invoke(ctx)


# Typer exports only this subclass of the error that every wrong option, value or command raises.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]


def fail(message: str, code: int, *, as_json: bool = False) -> NoReturn:
    """End the command with one sentence on stderr and, with ``--json``, one JSON object on stdout."""
    _say(message, code, as_json=as_json)
    raise typer.Exit(code)


@contextmanager
def one_sentence(*, as_json: bool = False) -> Iterator[None]:
    """Turn an expected error into one sentence and an exit code; what is not expected keeps its traceback."""
    try:
        yield
    except (BrokenPipeError, typer.Exit, typer.Abort):
        raise
    except (Exception, KeyboardInterrupt) as error:
        known = explain(error)
        if known is None:
            raise
        code, sentence = known
        fail(sentence, code, as_json=as_json)


def explain(error: Exception | KeyboardInterrupt) -> tuple[int, str] | None:
    """Exit code and sentence of what a user may expect to go wrong; None for every other error."""
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED, "interrupted before anything was measured; no record was written"
    code = _exit_code(error)
    return None if code is None else (code, _sentence(error))


class StopSignals:
    """Ctrl-C and SIGTERM end a run once: impatient repeats do not reach the record that is being written."""

    def __init__(self) -> None:
        self._last_s = float("-inf")
        self._held = False

    def install(self) -> None:
        """Handle both signals from now on; the main thread has to call this."""
        signal.signal(signal.SIGINT, self.on_signal)
        signal.signal(signal.SIGTERM, self.on_signal)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no signal interrupt this block; it is for writing records, which takes moments."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Interrupt, unless a record is being written or another signal did so seconds ago."""
        now_s = time.monotonic()
        if self._held or now_s - self._last_s < _DEAF_S:
            os.write(2, _ALREADY_STOPPING)  # print() is not reentrant, and a handler may interrupt one
            return
        self._last_s = now_s
        raise KeyboardInterrupt


STOP_SIGNALS = StopSignals()
"""The signals of this process."""


def _say(message: str, code: int, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"error": message, "exit_code": code}))
    typer.echo(f"error: {message}", err=True)


def _exit_code(error: Exception) -> int | None:
    from pydantic import ValidationError

    from profiler.record import RecordError
    from reasoning.name_clash import NameClashError

    if isinstance(error, MissingHardwareError) or hardware_reason(error) is not None:
        return EXIT_MISSING_HARDWARE
    if isinstance(error, (RecordError, NameClashError, ValidationError, OSError)):
        return EXIT_CHECK_FAILED
    return EXIT_BAD_ARGUMENTS if isinstance(error, ValueError) else None


def _sentence(error: Exception) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"a figure cannot be recorded: {error.title} {place}: {first['msg']}"
    reason = hardware_reason(error)
    return str(error) if reason is None else f"{reason}: {_first_line(error)}"


def hardware_reason(error: Exception) -> str | None:
    """What torch's error means where the hardware is too small or fails; None for every other error."""
    torch: Any = sys.modules.get("torch")
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "the memory of this machine is too small for this run"
    if torch is None:
        return None
    if isinstance(error, torch.OutOfMemoryError):
        return "the memory of the GPU is too small for this run (a smaller --batch needs less)"
    accelerator_error = getattr(torch, "AcceleratorError", None)
    if accelerator_error is not None and isinstance(error, accelerator_error):
        return "the GPU failed"
    return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
