"""Which configuration runs: tuned tables per GPU, shipped and the user's own, and the nearest shape where none fits."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kernels.cuda_impl.build import cache_folder
from kernels.cuda_impl.config import Choice, NarrowConfig, WideConfig
from kernels.triton_impl.gemv_config import GemvConfig

VERSION = 2
"""Changes with the kernels' source in a way that makes timings old: tables of another version are not read."""
_SHIPPED = Path(__file__).parent / "tuned"
_FALLBACK = "nvidia-h200"

_KINDS = {kind.kind: kind for kind in (NarrowConfig, WideConfig, GemvConfig)}


@dataclass(frozen=True)
class Tuned:
    """What tuning found for one shape.

    Args:
        group_tiles: tiles of 16 rows per block of the layout.
        configs: the fastest configuration by the largest m that it was tuned for, down to the next smaller one.
    """

    group_tiles: int
    configs: Mapping[int, Choice]

    def config(self, m: int) -> Choice:
        """The configuration for m rows of x: of the smallest tuned m that is not below, without the empty rows."""
        found = self.configs[min((tuned for tuned in self.configs if tuned >= m), default=max(self.configs))]
        return found.for_rows(m) if isinstance(found, WideConfig) else found


Table = dict[tuple[str, int, int], Tuned]
"""By decoder (``pairs``, ``fp4``, ``int8``, ``fp8``), n and k."""


def tuned_for(gpu: str, decoder: str, n: int, k: int) -> Tuned:
    """The tuned configurations of a shape, else of the nearest shape, by the ratio of sizes.

    Args:
        gpu: product name; a GPU without a table takes the H200's.
        decoder: which decoder runs.
        n: rows of the weight.
        k: columns of the weight.

    Raises:
        ValueError: no table knows this decoder.
    """
    table = load_table(gpu)
    found = table.get((decoder, n, k))
    if found is not None:
        return found
    shapes = [key for key in table if key[0] == decoder]
    if not shapes:
        raise ValueError(f"no tuned configuration for decoder {decoder!r}; run the sweep with --tune")
    return table[min(shapes, key=lambda key: abs(math.log(key[1] / n)) + abs(math.log(key[2] / k)))]


@lru_cache(maxsize=8)
def load_table(gpu: str) -> Table:
    """The shipped table of a GPU (the H200's where it has none), overlaid with the user's own."""
    slug = slug_of(gpu)
    shipped = _SHIPPED / f"{slug}.json"
    table = _read(shipped if shipped.exists() else _SHIPPED / f"{_FALLBACK}.json")
    return table | _read(user_table_path(gpu))


def user_table_path(gpu: str) -> Path:
    """Where tuning on this machine stores its table; the name holds the version of the kernels."""
    return cache_folder() / f"tuned-{slug_of(gpu)}-v{VERSION}.json"


def store(gpu: str, entries: Table) -> Path:
    """Add entries to the user's table, atomically, and forget tables that were read.

    Returns:
        Its path.
    """
    path = user_table_path(gpu)
    merged = _read(path) | entries
    rows = [
        {
            "decoder": decoder,
            "n": n,
            "k": k,
            "group_tiles": tuned.group_tiles,
            "configs": {str(m): {"kind": c.kind, **asdict(c)} for m, c in sorted(tuned.configs.items())},
        }
        for (decoder, n, k), tuned in sorted(merged.items())
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(f'{{"version": {VERSION}, "gpu": {json.dumps(gpu)}, "entries": [\n{lines}\n]}}\n')
    os.replace(file.name, path)
    load_table.cache_clear()
    return path


def slug_of(gpu: str) -> str:
    """A product name as part of a file name."""
    return "-".join(gpu.lower().split())


def _read(path: Path) -> Table:
    if not path.exists():
        return {}
    data = json.loads(path.read_text("utf-8"))
    if data["version"] != VERSION:
        return {}
    return {(row["decoder"], row["n"], row["k"]): _tuned(row) for row in data["entries"]}


def _tuned(row: Mapping[str, Any]) -> Tuned:
    configs: dict[int, Choice] = {}
    for m, fields in row["configs"].items():
        values = {name: value for name, value in fields.items() if name != "kind"}
        configs[int(m)] = _KINDS[fields["kind"]](**values)
    return Tuned(row["group_tiles"], configs)
