"""Verdicts on whole hops: cards where there are few, tables where there are many, and runs from before verdicts."""

from __future__ import annotations

import report_runs as given
from test_report import section

from analysis.report.build import build_report
from analysis.report.chain_verdicts import JudgedChain, judged_chains
from analysis.report.inputs import Inputs
from analysis.report.markdown import markdown
from analysis.report.page import page
from analysis.report.section import Cards, Table
from analysis.verdict import THROTTLED
from profiler.record import RunRecord, VariantResult

NONE = {
    "verdict_time": None,
    "verdict_energy": None,
    "verdict_reason": None,
    "cor_tps": None,
    "cor_tps_ci95": None,
}


def rows_of(run: RunRecord) -> list[VariantResult]:
    return [row for row in run.results if isinstance(row, VariantResult)]


def of_models(count: int) -> Inputs:
    """The same chain of several models; each has two variants."""
    chain = given.batch_chain()
    runs = [
        given.batch_chain(10 + number, arguments={**chain.arguments, "model": name})
        for number, name in enumerate(["tiny", "a", "b", "c"][:count])
    ]
    return Inputs(tuple(runs))


def unjudged(hops: int | None) -> list[JudgedChain]:
    chain = given.batch_chain()
    rows = [row.model_copy(update=NONE) for row in rows_of(chain)]
    run = given.batch_chain(results=rows, arguments={**chain.arguments, "hops": hops})
    return list(judged_chains(Inputs((run,)), given.H200))


def test_few_variants_are_cards_and_many_are_tables_with_cards_folded_away() -> None:
    few = build_report(of_models(3), given.catalogue())
    (cards,) = (b for b in section(few, "verdict").blocks if isinstance(b, Cards))
    assert len(cards.cards) == 6 and cards.title == ""
    assert not any(isinstance(b, Table) for b in section(few, "verdict").blocks)

    many = build_report(of_models(4), given.catalogue())
    time, energy, folded = section(many, "verdict").blocks[:3]
    assert isinstance(time, Table) and isinstance(energy, Table) and isinstance(folded, Cards)
    assert len(folded.cards) == len(time.rows) == 8 and folded.title
    assert time.head == ("model", "kernel", "B = 1", "B = 8", "B = 64")
    # The bundled model comes last, though it ran first.
    assert [row[0].split()[0] for row in time.rows] == ["a"] * 2 + ["b"] * 2 + ["c"] * 2 + ["tiny"] * 2
    rows = {(row[0].split()[0], row[1]): row[2:] for row in time.rows}
    for row in rows_of(given.batch_chain()):
        if row.kernel in ("fused_nf4", "unfused_nf4") and row.verdict_time is not None:
            cell = rows["a", row.kernel][(1, 8, 64).index(row.batch_size)]
            mark = {"trapped": "✗", "not trapped": "✓", "inconclusive": "≈"}[row.verdict_time]
            assert row.cor_tps is not None and cell == f"{mark} {1 / (1 + row.cor_tps):.2f}"
    html, text = page(many), markdown(many)
    assert 'class="tone-bad">✗ ' in html and 'class="tone-good">✓ ' in html and '<table class="grid">' in html
    assert f"<summary>{folded.title}: 8</summary>" in html
    assert folded.cards[0].reason[:20] in text


def test_runs_from_before_verdicts_are_judged_where_their_hops_are_fixed() -> None:
    known = {(row.kernel, row.batch_size): row for row in rows_of(given.batch_chain()) if row.verdict_time}
    assert not any(judged.is_judged for judged in unjudged(None))
    found = unjudged(64)
    compared = 0
    for judged in found:
        for size, row in judged.rows.items():
            assert judged.time[size].low <= judged.time[size].point <= judged.time[size].high
            # Wider intervals may leave open what pairs of hops decide, and never say the opposite.
            assert row.verdict_time in (known[judged.kernel, size].verdict_time, "inconclusive")
            compared += row.verdict_time != "inconclusive"
            assert row.verdict_reason and row.verdict_reason.startswith(("slower", "faster", "not "))
    assert compared >= 3


def test_throttling_is_said_once() -> None:
    chain = given.batch_chain()
    rows = [
        row.model_copy(update={"verdict_reason": f"{row.verdict_reason}; {THROTTLED}"})
        if row.verdict_reason and row.batch_size != 8
        else row
        for row in rows_of(chain)
    ]
    (cards,) = (
        b
        for b in section(
            build_report(Inputs((given.batch_chain(results=rows),)), given.catalogue()), "verdict"
        ).blocks
        if isinstance(b, Cards)
    )
    for card in cards.cards:
        assert THROTTLED not in card.reason and card.reason.endswith("The GPU throttled at B = 1 and 64.")
