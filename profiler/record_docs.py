"""Writes ``docs/records.md`` from the record's models: ``python -m profiler.record_docs > docs/records.md``.

A field's meaning is its docstring and its type is that of the JSON schema, so the page says what the code
says. ``tests/test_docs.py`` holds that the page is the one this module writes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from profiler.record import (
    SCHEMA_VERSION,
    Agreement,
    AgreementSample,
    EnergyRow,
    EnergySample,
    Environment,
    GpuRunState,
    GpuState,
    HopSample,
    KernelSample,
    LinearsSample,
    LoadEnergySample,
    Proportion,
    QuerySample,
    RangeSample,
    RunRecord,
    SweepRow,
    VariantResult,
)

RECORD_MODELS: tuple[type[BaseModel], ...] = (
    RunRecord,
    Environment,
    GpuState,
    GpuRunState,
    VariantResult,
    Proportion,
    Agreement,
    SweepRow,
    EnergyRow,
)
"""Models of ``run.json``, in the page's order."""

SAMPLE_MODELS: tuple[type[BaseModel], ...] = (
    HopSample,
    QuerySample,
    RangeSample,
    LinearsSample,
    AgreementSample,
    EnergySample,
    LoadEnergySample,
    KernelSample,
)
"""Models of the lines of ``samples.jsonl.gz``, in the page's order."""

_HEAD = f"""\
# Run records

Written by `python -m profiler.record_docs > docs/records.md` from the models in
`profiler/record_results.py`, `profiler/record_energy.py`, `profiler/record_samples.py`,
`profiler/record_schema.py` and `profiler/record_types.py`. Edit their docstrings, not this page.

## A run is a folder

```
runs/<utc>-<slug>/
  run.json         one object, RunRecord below
  samples.jsonl.gz one sample a line, in the order of measurement
  *.png            pictures of a sweep, drawn from run.json
```

`<utc>` is the start of the run, such as `20260131T120000Z`. A second run with the same name gets `-2`
appended, and so on. The folder is built under a hidden name (`.partial-…`), flushed to disk, and renamed
once, so a killed process or a full disk leaves at most a hidden folder, which no reader looks at; earlier
runs stay as they were.

`profiler.record.load_run(folder)` reads a run. It refuses, in one sentence, a record of another schema
version, an illegal record, and samples whose count or sha256 (of the
unpacked lines) is not the one in `run.json`. `load_record` reads `run.json` alone, `iter_samples` streams the
samples, `list_runs` lists the runs of a folder. Samples of older runs, in a plain `samples.jsonl`, are read too.

In `run.json` every field is written, and `null` (`None` in the descriptions) means not measured. In
the lines of `samples.jsonl.gz` fields that are `null` are left out; a sweep's ranges go by
`<kernel>.tau_cast` and `<kernel>.tau_comp`.

NaN, infinity and unknown fields are refused on writing and on reading. A command line is stored with the
home folder as `~` and the working folder as `.`; user and host names are not stored.

## Schema version

This program writes `schema_version` {SCHEMA_VERSION}, brings older records up to it when it reads them, and refuses
newer ones. It is separate
from the program's version. A new field has a default, so that records written before it can still be read;
an older program refuses a record with a field that it does not know. A change that older readers would
misread raises the version.

## What a legal record promises

* A `failed` run has an `error` and no `results`; a `complete` run has results and no error; an
  `interrupted` run keeps what was measured.
* A chain holds rows of type `variant`, a sweep rows of type `sweep`, an energy run rows of type `energy`.
* Joules come with their source; `hli` and `fake` are no measurements. An energy row has joules or a reason in
  `not_measured`.
* `accuracy` is `correct` over `problems`; intervals are ordered; a median is not above the 95th percentile.
* A sweep row has a time or a reason in `not_measured`, and a time only if the correctness gate passed or
  the kernel's output has no meaning.

## `arguments` and `derived`

Both are objects without a fixed model. A chain's `arguments` are the fields of `ChainSpec`
(`reasoning/chain_spec.py`), `weights`, `weights_source`, `device` and `problem_count`; a sweep's are the
plan with its defaults filled in, and `given`, the arguments as they were typed.

| `derived` of | key | content |
|---|---|---|
| chain | `baseline` | name of the reference kernel |
| chain | `by_batch_size` | by batch size: `waterfall`, `mcnemar`; of a run with one they are in `derived` too |
| chain | `waterfall` | by kernel: median hops and their parts in ms with `_ci95`, see `analysis/chain_waterfall.py` |
| chain | `mcnemar` | by kernel: `problems`, `only_baseline`, `only_variant`, `p_value` of the exact test |
| chain | `paper` | with `--protocol paper`, by kernel: COR by Eq. 9, energy, S_SI and SI by HLI and by the counter |
| chain | `batch_sizes_measured` | batch sizes that were finished |
| chain | `batch_sizes_not_measured` | by batch size: why it was not |
| chain | `resumed` | the run whose finished batch sizes this one took over, with its commit and versions |
| energy | `counter_tick_s`, `counter_tick_spread_s` | period of NVML's counter as measured, its largest deviation, s |
| energy | `agreement_share`, `repeat_share` | bounds of `benchmarks.energy_check` |
| sweep | `device`, `cache_bytes` | name of the device; cache that the copies of a weight must outgrow, bytes |
| sweep | `tau` | τ_cast and τ_comp by kernel, m, n and k, microseconds, with 95 % intervals and the method |
| sweep | `read_bandwidth` | bandwidth measured in this run, GB/s, with its samples |
| sweep | `peers` | by peer: `distribution`, `version`, `bits`, `group_size`, `weight_only` |
| sweep | `peer_ratios` | our fused and native kernels against each peer of the same bits: its median time over ours |
| sweep | `unfinished` | n, k and m of cells that were begun and not finished |
| sweep | `resumed` | runs whose finished cells this one took over, with their bandwidth, commit and versions |
| sweep | `gpus_after` | the GPUs' state after the run, as in `GpuState` |
| sweep `--for-fit` | `energy` | rows of type `energy`, one per load |
| sweep `--for-fit` | `launch_chains` | chains of empty launches by `engine`, `launches`, `syncs`: time in us |
| sweep `--for-fit` | `hop_parts` | hops of the fused engine, their linears, the difference: `kernel`, sizes, times |
| sweep `--for-fit` | `hop_energy` | energy of some of these hops: `kernel`, sizes, and a row of type `energy` |
"""

_ROLE = re.compile(r":\w+:`([^`]+)`")


def render() -> str:
    """Render the whole page, Markdown that ends in a line break."""
    parts = [_HEAD, "## `run.json`\n", *map(_section, RECORD_MODELS)]
    parts += ["## `samples.jsonl.gz`\n", *map(_section, SAMPLE_MODELS)]
    return "\n".join(parts)


def _section(model: type[BaseModel]) -> str:
    rows = [
        f"| `{name}` | {_type(field)} | {_markdown(field.get('description', ''))} |"
        for name, field in model.model_json_schema()["properties"].items()
    ]
    head = [
        f"### {model.__name__}",
        "",
        _markdown(model.__doc__ or ""),
        "",
        "| field | type | meaning |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows, ""])


def _markdown(docstring: str) -> str:
    """One line of Markdown that may stand in a table."""
    text = _ROLE.sub(r"`\1`", " ".join(docstring.split())).replace("``", "`")
    return text.replace("|", r"\|")


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return "any JSON value" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return _either([f"`{value}`" for value in schema["enum"]])
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _either([_type(part) for part in schema[key]])
    kind = str(schema["type"])
    if kind == "array":
        if "prefixItems" in schema:
            return "[low, high]"
        return f"list of {_type(schema['items'])}"
    if kind == "object":
        values = _type(schema["additionalProperties"])
        return "object" if values == "any JSON value" else f"object of {values}"
    if schema.get("format") == "date-time":
        return "time, ISO 8601"
    return kind + _range(schema)


def _either(alternatives: Sequence[str]) -> str:
    return " or ".join(alternatives)


def _range(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None:
        return ""
    return f" ≥ {low:g}" if high is None else f" {low:g} to {high:g}"


if __name__ == "__main__":
    sys.stdout.write(render())
