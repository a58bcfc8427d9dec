"""Keeps an unfinished sweep on disk: after each cell the run is there, whole, with status ``interrupted``."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from profiler.record import RecordError, RunRecord, Sample, write_run

# Writing a long run takes a moment; a crash may cost the cells of this time.
_LEAST_INTERVAL_S = 5.0


class Checkpoint:
    """The folder of a run that is written again and again.

    Args:
        out: folder of runs.
        clock: monotonic clock, s.
    """

    def __init__(self, out: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._path: Path | None = None
        self._last_s: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last writing."""
        return self._last_s is None or self._clock() - self._last_s >= _LEAST_INTERVAL_S

    def write(self, record: RunRecord, samples: Iterable[Sample]) -> Path:
        """Write the run, in the place of what was written of it before.

        The new folder is built beside the old one; two renames swap them, so a crash leaves one of them whole.

        Args:
            record: the run so far.
            samples: its samples so far.

        Returns:
            The run's folder, the same for every call.

        Raises:
            RecordError: the record is illegal or the disk refuses; what was written before stays.
        """
        self._last_s = self._clock()
        if self._path is None:
            self._path = write_run(self._out, record, samples)
            return self._path
        staging = self._out / f".partial-{self._path.name}-{uuid.uuid4().hex}"
        old = staging / "old"
        named = record.model_copy(update={"run_id": self._path.name})
        try:
            new = write_run(staging, named, samples)
            if self._path.exists():
                os.replace(self._path, old)
            os.replace(new, self._path)
        except OSError as error:
            if old.exists() and not self._path.exists():
                os.replace(old, self._path)
            raise RecordError(
                f"cannot write run {named.run_id} into {self._out}: {error.strerror or error}"
            ) from error
        finally:
            if self._path.exists():
                shutil.rmtree(staging, ignore_errors=True)
        return self._path
