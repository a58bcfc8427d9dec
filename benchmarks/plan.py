"""What a sweep measures: kernels, shapes, rows of x, repeats; every bad argument is refused here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from benchmarks.variants import BASELINE, KernelVariant, PeerVariant, Variant, group_size_for
from kernels.formats import FORMATS, get_format
from kernels.peers.kernel import PEER_KERNELS
from kernels.peers.peer import Peer
from kernels.peers.registry import PEERS, find_peers
from kernels.registry import KERNELS, Scheme, get_kernel

T = TypeVar("T")

ALL = "all"
LEAST_REPEATS = 2
_TINY = "tiny"
_CPU_SHAPES = ((1024, 1024), (2048, 2048))
# Layers of Mistral-7B and Qwen3-0.6B: from launch-bound to bandwidth-bound.
_GPU_SHAPES = ((1024, 3072), (6144, 1024), (4096, 4096), (4096, 14336), (28672, 4096))
_CPU_MS = (1, 8)
_GPU_MS = (1, 8, 64)
# On a CPU a call takes milliseconds to seconds, and the whole sweep must end within about two minutes.
_CPU_LIMIT_S = 4.0
_CPU_REPEATS = 20
_GPU_LIMIT_S = 20.0
_GPU_REPEATS = 50
# What a fit needs: launch-bound to bandwidth-bound, narrow and wide, the same n k with another n + k, both sides of
# the ridge; and of every format what it costs with and without decoding.
_FIT_FORMATS = ("nf4", "fp4", "int8", "fp8")
_FIT_GPU_KERNELS = ("gemv_bf16",)
_FIT_KERNELS = (
    *(f"{scheme}_{fmt}" for fmt in _FIT_FORMATS for scheme in ("unfused", "fused", "null")),
    "native_int8",
    "native_fp8",
)
_FIT_GPU_SHAPES = (
    "1024x1024,1024x3072,2048x1024,3072x2048,6144x1024,12288x2048,4096x4096,4096x14336,28672x4096,29568x8192"
)
# Between 128 and 256, two numbers of rows that our kernels are tuned for, times are on no line.
_FIT_GPU_MS = "1,8,16,32,64,128,160,256"
_FIT_CPU_SHAPES = "128x128,128x384,256x128,384x256,512x512"
_FIT_CPU_MS = "1,8,64"
FIT_LEAST_REPEATS = 12


@dataclass(frozen=True)
class Shape:
    """A weight [n, k] and where it comes from."""

    n: int
    """Out-features."""
    k: int
    """In-features."""
    model: str | None = None
    """Key of the model table."""
    layer: str | None = None
    """Linear layers of this shape, joined by ``+``."""

    def __str__(self) -> str:
        return f"{self.n}x{self.k}"


@dataclass(frozen=True)
class SweepRequest:
    """Arguments as they were given; None and empty mean the default."""

    formats: tuple[str, ...] = ()
    """Formats, ``all`` among them or none for every format."""
    kernels: str | None = None
    """Kernel names, comma-separated."""
    model: str | None = None
    """Key of the model table."""
    shapes: str | None = None
    """Shapes ``NxK``, comma-separated."""
    m: str | None = None
    """Rows of x, comma-separated."""
    repeats: int | None = None
    """Samples per kernel, shape and m."""
    group_size: int | None = None
    """Weights along K that share a scale."""
    seed: int = 0
    """Seed of the random data and of the order of variants."""
    peers: bool = False
    """Whether other libraries' kernels are measured beside ours."""
    peer: str | None = None
    """Peers to measure, comma-separated; None for all of them."""
    for_fit: bool = False
    """Whether everything is measured that a fit needs; kernels, shapes and rows of x are then given."""


@dataclass(frozen=True)
class SweepPlan:
    """A sweep with every default filled in."""

    variants: tuple[Variant, ...]
    """Kernels in the order of the table, the baseline first, the peers last."""
    shapes: tuple[Shape, ...]
    """Weights."""
    ms: tuple[int, ...]
    """Rows of x."""
    repeats: int
    """Samples per variant, shape and m."""
    limit_s: float | None
    """Sampling of one shape and m stops after this time, s; None where the repeats were asked for."""
    group_size: int | None
    """Group size that was asked for; None for each format's default."""
    seed: int
    """Seed."""

    @property
    def cells(self) -> Iterator[tuple[Shape, int]]:
        """Shape and m of everything that is timed interleaved, in order."""
        return ((shape, m) for shape in self.shapes for m in self.ms)


def make_plan(
    request: SweepRequest,
    device_type: str,
    *,
    is_here: bool = True,
    known_peers: Mapping[str, Peer] | None = None,
) -> SweepPlan:
    """Fill in defaults and check the arguments against each other.

    Args:
        request: the arguments.
        device_type: ``cpu`` or ``cuda``, whose defaults differ.
        is_here: whether that device is at hand, and may be asked what it can run.
        known_peers: registry of peers; None for the one of ``kernels.peers``.

    Returns:
        The plan; it holds the baseline ``bf16`` whatever was asked for.

    Raises:
        ValueError: an unknown name, a number that is no size, or sizes that do not fit each other.
    """
    on_cpu = device_type == "cpu"
    if request.for_fit:
        request = fit_request(request, on_cpu)
    if request.repeats is not None and request.repeats < LEAST_REPEATS:
        raise ValueError(
            f"repeats={request.repeats} is less than {LEAST_REPEATS}, the fewest that give an interval"
        )
    if request.seed < 0:
        raise ValueError(f"seed={request.seed} is less than 0")
    plan = SweepPlan(
        variants=(*_kernels(request, device_type, is_here), *_peers(request, known_peers)),
        shapes=_shapes(request, on_cpu),
        ms=parse_ms(request.m) if request.m is not None else (_CPU_MS if on_cpu else _GPU_MS),
        repeats=request.repeats or (_CPU_REPEATS if on_cpu else _GPU_REPEATS),
        limit_s=None if request.repeats else (_CPU_LIMIT_S if on_cpu else _GPU_LIMIT_S),
        group_size=request.group_size,
        seed=request.seed,
    )
    _check_groups(plan)
    return plan


def fit_request(request: SweepRequest, on_cpu: bool) -> SweepRequest:
    """Fill in what a sweep for a fit measures.

    Args:
        request: a request with ``for_fit``.
        on_cpu: whether it runs on a CPU, which gets a small variant.

    Raises:
        ValueError: it names kernels, shapes, rows or peers of its own, or too few repeats for an interval.
    """
    kernels = _FIT_KERNELS if on_cpu else (*_FIT_GPU_KERNELS, *_FIT_KERNELS)
    own = {
        "--format": ",".join(request.formats) or None,
        "--kernels": request.kernels,
        "--model": request.model,
        "--shapes": request.shapes,
        "--m": request.m,
        "--peer": "all" if request.peers else request.peer,
    }
    given = [f"{option} {value}" for option, value in own.items() if value is not None]
    if given:
        raise ValueError(
            f"--for-fit measures {len(kernels) + 1} kernels at shapes of its own, which "
            f"{', '.join(given)} contradicts"
        )
    if request.repeats is not None and request.repeats < FIT_LEAST_REPEATS:
        raise ValueError(f"repeats={request.repeats} is less than {FIT_LEAST_REPEATS}, what --for-fit needs")
    return replace(
        request,
        kernels=",".join(kernels),
        shapes=_FIT_CPU_SHAPES if on_cpu else _FIT_GPU_SHAPES,
        m=_FIT_CPU_MS if on_cpu else _FIT_GPU_MS,
        repeats=request.repeats or FIT_LEAST_REPEATS,
    )


def parse_ms(text: str) -> tuple[int, ...]:
    """Parse ``1,2,4``; a value given twice counts once.

    Raises:
        ValueError: a value is no whole number, or below 1.
    """
    values = []
    for word in _words(text, "m"):
        if not re.fullmatch(r"[+-]?\d+", word):
            raise ValueError(f"m={word!r} is not a whole number; m takes numbers such as 1,8,64")
        value = int(word)
        if value < 1:
            raise ValueError(f"m={value} is less than 1, the fewest rows that x can have")
        values.append(value)
    return _unique(values)


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """Parse ``4096x14336,1024x3072`` (n first); a shape given twice counts once.

    Raises:
        ValueError: a word is not of the form NxK, or a size is below 1.
    """
    shapes = []
    for word in _words(text, "shapes"):
        match = re.fullmatch(r"(\d+)[xX×](\d+)", word)
        if match is None:
            raise ValueError(f"shape {word!r} is not of the form NxK, such as 4096x14336")
        n, k = int(match[1]), int(match[2])
        if min(n, k) < 1:
            raise ValueError(f"shape {word!r} has n={n} and k={k}, but both must be at least 1")
        shapes.append(Shape(n, k))
    return _unique(shapes)


def model_shapes(key: str) -> tuple[Shape, ...]:
    """The distinct shapes of a model's linear layers, fused q/k/v and gate/up included.

    Raises:
        ValueError: no such model; the sentence lists the known ones.
    """
    from reasoning.model_table import get_model_spec

    layers: dict[tuple[int, int], list[str]] = {}
    spec = get_model_spec(key)
    for layer, sizes in spec.linear_shapes().items():
        layers.setdefault(sizes, []).append(layer)
    return tuple(Shape(n, k, spec.key, "+".join(names)) for (n, k), names in layers.items())


def _shapes(request: SweepRequest, on_cpu: bool) -> tuple[Shape, ...]:
    if request.model is not None and request.shapes is not None:
        raise ValueError(
            f"--model {request.model} and --shapes {request.shapes} both name shapes: give one of them"
        )
    if request.shapes is not None:
        return parse_shapes(request.shapes)
    if request.model is not None:
        return model_shapes(request.model)
    if on_cpu:
        return (*model_shapes(_TINY), *(Shape(n, k) for n, k in _CPU_SHAPES))
    return tuple(Shape(n, k) for n, k in _GPU_SHAPES)


def _kernels(request: SweepRequest, device_type: str, is_here: bool) -> tuple[KernelVariant, ...]:
    words = [word for text in request.formats for word in _words(text, "format")]
    formats = [get_format(word) for word in words if word != ALL]
    if not formats or ALL in words:
        formats = list(FORMATS.values())
    if request.kernels is None:
        # On a CPU every native kernel is torch's own product.
        native = [] if device_type == "cpu" else [k for k in KERNELS.values() if k.scheme is Scheme.NATIVE]
        chosen = [*native, *(kernel for kernel in KERNELS.values() if kernel.format in formats)]
    else:
        names = _words(request.kernels, "kernels")
        theirs = next((name for name in names if name in PEER_KERNELS or name in PEERS), None)
        if theirs is not None:
            raise ValueError(f"kernel {theirs} is another library's, which --peer {theirs} measures")
        chosen = [get_kernel(name) for name in names]
    for kernel in chosen:
        if words and kernel.format is not None and kernel.format not in formats:
            named = ", ".join(fmt.name for fmt in formats)
            raise ValueError(
                f"kernel {kernel.name} takes format {kernel.format.name}, but --format names {named}"
            )
    return tuple(
        KernelVariant(
            kernel, kernel.implementation_for(device_type) if is_here else next(iter(kernel.implementations))
        )
        for kernel in _unique([get_kernel(BASELINE), *chosen])
    )


def _peers(request: SweepRequest, known: Mapping[str, Peer] | None) -> tuple[PeerVariant, ...]:
    if not request.peers and request.peer is None:
        return ()
    names = [] if request.peer is None else _words(request.peer, "peer")
    return tuple(PeerVariant(peer) for peer in find_peers(_unique(names), known))


def _check_groups(plan: SweepPlan) -> None:
    formats = _unique([v.format for v in plan.variants if v.format is not None])
    if plan.group_size is not None and not any(fmt.group_sizes for fmt in formats):
        names = ", ".join(fmt.name for fmt in formats) or "no format"
        raise ValueError(
            f"group_size={plan.group_size} has nothing to apply to: {names} chosen, without groups along K"
        )
    for shape in plan.shapes:
        for fmt in formats:
            try:
                group_size_for(fmt, shape.k, plan.group_size)
            except ValueError as error:
                raise ValueError(f"{fmt.name}, shape {shape}: {error}") from None


def _words(text: str, name: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise ValueError(f"{name}={text!r} has {sum(not word for word in words)} empty entries")
    return words


def _unique(values: Iterable[T]) -> tuple[T, ...]:
    found: list[T] = []
    for value in values:  # kernels hold a dict, so they have no hash
        if value not in found:
            found.append(value)
    return tuple(found)
