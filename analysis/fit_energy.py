"""Energy of micro-benchmarks: static power, joules per byte, per operation, per decoded weight; alpha and phi in J.

    E = P0 T + Pa busy time + Pw waiting time + Pb time between linears + e_B bytes + e_C cached bytes + e_F flops
        + sum over products of (e_own + e_cast + e_row rows) weights

per unit of work. Windows that are all memory-bound cannot tell P0 from e_B, because their bytes are proportional to
their time: an idle and a compute-bound window are needed. Pa, what a busy device draws beyond an idle one whatever it
moves and computes, takes a busy window of little traffic besides; without one it is 0. A load that alone would draw
more than the power cap waits in between, and Pw is what waiting draws beyond idling. Pb is that of kernels between the
linears of a hop; without windows of hops it is Pa. e_C is of a decoded weight that fits into the cache, which it does
not leave between being written and read.

e_B and e_F are those of a library's products. A product of ours takes e_own more per weight and e_row more per weight
and row, measured with a kernel that decodes nothing, and e_cast is what decoding adds to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.checks import above_zero
from analysis.fit_solver import CONDITION_LIMIT, Floats, Solution, linear_problem, solve
from analysis.kernel_kinds import CAST_PREFIX, OWN_PREFIX, ROW_PREFIX, decodes, own_structure

BASE_PARAMETERS = ("static_w", "j_per_byte", "j_per_flop")
ACTIVE = "active_w"
BETWEEN = "between_w"
WAITING = "wait_w"
CACHED = "j_per_cached_byte"
IDLE = "idle"
"""Load of nothing, with the context alive."""
WAIT = "wait"
"""Load of a kernel that only waits."""
_MISSING = {
    "static_w": "a window of idling with the context alive",
    "j_per_byte": "a memory-bound window, m = 1 at a large shape",
    "j_per_flop": "a compute-bound window, m = 256 or more at a large shape",
}


@dataclass(frozen=True)
class Product:
    """A product with weights.

    Attributes:
        kernel: what computes it.
        bits: width of its codes; None where no run says.
        weights: number of weights.
        rows: rows of x.
    """

    kernel: str
    bits: int | None
    weights: float
    rows: int


@dataclass(frozen=True)
class EnergyWork:
    """Energy of one unit of work.

    Attributes:
        load: kernel, or ``idle`` or ``wait``, whose unit is a second.
        energy_j: energy of a unit, J.
        relative_se: standard error over the energy.
        time_s: time of a unit, s.
        bytes_moved: bytes that a unit reads from memory and writes there.
        flops: operations of a unit.
        products: products of a unit.
        wait_s: of the time, what a unit only waits, s.
        between_s: of the time, what lies between the linears of a hop, s.
        cached_bytes: bytes that the cache takes instead of the memory.
    """

    load: str
    energy_j: float
    relative_se: float
    time_s: float
    bytes_moved: float = 0.0
    flops: float = 0.0
    products: tuple[Product, ...] = ()
    wait_s: float = 0.0
    between_s: float = 0.0
    cached_bytes: float = 0.0


@dataclass(frozen=True)
class EnergyFit:
    """The fitted energy of a machine.

    Attributes:
        solution: ``static_w``, ``j_per_byte``, ``j_per_flop``; where the windows tell them ``active_w``, ``wait_w``,
            ``between_w``, ``j_per_cached_byte``, ``own_j_per_weight.<kernel>`` and
            ``own_row_j_per_weight.<kernel>``; and ``cast_j_per_weight.<kernel>``.
        warnings: what the data determine badly, and which window would help.
    """

    solution: Solution
    warnings: tuple[str, ...]


def busy_w(parameters: Mapping[str, float]) -> float:
    """Return what a busy device draws ahead of all traffic and arithmetic, P0 + Pa, W.

    Args:
        parameters: of the energy fit, the estimates or one draw.
    """
    return parameters["static_w"] + parameters.get(ACTIVE, 0.0)


def cached_j(parameters: Mapping[str, float], cached: float) -> float:
    """Return the joules of bytes that the cache took instead of the memory.

    Args:
        parameters: of the energy fit, the estimates or one draw; without windows of such traffic it is as dear as any.
        cached: bytes.
    """
    return cached * parameters.get(CACHED, parameters["j_per_byte"])


def product_j(parameters: Mapping[str, float], kernel: str, bits: int | None) -> tuple[float, float]:
    """Return the joules of a product beyond those of its bytes and operations.

    Args:
        parameters: of the energy fit, the estimates or one draw.
        kernel: what computes it.
        bits: width of its codes; None where no run says.

    Returns:
        Joules per weight, and per weight and row; 0 for what has no windows of its own.
    """
    own = own_structure(kernel, bits)
    per_weight = parameters.get(f"{OWN_PREFIX}{own}", 0.0) + parameters.get(CAST_PREFIX + kernel, 0.0)
    return per_weight, parameters.get(f"{ROW_PREFIX}{own}", 0.0)


def alpha_j_per_bit(parameters: Mapping[str, float], weights: float, bytes_per_s: float) -> float:
    """Return the paper's alpha of a model: moving its weights once, per bit of width, J/bit.

    Args:
        parameters: of the energy fit, the estimates or one draw.
        weights: number of weights, N.
        bytes_per_s: bandwidth, for the power of a busy device during the transfer.

    Raises:
        ValueError: a number not above 0.
    """
    above_zero(weights=weights, bytes_per_s=bytes_per_s)
    return weights / 8 * (parameters["j_per_byte"] + busy_w(parameters) / bytes_per_s)


def phi_j(parameters: Mapping[str, float], kernel: str, weights: float, cast_s: float) -> float:
    """Return the paper's phi: casting energy of a hop, J.

    Args:
        parameters: of the energy fit, the estimates or one draw.
        kernel: a decoding kernel; one without windows of its own has the busy device's power times time alone.
        weights: weights decoded, N.
        cast_s: exposed time of decoding them, s; 0 where it hides.
    """
    return busy_w(parameters) * cast_s + weights * parameters.get(CAST_PREFIX + kernel, 0.0)


def fit_energy(work: Sequence[EnergyWork], *, seed: int, n_draws: int = 200) -> EnergyFit:
    """Fit the energy of a machine.

    Args:
        work: units of work of different kinds, measured by a counter.
        seed: of the bootstrap.
        n_draws: bootstrap draws.

    Raises:
        ValueError: fewer units than parameters and one, or none that moves bytes or computes.
    """
    base = _base_names(work)
    product_names = _product_names(work)
    names = (*base, *product_names)
    columns = np.array(
        [[*_base_columns(w, base), *_product_columns(w, product_names)] for w in work], dtype=np.float64
    ).reshape(len(work), len(names))
    energy, se = (np.array([getattr(w, f) for w in work]) for f in ("energy_j", "relative_se"))
    found = solve(linear_problem(names, columns, energy, se), seed=seed, n_draws=n_draws)
    warnings = []
    if found.condition > CONDITION_LIMIT:
        needed = "; ".join(_MISSING[name] for name in found.valley if name in _MISSING)
        warnings.append(
            f"condition number {found.condition:.3g}: {' and '.join(found.valley)} trade; needed: {needed}"
        )
    if not any(w.load == IDLE for w in work):
        warnings.append(f"no idle window: static_w rests on the slopes alone; needed: {_MISSING['static_w']}")
    return EnergyFit(found, tuple(warnings))


def _base_names(work: Sequence[EnergyWork]) -> tuple[str, ...]:
    """Parameters of what every unit pays, with powers of their own for waiting and between linears."""
    has_own = {
        WAITING: any(w.load == WAIT for w in work),
        ACTIVE: _tells_active_power(work),
        BETWEEN: any(w.between_s > 0 for w in work),
        CACHED: any(w.cached_bytes > 0 for w in work),
    }
    return (*BASE_PARAMETERS, *(name for name, has in has_own.items() if has))


def _base_columns(work: EnergyWork, names: Sequence[str]) -> list[float]:
    """What the parameters of every unit are multiplied by."""
    apart_s = work.wait_s + (work.between_s if BETWEEN in names else 0.0)
    columns = {
        "static_w": work.time_s,
        "j_per_byte": work.bytes_moved,
        "j_per_flop": work.flops,
        WAITING: work.wait_s,
        ACTIVE: 0.0 if work.load == IDLE else work.time_s - apart_s,
        BETWEEN: work.between_s,
        CACHED: work.cached_bytes,
    }
    return [columns[name] for name in names]


def _tells_active_power(work: Sequence[EnergyWork]) -> bool:
    """Whether calls of products of libraries tell active power from the rest, by their condition number."""
    plain = [w for w in work if w.energy_j > 0 and w.between_s == 0 and w.load != WAIT and not _own_work(w)]
    if not any(w.load == IDLE for w in plain):
        return False
    names = (*BASE_PARAMETERS, ACTIVE)
    columns = np.array([_base_columns(w, names) for w in plain]) / np.array([[w.energy_j] for w in plain])
    lengths = np.linalg.norm(columns, axis=0)
    return bool(lengths.all() and np.linalg.cond(columns / lengths) < CONDITION_LIMIT)


def _own_work(work: EnergyWork) -> bool:
    return any(decodes(p.kernel) or own_structure(p.kernel, p.bits) for p in work.products)


def _product_names(work: Sequence[EnergyWork]) -> tuple[str, ...]:
    """Parameters of products: of ours where one that decodes nothing was measured, and of decoding."""
    products = [product for w in work for product in w.products]
    rows: dict[str, set[int]] = {}
    for product in products:
        own = own_structure(product.kernel, product.bits)
        if own is not None:
            rows.setdefault(own, set()).add(product.rows)
    plain = sorted(own for own in rows if any(product.kernel == own for product in products))
    return (
        *(OWN_PREFIX + own for own in plain),
        *(ROW_PREFIX + own for own in plain if len(rows[own]) > 1),
        *(CAST_PREFIX + kernel for kernel in sorted({p.kernel for p in products if decodes(p.kernel)})),
    )


def _product_columns(work: EnergyWork, names: Sequence[str]) -> Floats:
    columns = np.zeros(len(names))
    for product in work.products:
        own = own_structure(product.kernel, product.bits)
        for name, amount in (
            (f"{OWN_PREFIX}{own}", product.weights),
            (f"{ROW_PREFIX}{own}", product.weights * product.rows),
            (CAST_PREFIX + product.kernel, product.weights),
        ):
            if name in names:
                columns[names.index(name)] += amount
    return columns
