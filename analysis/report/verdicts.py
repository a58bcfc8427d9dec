"""The first section: which variant is trapped, in time and in energy, and how sure that is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from analysis.kernel_kinds import BASELINE
from analysis.report.chain_verdicts import TONES, JudgedChain, judged_chains, verdict_card, verdict_grids
from analysis.report.colours import is_peer, split_name
from analysis.report.inputs import Inputs
from analysis.report.section import Badge, Block, Card, Cards, Missing, Section, Table, listed, number
from analysis.stats import Interval
from analysis.verdict import Verdict, decide
from profiler.record import SweepRow

# More cards than these are folded away behind a table.
_MOST_CARDS = 6


def verdict_section(inputs: Inputs) -> Section:
    """Return the verdicts of chains, then those of single calls."""
    found = [judged for machine in inputs.machines for judged in judged_chains(inputs, machine)]
    chains = [judged for judged in found if judged.is_judged]
    blocks: list[Block] = []
    cards = tuple(map(verdict_card, chains))
    if len(cards) > _MOST_CARDS:
        for machine in inputs.machines:
            blocks += verdict_grids([judged for judged in chains if judged.machine == machine], machine)
        blocks.append(Cards(cards, "Every verdict on whole hops, with its reason"))
    elif cards:
        blocks.append(Cards(cards))
    if len(chains) < len(found):
        counts = Counter(judged.kernel for judged in found if not judged.is_judged)
        silent = listed([f"{kernel} ({_runs(count)})" for kernel, count in counts.items()])
        blocks.append(
            Missing(
                f"Without verdict, because not compared on the same hops: {silent}",
                "qt-profile chain --ablation 4",
            )
        )
    elif not chains:
        blocks.append(
            Missing("No chain was given, so no verdict on whole hops", "qt-profile chain --kernel fused_nf4")
        )
    calls: list[Card] = []
    for machine in inputs.machines:
        rows = list(inputs.cells(machine).values())
        calls += _sweep_cards(rows, machine)
        if rows:
            blocks.append(_sweep_table(rows, machine))
    if calls:
        places = (place for place, block in enumerate(blocks) if isinstance(block, Cards))
        blocks.insert(next(places, -1) + 1, Cards(tuple(calls)))
    return Section("verdict", "Verdict", "Verdict", _headline(chains, calls), tuple(blocks))


def _runs(count: int) -> str:
    return "1 model and engine" if count == 1 else f"{count} models and engines"


def _headline(chains: Sequence[JudgedChain], calls: Sequence[Card]) -> str:
    hops: dict[str, Counter[str]] = defaultdict(Counter)
    for judged in chains:
        hops[judged.kernel] += judged.times
    verdicts = {
        "Whole hops": [(kernel, _of_hops(times)) for kernel, times in hops.items() if times],
        "Single calls": [(card.title, card.badges[0].verdict) for card in calls],
    }
    sentences = []
    for what, pairs in verdicts.items():
        names: dict[str, list[str]] = defaultdict(list)
        for kernel, verdict in pairs:
            names[verdict].append(kernel)
        parts = [f"{listed(list(dict.fromkeys(kernels)))} {verdict}" for verdict, kernels in names.items()]
        if parts:
            sentences.append(f"{what}: {'; '.join(parts)}.")
    rule = "A variant is trapped where the whole 95 % interval of its cost over the baseline's lies above 1."
    return " ".join([*sentences, rule])


def _of_hops(times: Counter[str]) -> str:
    """Sum up a kernel's verdicts on time over models, engines and batch sizes."""
    total = times.total()
    if len(times) == 1:
        return next(iter(times))
    return f"trapped in {times['trapped']} of {total} models, engines and batch sizes"


def _call_badge(by_verdict: dict[Verdict, list[SweepRow]], total: int) -> Badge:
    loses, wins = len(by_verdict[Verdict.TRAPPED]), len(by_verdict[Verdict.NOT_TRAPPED])
    if 0 < loses < total:
        return Badge("time", f"trapped in {loses} of {total} cells", "bad" if loses > wins else "warn")
    verdict = "trapped" if loses else "not trapped" if wins == total else "inconclusive"
    return Badge("time", verdict, TONES[verdict])


def _sweep_cards(rows: Sequence[SweepRow], machine: str) -> Iterable[Card]:
    for kernel in dict.fromkeys(row.kernel for row in rows):
        scheme, _ = split_name(kernel)
        if kernel == BASELINE or scheme not in ("fused", "native"):
            continue
        by_verdict = _by_verdict(row for row in rows if row.kernel == kernel)
        total = sum(map(len, by_verdict.values()))
        if not total:
            continue
        ratios = [row.speedup_p50 for cells in by_verdict.values() for row in cells if row.speedup_p50]
        wins, loses = len(by_verdict[Verdict.NOT_TRAPPED]), len(by_verdict[Verdict.TRAPPED])
        reason = (
            f"{number(min(ratios))} to {number(max(ratios))} times the speed of {BASELINE}: faster in {wins} of "
            f"{total} cells (shape and m), slower in {loses}, not distinguishable in {total - wins - loses}."
        )
        badge = _call_badge(by_verdict, total)
        yield Card(kernel, f"single calls on {machine}", (badge,), reason)


def _sweep_table(rows: Sequence[SweepRow], machine: str) -> Table:
    lines = []
    for kernel in dict.fromkeys(row.kernel for row in rows):
        own = [row for row in rows if row.kernel == kernel and row.speedup_p50 and row.gate == "passed"]
        by_verdict = _by_verdict(own)
        if not own:
            continue
        by_m = {m: [row.speedup_p50 or 0.0 for row in own if row.m == m] for m in sorted({r.m for r in own})}
        spans = [f"m={m}: {number(min(v), 2)}–{number(max(v), 2)}" for m, v in by_m.items()]
        counts = (len(by_verdict[v]) for v in (Verdict.NOT_TRAPPED, Verdict.TRAPPED, Verdict.INCONCLUSIVE))
        name = f"{kernel} (peer)" if is_peer(kernel) else kernel
        lines.append((name, *map(str, counts), "; ".join(spans)))
    return Table(
        f"Single calls against {BASELINE} on {machine}: cells won, lost and unclear by the 95 % interval",
        ("kernel", "faster", "slower", "unclear", f"speed-up over {BASELINE} (p50), over shapes"),
        tuple(lines),
        is_numeric=False,
        is_folded=True,
    )


def _by_verdict(rows: Iterable[SweepRow]) -> dict[Verdict, list[SweepRow]]:
    found: dict[Verdict, list[SweepRow]] = {v: [] for v in Verdict}
    for row in rows:
        if row.speedup_p50 and row.speedup_ci95 and row.speedup_ci95[0] > 0 and row.gate == "passed":
            low, high = row.speedup_ci95
            point = min(max(row.speedup_p50, low), high)
            found[decide(Interval(1 / point, 1 / high, 1 / low))].append(row)
    return found
