"""``qt-profile predict``: costs of models and kernels that were not run, and predictions checked by runs made later."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from profiler.cli_predict_inputs import (
    check_samples,
    find_machine,
    kernel_memory,
    known_history,
    load_records,
    model_shape,
    parse_batches,
    split_words,
)

if TYPE_CHECKING:
    from analysis.predict_file import Prediction
    from analysis.predict_machine import Machine

_TABLE_WIDTH = 170


@dataclass(frozen=True)
class PredictJob:
    """What a prediction is asked for, as the options give it.

    Attributes:
        model: keys of the model table, comma-separated.
        arch: row of the hardware table, ``auto`` or ``cpu``.
        kernel: variants, comma-separated.
        batch: batch sizes, ``FROM:TO`` or comma-separated.
        context: cached tokens.
        engine: how a hop is launched.
        hops: hops of a query.
        b_max: largest batch that B* is looked for in.
        draws: bootstrap draws used.
        fits: folder of fits.
        calibrate: native runs.
        is_quiet: whether no progress is shown.
    """

    model: str
    arch: str
    kernel: str
    batch: str
    context: int
    engine: str
    hops: int
    b_max: int
    draws: int
    fits: Path
    calibrate: tuple[Path, ...]
    is_quiet: bool


def predict_command(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="With --check: chain runs made after the prediction.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="KEY[,KEY]", help="Rows of the model table.")] = "mistral-7b",
    arch: Annotated[str, typer.Option(help="Row of the hardware table, auto, or cpu.")] = "auto",
    kernel: Annotated[
        str, typer.Option(metavar="NAME[,NAME]", help="Variants; bf16 is always predicted.")
    ] = "fused_nf4",
    batch: Annotated[
        str, typer.Option(metavar="FROM:TO|B,...", help="Batch sizes; FROM:TO goes in powers of two.")
    ] = "1:128",
    context: Annotated[
        int, typer.Option(help="Tokens of the KV cache that every sequence reads in a hop.")
    ] = 512,
    engine: Annotated[
        str, typer.Option(help="How a hop is launched: graph, compile, fused or eager.")
    ] = "graph",
    hops: Annotated[int, typer.Option(help="Hops of a query, for joules per query.")] = 256,
    b_max: Annotated[int, typer.Option(help="Largest batch that B* is looked for in.")] = 256,
    draws: Annotated[int, typer.Option(help="Bootstrap draws of the fits that intervals use.")] = 100,
    fits: Annotated[
        Path,
        typer.Option(
            help="Folder of fits, and of the history of checked predictions, which the shipped one is added to."
        ),
    ] = Path("fits"),
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(help="Native chain run that calibrates the time between linears; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to store the prediction in.")] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="PREDICTION", help="Compare a stored prediction with RUNS.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Predict time, throughput, energy, memory, B*, N* and verdicts without a GPU; or check a stored prediction.

    The first line says whether fits of that machine were used or the hardware table with the H200's efficiencies.
    """
    if check is not None:
        _check(check, runs or [], fits, as_json)
        return
    if runs:
        raise ValueError(f"{len(runs)} runs are given without --check, which names the prediction to check")
    from analysis.predict_file import check_new, write_prediction

    if out is not None:
        check_new(out)
    prediction = _predict(
        PredictJob(
            model=model,
            arch=arch,
            kernel=kernel,
            batch=batch,
            context=context,
            engine=engine,
            hops=hops,
            b_max=b_max,
            draws=draws,
            fits=fits,
            calibrate=tuple(calibrate or ()),
            is_quiet=as_json,
        )
    )
    if out is not None:
        write_prediction(out, prediction)
    from analysis.predict_history import error_rows, summarise_errors

    history = known_history(fits)
    errors = summarise_errors(history)
    if as_json:
        fields = prediction.model_dump(mode="json")
        typer.echo(
            json.dumps(
                fields | {"held_out": [asdict(e) for e in errors], "file": None if out is None else str(out)}
            )
        )
        return
    from profiler.cli_predict_tables import show_prediction

    show_prediction(_console(), prediction, errors, error_rows(history))
    if out is not None:
        _console().print(f"written: {out}")


def _predict(job: PredictJob) -> Prediction:
    from analysis.kernel_kinds import BASELINE
    from analysis.model_shape import HopEngine
    from analysis.predict import Request, predict, why_longer
    from analysis.predict_calibrate import calibrate, native_hops
    from analysis.predict_file import Prediction, now_utc
    from analysis.predict_hop import HopSetting, why_no_gemv, why_too_short
    from profiler.environment import capture_environment
    from reasoning.model_table import MODELS

    if job.engine == "hf_graph":
        raise ValueError(
            "--engine hf_graph is not predicted, it is only measured; "
            f"what is: {', '.join(e.value for e in HopEngine)}"
        )
    if job.engine not in [e.value for e in HopEngine]:
        raise ValueError(f"--engine {job.engine!r} is none of {', '.join(e.value for e in HopEngine)}")
    how = HopEngine(job.engine)
    batches = parse_batches(job.batch)
    models = tuple(model_shape(key) for key in split_words("model", job.model))
    machine = find_machine(job.arch, job.fits)
    calibration, calibrated = None, []
    if job.calibrate:
        records = [record for path in job.calibrate for record in load_records(path)]
        known = {key: model_shape(key) for key in ("tiny", *MODELS)}
        native = native_hops(records, known, machine, how, job.context)
        calibration = calibrate(machine, native, how, job.context, seed=0)
        calibrated = [(hop.model.key, BASELINE) for hop in native]
    request = Request(
        models,
        tuple(split_words("kernel", job.kernel)),
        batches,
        HopSetting(how, job.context, calibration),
        job.hops,
        job.b_max,
        job.draws,
    )
    memories = {
        (shape.key, name): kernel_memory(shape, name, how, job.context, machine)
        for shape in models
        for name in request.all_kernels
    }
    with Console(stderr=True, quiet=job.is_quiet).status("predicting") as status:
        found = predict(
            machine,
            request,
            memories,
            family=tuple(model_shape(key) for key in MODELS),
            calibrated=calibrated,
            on_step=lambda step: status.update(f"predicting {step}"),
        )
    environment = capture_environment(sys.argv)
    return Prediction(
        created_utc=now_utc(),
        git_commit=environment.git_commit,
        command=environment.command,
        machine=machine.name,
        arch=machine.arch,
        source=machine.source,
        is_transferred=machine.is_transferred,
        fits=machine.fitted_on,
        fit_runs=list(machine.runs),
        fit_cards=list(machine.cards),
        engine=job.engine,
        context=job.context,
        hops=job.hops,
        calibration_runs=[] if calibration is None else list(calibration.runs),
        calibration_residual_share_p50=None if calibration is None else calibration.residual_share_p50,
        cells=found.cells,
        crossings=found.crossings,
        scales=found.scales,
        warnings=[
            *machine.warnings,
            *_missing(machine),
            *filter(None, (why_no_gemv(machine, how),)),
            *filter(None, (why_too_short(machine, request.setting),)),
            *filter(None, (why_longer(found.cells, machine.tdp_w),)),
        ],
    )


def _missing(machine: Machine) -> list[str]:
    if machine.energy is None:
        return [
            "no energy was fitted, so joules and their verdicts are not predicted; `qt-profile sweep --for-fit`"
        ]
    return []


def _check(path: Path, runs: Sequence[Path], fits: Path, as_json: bool) -> None:
    from analysis.predict_check import check_prediction
    from analysis.predict_file import read_prediction
    from analysis.predict_history import HISTORY, append_history, summarise_errors

    if not runs:
        raise ValueError(f"--check {path} needs 1 or more chain runs made after it, got 0")
    prediction = read_prediction(path)
    found = check_prediction(prediction, [record for run in runs for record in load_records(run)])
    check_samples(runs, {entry.run_id for entry in found.held_out})
    added = append_history(fits / HISTORY, found.held_out)
    own, ever = summarise_errors(found.held_out), summarise_errors(known_history(fits))
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "prediction": prediction.name,
                    "cells": [entry.model_dump(mode="json") for entry in found.held_out],
                    "errors": [asdict(e) for e in own],
                    "b_star": [asdict(c) for c in found.crossings],
                    "same_card": found.is_same_card,
                    "skipped": found.skipped,
                    "history": str(fits / HISTORY),
                    "added": added,
                    "held_out": [asdict(e) for e in ever],
                }
            )
        )
        return
    from profiler.cli_predict_tables import show_check

    show_check(_console(), prediction, found, own, ever)
    _console().print(f"{added} of {len(found.held_out)} cells added to {fits / HISTORY}")


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_TABLE_WIDTH)
