"""``qt-profile chain``: its options and their checks; ``cli_chain`` does the job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from profiler.cli_errors import MissingHardwareError

if TYPE_CHECKING:
    from reasoning.chain_spec import ChainSpec, Engine

_Choice = TypeVar("_Choice", bound=Enum)


def chain_command(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="tiny (the default), a key of the model table, a local folder, or a hub id; repeat or separate by "
            "commas for a run each."
        ),
    ] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            help="Variant to profile; repeat or separate by commas; fused_nf4 by default. See `qt-profile kernels`."
        ),
    ] = None,
    baseline: Annotated[str, typer.Option(help="Reference kernel.")] = "bf16",
    engine: Annotated[
        str,
        typer.Option(
            help="eager: Hugging Face's forward pass, paced by the host; hf_graph: the same layers, one CUDA graph "
            "per hop; graph: our decoder, one CUDA graph per hop; compile: the same with compiled layers; fused: the "
            "same with our own kernels between the linears; auto: fused on a GPU, eager on a CPU."
        ),
    ] = "auto",
    problems: Annotated[
        str | None,
        typer.Option(
            help="synthetic (the default), a GSM8K or MathQA file, recorded solutions, openai/gsm8k, or the folder of "
            "an earlier run, with what its baseline generated as solutions."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most this many problems; 20 synthetic ones by default.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="paper: the paper's own. Hugging Face's forward pass, bnb_nf4 and bnb_int8 against bf16, batch 1, "
            "GSM8K (openai/gsm8k by default) or MathQA, and its figures as printed."
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="generate: solve the problems; replay: force recorded solutions.")
    ] = "generate",
    batch: Annotated[
        str,
        typer.Option(help="Sequences decoded together, B: one number, a list 1,8,64, or 1:64 in doublings."),
    ] = "1",
    max_new: Annotated[int, typer.Option(help="Most tokens per solution, 2 or more.")] = 400,
    context: Annotated[
        int | None,
        typer.Option(help="Tokens of every prompt: solved problems (or random tokens) in front, or cut."),
    ] = None,
    hops: Annotated[
        int | None,
        typer.Option(
            help="Decode exactly this many hops, for times: nothing is scored; two batches unless --limit."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seeds the synthetic problems, random weights and intervals.")
    ] = 1,
    group_size: Annotated[
        int | None, typer.Option(help="Weights per scale (32, 64, 128) of the grouped formats.")
    ] = None,
    double_quant: Annotated[
        bool, typer.Option("--double-quant", help="Quantize the group scales too.")
    ] = False,
    ablation: Annotated[
        int | None,
        typer.Option(
            help="Problems replayed with unfused, fused and null kernels to isolate the cast; 0: none; 4 by default."
        ),
    ] = None,
    ablate: Annotated[
        bool,
        typer.Option(
            "--ablate", help="Print where the hop's time goes, with intervals; replays one batch at least."
        ),
    ] = False,
    weights: Annotated[
        str, typer.Option(help="real, or random: time and energy only, accuracy is not measured.")
    ] = "real",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    tdp_w: Annotated[
        float | None, typer.Option(help="TDP for an energy estimate where no counter is readable, W.")
    ] = None,
    energy_windows: Annotated[
        int,
        typer.Option(
            help="Windows of 5 s that an energy counter gets per kernel at least; 0: it is not read."
        ),
    ] = 3,
    grid_intensity: Annotated[
        float | None,
        typer.Option("--grid-intensity", help="Carbon intensity of the grid for CAES, kgCO2e/kWh."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads; by default half of the logical CPUs, so that others do not stall us."
        ),
    ] = None,
    solutions: Annotated[
        str | None,
        typer.Option(
            help="Whose solutions --mode replay takes from a file of several models', such as 6b_finetuning."
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip malformed lines of the problem file.")
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Folder of an interrupted run of the same command: its finished batch sizes are kept."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder that the run record is written into.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Solve multi-hop problems with a baseline and with low-bit kernels; print the table, store the run.

    Exit codes: 0 done, 1 the record could not be written, 2 bad arguments, 3 missing hardware or memory (batch sizes
    that fit are measured), 130 interrupted (what was measured is kept; before anything was, no record is written).
    """
    from profiler.cli_chain import ChainJob
    from profiler.cli_chain_models import run_models
    from profiler.cli_chain_paper import KERNELS, PROBLEMS, check_library, check_protocol
    from reasoning.chain_spec import SYNTHETIC, ChainMode, ChainSpec, Engine

    if ablate and ablation == 0:
        raise ValueError("--ablate prints what is replayed, but --ablation 0 replays nothing")
    check_one_of("device", device, ("auto", "cpu", "cuda"))
    check_one_of("weights", weights, ("real", "random"))
    check_one_of("engine", engine, ("auto", *(e.value for e in Engine)))
    chosen_mode = _choice("mode", mode, ChainMode)
    kernels = [name for word in kernel or () for name in _listed("kernel", word)]
    if protocol is not None:
        check_one_of("protocol", protocol, ("paper",))
        check_protocol(
            {
                "--kernel": ",".join(kernels) or None,
                "--baseline": baseline,
                "--engine": engine,
                "--batch": batch,
                "--mode": mode,
                "--hops": None if hops is None else str(hops),
                "--context": None if context is None else str(context),
                "--group-size": None if group_size is None else str(group_size),
                "--double-quant": "on" if double_quant else None,
            }
        )
        kernels, engine, problems = list(KERNELS), "eager", problems or PROBLEMS
    chosen_device = _device(device)
    models = _models(model or ["tiny"])
    if resume is not None and len(models) > 1:
        raise ValueError(f"--resume goes on with 1 model, --model names {len(models)}: {', '.join(models)}")
    spec = ChainSpec(
        model=models[0],
        kernels=tuple(kernels or ["fused_nf4"]),
        baseline=baseline,
        problems=problems or SYNTHETIC,
        solutions=solutions,
        protocol=protocol,
        limit=limit,
        mode=chosen_mode,
        batch_sizes=batch_sizes(batch),
        max_new_tokens=max_new,
        seed=seed,
        engine=Engine.EAGER,
        context=context,
        hops=hops,
        group_size=group_size,
        double_quant=double_quant,
        ablation_problems=4 if ablation is None else ablation,
        energy_windows=energy_windows,
        grid_kgco2e_per_kwh=grid_intensity,
    )
    spec = replace(spec, engine=_engine(engine, chosen_device, spec))
    if protocol is not None:
        check_library(chosen_device)
    _use_threads(threads)
    code = run_models(
        ChainJob(
            spec=spec,
            weights="random" if weights == "random" else "real",
            device=chosen_device,
            tdp_w=tdp_w,
            skip_bad=skip_bad,
            out=out,
            as_json=as_json,
            resume=resume,
            shows_waterfall=ablate,
        ),
        models,
    )
    raise typer.Exit(code)


def batch_sizes(text: str) -> tuple[int, ...]:
    """Read ``8``, ``1,8,64`` or ``1:64``, which doubles until it reaches the end.

    Raises:
        ValueError: a word that is no whole number, or a range that runs backwards.
    """
    sizes: list[int] = []
    for word in _listed("batch", text):
        first, colon, last = word.partition(":")
        try:
            ends = [int(first), int(last)] if colon else [int(first)]
        except ValueError as error:
            raise ValueError(
                f"--batch {text!r} holds {word!r}, expected whole numbers such as 1,8 or 1:64"
            ) from error
        if colon and not 1 <= ends[0] <= ends[1]:
            raise ValueError(f"--batch {word}: {ends[0]} to {ends[1]} is no range of batch sizes")
        size = ends[0]
        while colon and size < ends[1]:
            sizes.append(size)
            size *= 2
        sizes.append(ends[-1])
    return tuple(sizes)


def check_one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    """Refuse a value that an option does not know.

    Raises:
        ValueError: it is none of ``allowed``.
    """
    if value not in allowed:
        raise ValueError(f"--{option} {value!r} is none of {', '.join(allowed)}")


def _listed(option: str, text: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise ValueError(f"--{option} {text!r} has {words.count('')} empty words between its commas")
    return words


def _choice(option: str, value: str, kind: type[_Choice]) -> _Choice:
    check_one_of(option, value, [str(member.value) for member in kind])
    return kind(value)


def _models(words: Sequence[str]) -> list[str]:
    """The models named, a folder with a comma in its name as one."""
    models = [name for word in words for name in ([word] if Path(word).is_dir() else _listed("model", word))]
    if len(set(models)) != len(models):
        raise ValueError(f"a model is named twice: {', '.join(models)}")
    return models


def _engine(wanted: str, device: str, spec: ChainSpec) -> Engine:
    """The engine; ``auto`` leaves out those that the run's kernels do not allow."""
    from reasoning.chain_spec import Engine

    if wanted == "auto":
        return Engine.FUSED if device == "cuda" and not spec.why_not_captured else Engine.EAGER
    return Engine(wanted)


def _use_threads(threads: int | None) -> None:
    import torch

    cpus = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cpus:
        raise ValueError(f"--threads {threads} is outside 1 to {cpus}, the logical CPUs here")
    torch.set_num_threads(threads or max(1, cpus // 2))


def _device(wanted: str) -> Literal["cpu", "cuda"]:
    import torch

    here = torch.cuda.is_available()
    if wanted == "cuda" and not here:
        raise MissingHardwareError(
            "--device cuda, but torch sees no CUDA device here; see `qt-profile doctor`"
        )
    return "cuda" if here and wanted != "cpu" else "cpu"
