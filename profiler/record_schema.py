"""The record of one run, ``run.json``."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, model_validator

from profiler.record_energy import EnergyRow, GpuRunState
from profiler.record_results import SweepRow, VariantResult
from profiler.record_types import Count, Environment, JsonDict, Strict

SCHEMA_VERSION = 1
"""Version of the record's layout; a loader refuses every other."""

Result = Annotated[VariantResult | SweepRow | EnergyRow, Field(discriminator="type")]

_SLUG_LENGTH = 80


def new_run_id(slug: str, created_utc: datetime) -> str:
    """Make the name of a run, which is also the name of its folder.

    Args:
        slug: a few words about the run, such as ``chain-tiny-fused_nf4``; other characters than letters,
            digits, ``.``, ``_`` and ``-`` become ``-``.
        created_utc: start of the run, with a time zone.

    Returns:
        ``<utc>-<slug>``, such as ``20260131T120000Z-chain-tiny-fused_nf4``.

    Raises:
        ValueError: the time has no time zone.
    """
    if created_utc.tzinfo is None:
        raise ValueError(f"created_utc={created_utc.isoformat()} has no time zone")
    words = re.sub(r"[^a-z0-9._-]+", "-", slug.lower())[:_SLUG_LENGTH].strip("-.") or "run"
    return f"{created_utc.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}-{words}"


class RunRecord(Strict):
    """One run: what was asked, where it ran, what was measured and what follows from it."""

    schema_version: Literal[1] = 1
    """Layout of this record."""
    run_id: Annotated[str, Field(pattern=r"^\d{8}T\d{6}Z-[a-z0-9._-]+$")]
    """``<utc>-<slug>``, the folder's name; see :func:`new_run_id`."""
    kind: Literal["chain", "sweep", "energy"]
    """What was run."""
    status: Literal["complete", "interrupted", "failed"]
    """``interrupted`` keeps what was measured until then; ``failed`` has no results."""
    created_utc: AwareDatetime
    """Start of the run, UTC."""
    command: list[str]
    """Command line."""
    environment: Environment
    """Machine and software."""
    arguments: JsonDict
    """Settings after defaults were filled in."""
    results: list[Result] = []
    """A row per variant (chain), per kernel and shape (sweep), or per load (energy)."""
    gpu_states: list[GpuRunState] = []
    """Each GPU that worked, before and after, and for how long its clocks were held down."""
    derived: JsonDict = {}
    """Figures computed from the samples, with units in their names and intervals beside them."""
    warnings: list[str] = []
    """What makes the numbers less than they seem."""
    error: str | None = None
    """Why the run failed, in a sentence."""
    samples_count: Count = 0
    """Lines of ``samples.jsonl.gz``; filled in when the run is written."""
    samples_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Digest of the unpacked lines of ``samples.jsonl.gz``; filled in when the run is written."""

    @model_validator(mode="after")
    def _check(self) -> RunRecord:
        if self.status == "failed":
            if self.results:
                raise ValueError(f"a failed run cannot carry results, but {len(self.results)} are given")
            if not self.error:
                raise ValueError("a failed run must say why in error")
        elif self.status == "complete":
            if self.error:
                raise ValueError(f"a complete run cannot carry an error, but it says {self.error!r}")
            if not self.results:
                raise ValueError("a complete run must carry results, but 0 are given")
        row = {"chain": VariantResult, "sweep": SweepRow, "energy": EnergyRow}[self.kind]
        strangers = sum(not isinstance(result, row) for result in self.results)
        if strangers:
            raise ValueError(f"{strangers} of {len(self.results)} results are not rows of a {self.kind}")
        return self
