"""Several models in one command: a run and a record each, one after another; what one loses, the others keep."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import typer

from profiler.cli_chain import ChainJob, measure_chain, run_chain, show_chain
from profiler.cli_errors import EXIT_INTERRUPTED, STOP_SIGNALS, explain


def run_models(job: ChainJob, models: Sequence[str]) -> int:
    """Run a chain on one model, or on several in turn.

    A model that cannot be used is named in a sentence, and the next begins. With ``--json`` several models print one
    object: ``runs``, each as it would be alone, ``exit_code`` and ``error``.

    Args:
        job: what to run; its spec's model is replaced by each of ``models``.
        models: their names.

    Returns:
        0 if all are done, 130 if the user stopped it, otherwise the code of the first model that failed.

    Raises:
        KeyboardInterrupt: there is one model, and it was interrupted before anything was measured.
        ValueError: there is one model, and it cannot be used.
    """
    if len(models) == 1:
        return run_chain(replace(job, spec=replace(job.spec, model=models[0])))
    codes: list[int] = []
    printed: list[dict[str, Any]] = []
    troubles: list[str] = []
    for number, model in enumerate(models, start=1):
        if not job.as_json:
            typer.echo(f"model {number} of {len(models)}: {model}", err=True)
        code, fields, trouble = _one(job, model)
        codes.append(code)
        printed.append(fields)
        troubles += [] if trouble is None else [trouble]
        if code == EXIT_INTERRUPTED:
            if number < len(models):
                troubles.append(f"interrupted: not begun: {', '.join(models[number:])}")
                typer.echo(f"error: {troubles[-1]}", err=True)
            break
        _free_memory()
    code = EXIT_INTERRUPTED if EXIT_INTERRUPTED in codes else next((c for c in codes if c), 0)
    if job.as_json:
        ending = {"exit_code": code, "error": "; ".join(troubles) or None}
        typer.echo(json.dumps({"runs": printed} | ending, allow_nan=False))
    return code


def _one(job: ChainJob, model: str) -> tuple[int, dict[str, Any], str | None]:
    """Run one of several models: its exit code, its JSON, and what went wrong."""
    try:
        end = measure_chain(replace(job, spec=replace(job.spec, model=model)))
    except (Exception, KeyboardInterrupt) as error:
        known = explain(error)
        if known is None:
            raise
        code, sentence = known
    else:
        with STOP_SIGNALS.held():
            show_chain(end, prints_tables=not job.as_json, shows_waterfall=job.shows_waterfall)
        trouble = None if end.trouble is None else f"{model}: {end.trouble}"
        return end.code, end.as_json() if job.as_json else {}, trouble
    trouble = f"{model}: {sentence}"
    typer.echo(f"error: {trouble}", err=True)
    return code, {"model": model, "run": None, "exit_code": code, "error": sentence}, trouble


def _free_memory() -> None:
    """Give the last model's memory back before the next is loaded."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
