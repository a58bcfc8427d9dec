"""``ChainSpec``: what a chain run does, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kernels.peers.kernel import PeerKernel, canonical_name, find_kernel
from kernels.registry import Kernel, Scheme

SYNTHETIC = "synthetic"
DEFAULT_SYNTHETIC_PROBLEMS = 20
PAPER = "paper"
"""The paper's protocol, see ``ChainSpec.protocol``."""

_LEAST = {
    "max_new_tokens": 2,
    "ablation_problems": 0,
    "ablation_hops": 2,
    "ablation_repeats": 1,
    "energy_windows": 0,
}


class ChainMode(str, Enum):
    """``generate``: free-running greedy decoding; ``replay``: the tokens come from recorded solutions."""

    GENERATE = "generate"
    REPLAY = "replay"


class Engine(str, Enum):
    """How a hop is executed.

    ``eager``: the Hugging Face forward pass, kernel by kernel, which the host paces. ``hf_graph``: the same layers with
    a static cache, one CUDA graph per hop. ``graph``: our decoder with a static cache, one CUDA graph per hop.
    ``compile``: the same, what lies between the linears made by torch's compiler. ``fused``: the same by our own
    kernels, on a GPU only.
    """

    EAGER = "eager"
    HF_GRAPH = "hf_graph"
    GRAPH = "graph"
    COMPILE = "compile"
    FUSED = "fused"

    @property
    def runs_transformers(self) -> bool:
        """Whether a hop is transformers' forward pass with replaced linears, and not our decoder."""
        return self in (Engine.EAGER, Engine.HF_GRAPH)


@dataclass(frozen=True)
class ChainSpec:
    """A chain run.

    Args:
        model: ``tiny``, a key of the model table, a local folder or a hub id.
        kernels: variants to compare with the baseline, by registry name; other libraries' by either of their names.
        baseline: the reference kernel.
        problems: ``synthetic`` (held-out structures of the project's own generator), a path or a hub id.
        solutions: whose recorded solutions are replayed, where a file holds those of several models
            (``6b_finetuning``); None replays the file's own.
        limit: at most this many problems; None is all of a file, and ``DEFAULT_SYNTHETIC_PROBLEMS`` synthetic ones.
        mode: see :class:`ChainMode`.
        batch_sizes: sequences decoded together, B; one after another.
        max_new_tokens: most tokens per solution.
        seed: seeds the synthetic problems, random weights and the bootstrap.
        engine: see :class:`Engine`.
        context: tokens of every prompt: shorter ones get solved problems (random tokens where weights are random) in
            front, longer ones lose their beginning; None leaves prompts as they are.
        hops: decoded hops of every sequence, end tokens or not, for times alone: nothing is scored; None decodes to the
            end of the solution.
        group_size: weights per scale of the grouped formats; None takes each format's default.
        double_quant: quantize the scales once more, where the format can.
        ablation_problems: problems replayed with every kernel of a variant's format, rounded up to whole batches; 0
            turns the ablation off. In replay mode every problem is replayed.
        ablation_hops: most hops replayed of each solution of the ablation; in replay mode whole solutions are.
        ablation_repeats: timed replays of each batch; one more is replayed with ranges.
        energy_windows: energy windows of each kernel at least, where the meter needs windows of some length; problems
            are decoded again to fill them. 0: such a meter is not read.
        grid_kgco2e_per_kwh: carbon intensity of the grid for CAES, kgCO2e/kWh; None leaves CAES out.
        protocol: ``paper``: problems have to be the paper's, GSM8K or MathQA, and its figures are derived as printed;
            None for our own.

    Raises:
        ValueError: a number out of range, or a kernel that is unknown, given twice or without meaning as a variant.
    """

    model: str = "tiny"
    kernels: tuple[str, ...] = ("fused_nf4",)
    baseline: str = "bf16"
    problems: str = SYNTHETIC
    solutions: str | None = None
    limit: int | None = None
    mode: ChainMode = ChainMode.GENERATE
    batch_sizes: tuple[int, ...] = (1,)
    max_new_tokens: int = 400
    seed: int = 1
    engine: Engine = Engine.EAGER
    context: int | None = None
    hops: int | None = None
    group_size: int | None = None
    double_quant: bool = False
    ablation_problems: int = 4
    ablation_hops: int = 64
    ablation_repeats: int = 2
    energy_windows: int = 3
    grid_kgco2e_per_kwh: float | None = None
    protocol: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name}={value} is below {least}")
        for name in ("limit", "context", "hops"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is below 1")
        if self.solutions is not None and self.mode is not ChainMode.REPLAY:
            raise ValueError(
                f"solutions={self.solutions} are replayed, and mode={self.mode.value} replays no recorded ones"
            )
        if not self.batch_sizes:
            raise ValueError("a chain needs at least 1 batch size, got 0")
        for size in self.batch_sizes:
            if size < 1:
                raise ValueError(f"batch_size={size} is below 1")
        if len(set(self.batch_sizes)) != len(self.batch_sizes):
            raise ValueError(f"a batch size is given twice: {', '.join(map(str, self.batch_sizes))}")
        grid = self.grid_kgco2e_per_kwh
        if grid is not None and not 0 < grid < float("inf"):
            raise ValueError(f"grid_kgco2e_per_kwh={grid:g} is not a positive number")
        if self.protocol not in (None, PAPER):
            raise ValueError(f"protocol {self.protocol!r} is unknown, there is 1: {PAPER}")
        if self.protocol == PAPER and self.problems == SYNTHETIC:
            raise ValueError(f"--protocol {PAPER} solves GSM8K or MathQA, not {SYNTHETIC} problems")
        if not self.kernels:
            raise ValueError("a chain needs at least 1 kernel, got 0")
        object.__setattr__(self, "kernels", tuple(canonical_name(name) for name in self.kernels))
        object.__setattr__(self, "baseline", canonical_name(self.baseline))
        for name in self.main_kernels:
            if not find_kernel(name).meaningful_output:
                raise ValueError(
                    f"{name} computes nothing meaningful, so it cannot solve problems; "
                    f"it runs beside {name.replace('null', 'fused')} in the ablation"
                )
            self._check_peer(find_kernel(name))
        if len(set(self.main_kernels)) != len(self.main_kernels):
            raise ValueError(f"a kernel is named twice: {', '.join(self.main_kernels)}")

    def _check_peer(self, kernel: Kernel) -> None:
        """Refuse settings that another library's kernel would not see."""
        if not isinstance(kernel, PeerKernel) or kernel.peer.group_size is None:
            return
        if self.group_size not in (None, kernel.peer.group_size):
            raise ValueError(
                f"group_size={self.group_size} was asked for, {kernel.name} has {kernel.scale_of_weights}"
            )
        if self.double_quant:
            raise ValueError(
                f"double_quant=True was asked for, {kernel.name} keeps its scales as its library makes them"
            )

    @property
    def most_tokens(self) -> int:
        """Most tokens added to a prompt; the prefill chooses the first of them."""
        return self.max_new_tokens if self.hops is None else self.hops + 1

    def problem_count(self, batch_size: int) -> int | None:
        """Problems that a batch size decodes; None for all that there are.

        Fixed hops are for times: two batches of them tell drift from noise, and more would only take longer.
        """
        return None if self.hops is None or self.limit is not None else 2 * batch_size

    @property
    def streams(self) -> bool:
        """Whether no kernel needs native weights, so that each can be dropped as soon as it has been quantized."""
        return not self.engine.runs_transformers and all(kernel.format for kernel in self.all_kernels())

    @property
    def main_kernels(self) -> tuple[str, ...]:
        """The baseline and the variants."""
        return (self.baseline, *(k for k in self.kernels if k != self.baseline or self.kernels.count(k) > 1))

    @property
    def ablation_kernels(self) -> tuple[str, ...]:
        """Main kernels, and unfused, fused and null of every variant's format, each once; peers have no such twins."""
        names = dict.fromkeys(self.main_kernels)
        for name in self.main_kernels:
            fmt = find_kernel(name).format
            if fmt is not None:
                names |= dict.fromkeys(
                    f"{s.value}_{fmt.name}" for s in (Scheme.UNFUSED, Scheme.FUSED, Scheme.NULL)
                )
        return tuple(names)

    def all_kernels(self) -> tuple[Kernel, ...]:
        """Every kernel that the run touches."""
        names = self.ablation_kernels if self.ablates else self.main_kernels
        return tuple(find_kernel(name) for name in names)

    @property
    def why_not_captured(self) -> str:
        """Why a CUDA graph cannot hold this run's hops, in a clause; empty where it can."""
        reasons = [(kernel.name, kernel.why_not_captured) for kernel in self.all_kernels()]
        return "; ".join(f"{name} cannot be captured in a CUDA graph: {why}" for name, why in reasons if why)

    @property
    def ablates(self) -> bool:
        """Whether recorded tokens are replayed with every kernel of the variants' formats."""
        return self.mode is ChainMode.REPLAY or self.ablation_problems > 0
