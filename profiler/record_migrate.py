"""Brings records of older schema versions to the current one, a version at a time.

A step changes the parsed ``run.json`` only; samples are read as they were written, so a step may not need them. A new
version adds its step here, and a record of the old version to the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from profiler.record_schema import SCHEMA_VERSION

Fields = dict[str, Any]
Step = Callable[[Fields], Fields]

STEPS: Mapping[int, Step] = {}
"""By version: what makes the next version of a record of this one. Version 1 is the first."""


def migrate(fields: Fields, *, steps: Mapping[int, Step] = STEPS, target: int = SCHEMA_VERSION) -> Fields:
    """Bring a parsed record to a version.

    Args:
        fields: content of ``run.json``; left as it is.
        steps: what makes version v + 1 of version v.
        target: the version wanted.

    Returns:
        The record's fields in that version, ``schema_version`` set.

    Raises:
        ValueError: no version, a newer one, or one that no step leads on from.
    """
    version = fields.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ValueError(f"schema_version={version!r} is not a version number")
    if version > target:
        raise ValueError(
            f"schema_version={version} is newer than {target}, which this program reads: update it"
        )
    current = dict(fields)
    while version < target:
        step = steps.get(version)
        if step is None:
            raise ValueError(f"schema_version={version} is older than {target}, and nothing leads on from it")
        version += 1
        current = {**step(current), "schema_version": version}
    return current
