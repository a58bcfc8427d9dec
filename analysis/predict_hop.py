"""What a whole hop of a model costs: its linears by the fits, and everything between them as measured.

    device(B) = sum of linears(B) + output layer(B) + between(B)
    T(B) = device + g                                   from a CUDA graph
    T(B) = max(launches * h + s, device)                launched one by one

    between(B) = o + layers * l + t * B * traffic of a row / bandwidth        an engine timed beside its linears
    between(B) = kernels * d + attention's kernels * D + B * traffic of a row / bandwidth       any other, by counts

The traffic of a row is its KV cache, read once, and what norms, rotation, activation and sampling read and write. o, l
and t are those of ``analysis.fit_between``, and to them comes what measured hops differ from them
(``analysis.call_time``); o holds g already. Counts are a lower bound: d is the time of an empty kernel, and the traffic
has the whole bandwidth. There attention takes D, the fixed time of a call of the baseline: it has to wait for the cache
to come from memory, which at B = 1 takes longer than its traffic.

Native runs may calibrate two numbers of the counts: the time of a kernel between linears, and the share of the
bandwidth that the traffic of a row reaches. Nothing else may be calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from analysis.call_time import deviating
from analysis.checks import above_zero
from analysis.fit_crossing import Layer, linear_time, saved_by_cache_j
from analysis.fit_energy import ACTIVE, BETWEEN, product_j
from analysis.hop_cost import Cost, Line, hop_energy
from analysis.kernel_kinds import BASELINE, GEMV, GEMV_ROWS, NATIVE_KERNELS
from analysis.model_shape import DTYPE_BYTES, HopEngine, ModelShape
from analysis.predict_machine import Machine


@dataclass(frozen=True)
class Calibration:
    """What native end-to-end runs say of the time between the linears.

    Attributes:
        engine: engine of those runs.
        kernel_s: time of a kernel between linears, the estimate and then draws: on the device, or on the host for
            ``eager``.
        traffic_factor: what the traffic of a row takes, over its time at the read bandwidth; likewise.
        runs: the runs, which are held out no more.
        residual_share_p50: median error of those runs after calibration.
    """

    engine: HopEngine
    kernel_s: tuple[float, ...]
    traffic_factor: tuple[float, ...]
    runs: tuple[str, ...]
    residual_share_p50: float

    def at(self, row: int) -> tuple[float, float]:
        """Return both numbers for the estimate (row 0) or a draw."""
        if row == 0:
            return self.kernel_s[0], self.traffic_factor[0]
        place = 1 + (row - 1) % (len(self.kernel_s) - 1) if len(self.kernel_s) > 1 else 0
        return self.kernel_s[place], self.traffic_factor[place]


@dataclass(frozen=True)
class HopSetting:
    """What is predicted besides model and kernel.

    Attributes:
        engine: how a hop is launched.
        context: tokens of the KV cache that every row reads. An engine with a fixed cache reads all of its columns.
        calibration: from native runs; None for what micro-benchmarks and counts say.
    """

    engine: HopEngine = HopEngine.GRAPH
    context: int = 512
    calibration: Calibration | None = field(default=None)

    def __post_init__(self) -> None:
        """Refuse what cannot be predicted."""
        above_zero(context=self.context)
        if self.calibration is not None and self.calibration.engine is not self.engine:
            raise ValueError(
                f"a calibration by {self.calibration.engine.value} runs says nothing of engine={self.engine.value}"
            )


def linears_time(machine: Machine, model: ModelShape, kernel: str, engine: HopEngine, row: int) -> Cost:
    """Return the device time of a hop's linears and its output layer over the batch, s.

    The output layer is native; an eager hop multiplies it by torch whatever the kernel. Of the fused engine they are
    what its hops take in their order, where that was measured.
    """
    head = kernel if kernel in NATIVE_KERNELS and engine is not HopEngine.EAGER else BASELINE
    linears = _products_time(machine, kernel, model.linears(engine), engine, row)
    calls = linears.plus(_products_time(machine, head, (model.head,), engine, row))
    if engine is not HopEngine.FUSED:
        return calls
    return deviating(calls, machine.linears_of(kernel), model.intermediate, model.hidden)


def why_no_gemv(machine: Machine, engine: HopEngine) -> str | None:
    """Say what a reader must know of native weights where the engine's kernel for few rows was not fitted."""
    if engine is not HopEngine.FUSED or GEMV in machine.kernels:
        return None
    return (
        f"the fits of {machine.fitted_on} lack {GEMV}, by which the fused engine multiplies up to {GEMV_ROWS} rows by "
        f"native weights: they are predicted as {BASELINE}, which takes longer; measure it with `qt-profile sweep "
        "--for-fit`"
    )


def _products_time(
    machine: Machine, kernel: str, layers: Sequence[Layer], engine: HopEngine, row: int
) -> Cost:
    """Products with the weights of one kernel; few rows of native ones have a kernel of their own."""

    def time_by(name: str) -> Cost:
        cost = machine.kernel(name)
        parameters: Sequence[float] = cost.time.rows[row].tolist()
        return linear_time(parameters, cost.deviations, layers)

    if kernel not in NATIVE_KERNELS:
        return time_by(kernel)
    if kernel == BASELINE and not _has_gemv(machine, engine):
        return time_by(BASELINE)
    return time_by(GEMV).until(GEMV_ROWS, time_by(BASELINE))


def _has_gemv(machine: Machine, engine: HopEngine) -> bool:
    """Whether the engine multiplies few rows by native weights with a kernel of its own, as far as was fitted."""
    return engine is HopEngine.FUSED and GEMV in machine.kernels


def hop_time_of(machine: Machine, model: ModelShape, kernel: str, setting: HopSetting, row: int) -> Cost:
    """Return T(B) of a hop, s.

    Args:
        machine: its parameters.
        model: sizes.
        kernel: runs the linears, except the output layer.
        setting: engine, context, calibration.
        row: 0 for the estimates, 1 and above for a draw.

    Raises:
        ValueError: the machine lacks the kernel, or launches were not timed for an eager hop.
    """
    device = _device_time(machine, model, kernel, setting, row)
    if setting.engine is not HopEngine.EAGER:
        # What was measured between linears holds what passes between one graph and the next.
        return (
            device
            if _is_measured(machine, setting)
            else device.plus(Cost.line(_host(machine, row).get("graph_s", 0.0)))
        )
    return device.at_least(Cost.line(host_s(machine, model, kernel, setting, row)))


def _device_time(machine: Machine, model: ModelShape, kernel: str, setting: HopSetting, row: int) -> Cost:
    """Return what the device works on a hop over the batch, s."""
    linears = linears_time(machine, model, kernel, setting.engine, row)
    return linears.plus(_between(machine, model, kernel, setting, row))


def _is_measured(machine: Machine, setting: HopSetting) -> bool:
    return setting.calibration is None and setting.engine is HopEngine.FUSED and bool(machine.between)


def attention_time(machine: Machine, model: ModelShape, engine: HopEngine, row: int) -> float:
    """Return the time that counts give a hop's attention without its traffic, s: it waits for memory to compute."""
    return model.attention_kernels(engine) * machine.kernel(BASELINE).time.named(row)["launch_s"]


def why_too_short(machine: Machine, setting: HopSetting) -> str | None:
    """Say that hops are a lower bound where what lies between the linears is counted and not calibrated.

    None too where no empty kernel was timed: the time taken instead is an upper bound, of which the machine warns.
    """
    is_known = setting.calibration is not None or _is_measured(machine, setting)
    if is_known or "node_s" not in _host(machine, 0):
        return None
    measure = ", or measure it with `qt-profile sweep --for-fit`" if setting.engine is HopEngine.FUSED else ""
    return (
        f"what engine={setting.engine.value} runs between the linears is counted as kernels that do nothing and as "
        f"traffic at the whole read bandwidth, a lower bound: give native runs with --calibrate{measure}"
    )


def _between(machine: Machine, model: ModelShape, kernel: str, setting: HopSetting, row: int) -> Cost:
    """Time between the linears over the batch, s."""
    engine = setting.engine
    row_s = model.row_bytes(setting.context) / machine.bytes_per_s
    found = machine.between_of(kernel) if _is_measured(machine, setting) else None
    if found is not None:
        measured = found.time.named(row)
        fixed_s = measured["once_s"] + model.layers * measured["layer_s"]
        formula = Cost.line(fixed_s, measured["traffic"] * row_s)
        return deviating(formula, found.deviations, model.intermediate, model.hidden)
    kernel_s, factor = machine.node_s(row), 1.0
    if setting.calibration is not None:
        calibrated_s, factor = setting.calibration.at(row)
        kernel_s = kernel_s if engine is HopEngine.EAGER else calibrated_s
    attention = Cost.line(attention_time(machine, model, engine, row), row_s * factor)
    # The number of kernels at 1 row, and from 2 rows on.
    one, more = (model.other_kernels(engine, batch) * kernel_s for batch in (1, 2))
    if one == more:
        return attention.plus(Cost.line(more))
    return attention.plus(Cost((Line(0, one, 0), Line(1, 2 * one - more, more - one), Line(2, more, 0))))


def host_s(machine: Machine, model: ModelShape, kernel: str, setting: HopSetting, row: int) -> float:
    """Return the time that the host takes to launch an eager hop, s.

    Raises:
        ValueError: launches were not timed.
    """
    host = _host(machine, row)
    if "launch_s" not in host:
        raise ValueError(
            f"the fits of {machine.fitted_on} hold no launch chains, so an eager hop has no host time: measure "
            "them with `qt-profile sweep --for-fit`"
        )
    launch_s = host["launch_s"] if setting.calibration is None else setting.calibration.at(row)[0]
    return launches(model, kernel, setting.engine) * launch_s + host.get("sync_s", 0.0)


def launches(model: ModelShape, kernel: str, engine: HopEngine) -> int:
    """Return how many kernels a hop launches: unfused kernels cast first, W8A8 ones quantize x first."""
    each = 2 if kernel.startswith(("unfused_", "native_")) else 1
    linears = sum(layer.count for layer in model.linears(engine))
    others = model.other_kernels(engine, 2) + model.attention_kernels(engine)
    return others + each * linears + 1


def hop_energy_of(
    machine: Machine, model: ModelShape, kernel: str, setting: HopSetting, time: Cost, row: int
) -> Cost | None:
    """Return E(B) of a hop, J.

    Args:
        machine: its parameters.
        model: sizes.
        kernel: runs the linears, except the output layer.
        setting: engine and context.
        time: T(B) of the same row.
        row: 0 for the estimates, 1 and above for a draw.

    Returns:
        None where the machine's energy, or the bytes that the kernel moves, were not measured.
    """
    found, engine = machine.kernel(kernel), setting.engine
    moved = found.pass_bytes_per_weight
    if machine.energy is None or moved is None:
        return None
    joules = machine.energy.named(row)
    weights, head = model.linear_weights, model.head.n * model.head.k
    edge = sum(layer.count * (layer.n + layer.k) for layer in (*model.linears(engine), model.head))
    bytes_of_row = DTYPE_BYTES * edge + model.row_bytes(setting.context)
    pass_j, row_j = (0.0, 0.0) if kernel in NATIVE_KERNELS else product_j(joules, kernel, found.bits)
    energy = hop_energy(
        time,
        static_w=joules["static_w"],
        pass_j=weights * (moved * joules["j_per_byte"] + pass_j)
        + head * DTYPE_BYTES * joules["j_per_byte"]
        - saved_by_cache_j(joules, kernel, model.linears(engine), machine.cache_bytes),
        row_j=2 * (weights + head) * joules["j_per_flop"]
        + weights * row_j
        + bytes_of_row * joules["j_per_byte"],
    )
    if _has_gemv(machine, engine):
        few_j, few_row_j = product_j(joules, GEMV, None)
        native = head + weights * (kernel in NATIVE_KERNELS)
        energy = energy.plus(Cost.line(native * few_j, native * few_row_j).until(GEMV_ROWS, Cost.line(0)))
    # While a device waits for the host it is idle.
    active_w = joules.get(ACTIVE, 0.0)
    linears = linears_time(machine, model, kernel, engine, row)
    between = _between(machine, model, kernel, setting, row)
    return energy.plus(linears.times(active_w)).plus(between.times(joules.get(BETWEEN, active_w)))


def _host(machine: Machine, row: int) -> dict[str, float]:
    return {} if machine.host is None else machine.host.named(row)
