"""``qt-profile report``: runs, fits and checked predictions as one page, as pictures and as Markdown."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from profiler.record import write_whole

if TYPE_CHECKING:
    from analysis.report.inputs import Catalogue

_DECODED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
_LARGEST_B = 100_000


def report_command(
    runs: Annotated[
        list[Path], typer.Argument(help="Runs, folders of runs, fits files, checked predictions; any mix.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")] = Path("report.html"),
    png: Annotated[
        Path | None, typer.Option(help="Folder to draw every figure into, as PNG and as SVG.")
    ] = None,
    md: Annotated[Path | None, typer.Option(help="Markdown file to write the same facts into.")] = None,
    model: Annotated[
        str, typer.Option(help="Row of the model table whose linear layers B* and phi are given for.")
    ] = "mistral-7b",
    b_max: Annotated[int, typer.Option(help="Largest batch that B* is looked for in.")] = 256,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of sentences.")
    ] = False,
) -> None:
    """Write one self-contained page from records: verdicts first, then every figure that the records allow.

    What was not given is not drawn: its section names the command that makes it.
    """
    from analysis.report.build import build_report
    from analysis.report.page import page
    from analysis.report.read import read_inputs
    from analysis.report.section import Missing

    if not 2 <= b_max <= _LARGEST_B:
        raise ValueError(f"--b-max {b_max} is outside 2 to {_LARGEST_B}")
    for option, path in (("--out", out), ("--md", md)):
        if path is not None and path.is_dir():
            raise ValueError(f"{option} {path} is a folder, a file is needed")
    if png is not None and png.exists() and not png.is_dir():
        raise ValueError(f"--png {png} is a file, a folder is needed")
    found = build_report(read_inputs(runs), _catalogue(model, b_max))
    text = page(found)
    write_whole(out, text)
    written = [out]
    if png is not None:
        from analysis.report.draw_matplotlib import draw_files
        from analysis.report.headline import headline_figure

        headline = headline_figure(found)
        written += draw_files([*found.figures, *([] if headline is None else [headline])], png)
    if md is not None:
        from analysis.report.markdown import markdown

        pictures = None if png is None else os.path.relpath(png, md.parent)
        write_whole(md, markdown(found, pictures=pictures))
        written.append(md)
    missing = [s.title for s in found.sections if any(isinstance(block, Missing) for block in s.blocks)]
    if as_json:
        facts = {
            "report": str(out),
            "bytes": len(text.encode()),
            "figures": [figure.key for figure in found.figures],
            "incomplete": missing,
            "notes": list(found.notes),
            "written": [str(path) for path in written],
        }
        typer.echo(json.dumps(facts))
        return
    typer.echo(found.sections[0].lead)
    for note in found.notes:
        typer.echo(f"note: {note}")
    if missing:
        typer.echo(f"incomplete for lack of runs: {', '.join(missing)}")
    more = f" and {len(written) - 1} more files" if len(written) > 1 else ""
    count = f"{len(found.figures)} figure{'s' * (len(found.figures) != 1)}"
    typer.echo(f"written: {out} ({count}, {len(text.encode()) / 1e6:.1f} MB){more}")


def _catalogue(model: str, b_max: int) -> Catalogue:
    from analysis.fit_crossing import Layer
    from analysis.report.inputs import Catalogue, ModelRow
    from profiler.cli_predict_inputs import gpu_figures
    from profiler.hardware import HARDWARE
    from reasoning.model_table import MODELS, get_model_spec

    get_model_spec(model)
    models = {}
    for key, spec in MODELS.items():
        shapes = spec.linear_shapes()
        layers = tuple(Layer(*shapes[name], spec.num_hidden_layers) for name in _DECODED)
        models[key] = ModelRow(key, spec.linear_parameters, layers)
    gpus = {key: gpu_figures(spec) for key, spec in HARDWARE.items()}
    return Catalogue(models, gpus, model, b_max)
