"""``qt-profile chain --protocol paper``: the paper's own protocol, and its figures as it forms them.

Hugging Face's forward pass, bitsandbytes NF4 and LLM.int8() against 16 bits, one sequence at a time, GSM8K or MathQA,
energy as TDP times time. The counter's energy stands beside it, and the indices are formed from both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from profiler.cli_errors import MissingHardwareError
from profiler.record import RunRecord, VariantResult

if TYPE_CHECKING:
    from rich.console import Console

KERNELS = ("bnb_nf4", "bnb_int8")
"""The paper's variants."""
PROBLEMS = "openai/gsm8k"
"""Its problems where none are named."""
_FIXED = {"--baseline": "bf16", "--engine": "eager", "--batch": "1", "--mode": "generate"}
_PRINTED = {"cor": "COR", "tps": "TPS", "energy_j_per_query": "J per query", "accuracy": "accuracy"}
_UNKNOWN = "–"


def check_protocol(given: Mapping[str, str | None]) -> None:
    """Refuse options that contradict the protocol, and a machine without bitsandbytes.

    Args:
        given: what the command line asks for by option; None, or what an option is without being given, fits all.

    Raises:
        ValueError: an option that the protocol fixes to something else, or that it does not have.
        MissingHardwareError: bitsandbytes does not import.
    """
    wanted: dict[str, str | None] = {**_FIXED, "--kernel": ",".join(KERNELS)}
    for option, value in given.items():
        fixed = wanted.get(option)
        if value is None or value == fixed or (option == "--engine" and value == "auto"):
            continue
        if option == "--kernel" and sorted(value.split(",")) == sorted(KERNELS):
            continue
        runs = f"runs {option} {fixed}" if fixed else f"has no {option}"
        raise ValueError(f"{option} {value} contradicts --protocol paper, which {runs}")


def check_library(device: str) -> None:
    """Refuse a machine on which the paper's library does not run.

    Raises:
        MissingHardwareError: bitsandbytes does not import; the sentence says how to install it.
    """
    from kernels.peers.kernel import find_kernel

    for name in KERNELS:
        runs, why = find_kernel(name).available(device)
        if not runs:
            raise MissingHardwareError(f"--protocol paper needs {name}: {why}")


def paper_figures(rows: Sequence[VariantResult], baseline: str) -> dict[str, object]:
    """The paper's figures by kernel, as printed: COR from free-running throughput, energy by HLI.

    Args:
        rows: of a chain, completed.
        baseline: the reference kernel.

    Returns:
        By kernel ``tps``, ``cor_tps`` (Eq. 9), ``hli_j_per_query``, ``counter_j_per_query``, ``t_si``, ``e_si``,
        ``s_si_hli``, ``s_si_counter``, ``si_hli``, ``si_counter``; None for what was not measured.
    """
    generated = [row for row in rows if row.mode == "generate"]
    reference = next((row for row in generated if row.kernel == baseline), None)
    return {} if reference is None else {row.kernel: _figures(row, reference) for row in generated}


def _figures(row: VariantResult, reference: VariantResult) -> dict[str, object]:
    from analysis.paper import cor_tps
    from analysis.si import s_si_linear, si_linear

    figures: dict[str, object] = {
        "tps": row.tps,
        "cor_tps": cor_tps(reference.tps, row.tps) if row.tps and reference.tps else None,
        "hli_j_per_query": row.hli_j_per_query,
        "counter_j_per_query": row.counter_j_per_query,
        "t_si": row.t_si,
        "e_si": row.e_si,
    }
    energies = {
        "hli": _hli(row, reference),
        "counter": (row.counter_j_per_query, reference.counter_j_per_query),
    }
    for name, (mine, theirs) in energies.items():
        saving = s_si_linear(mine, theirs).value if mine and theirs else None
        figures[f"s_si_{name}"] = saving
        figures[f"si_{name}"] = (
            None
            if row.t_si is None or row.e_si is None or saving is None
            else si_linear(row.t_si, row.e_si, saving).value
        )
    return figures


def _hli(row: VariantResult, reference: VariantResult) -> tuple[float | None, float | None]:
    """Both energies by TDP times time, J; where no TDP is known, which cancels, both times, s."""
    if row.hli_j_per_query and reference.hli_j_per_query:
        return row.hli_j_per_query, reference.hli_j_per_query
    return _seconds_per_query(row), _seconds_per_query(reference)


def _seconds_per_query(row: VariantResult) -> float | None:
    if row.prefill_s is None or row.decode_s is None or not row.problems:
        return None
    return (row.prefill_s + row.decode_s) / row.problems


def print_paper(record: RunRecord, console: Console) -> None:
    """Print a chain's figures as the paper forms them; nothing for a chain of another protocol."""
    from rich.table import Table
    from rich.text import Text

    found = record.derived.get("paper")
    if not isinstance(found, dict) or not found:
        return
    table = Table(title="as the paper forms them", title_justify="left")
    table.add_column("")
    for kernel in found:
        table.add_column(kernel, justify="right")
    columns: list[Any] = list(found.values())
    for label, name, digits in _ROWS:
        table.add_row(label, *(_number(figures.get(name), digits) for figures in columns))
    console.print(table)
    console.print(
        Text(
            "note: by TDP times time energy repeats the time, so S_SI by HLI and E_SI hold the same throughput twice; "
            "COR (Eq. 9) here is of free-running generation, whose hops differ; COR TPS above is of replayed ones",
            style="dim",
        )
    )
    for line in _printed(str(record.arguments.get("model"))):
        console.print(Text(line, style="dim"))


_ROWS = (
    ("TPS, tokens/s", "tps", 1),
    ("COR (Eq. 9)", "cor_tps", 2),
    ("J per query, HLI (estimate)", "hli_j_per_query", 1),
    ("J per query, counter", "counter_j_per_query", 1),
    ("T_SI (Eq. 2)", "t_si", 3),
    ("E_SI (Eq. 3)", "e_si", 3),
    ("S_SI by HLI (after Eq. 5)", "s_si_hli", 3),
    ("S_SI by counter", "s_si_counter", 3),
    ("SI by HLI (Eq. 6)", "si_hli", 3),
    ("SI by counter", "si_counter", 3),
)


def _number(value: object, digits: int) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, (int, float)) else _UNKNOWN


def _printed(model: str) -> list[str]:
    """What the paper prints of this model."""
    from analysis.paper import paper_numbers

    lines = []
    for name, figure in _PRINTED.items():
        for place, numbers in paper_numbers()[name].items():
            if not place.startswith(f"{model}/"):
                continue
            by_bits = numbers if isinstance(numbers, dict) else {"": numbers}
            shown = [
                f"{bits} {by_bits[bits]:g}".strip() for bits in ("fp16", "int8", "nf4", "") if bits in by_bits
            ]
            lines.append(f"the paper prints {figure} of {place}: {', '.join(shown)}")
    return lines
