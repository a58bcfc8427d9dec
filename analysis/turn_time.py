"""What a call takes longer between the small kernels of a hop than behind calls of its own kind.

Measured at a few shapes and m. At each m the time is a line in log(n k) between neighbouring shapes, because a part of
it belongs to the launch, which a large weight does not see, and a part to the traffic, which grows with it; beyond the
smallest and the largest shape it stays. Between two measured m it is a line in m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.call_time import through
from analysis.fit_crossing import Layer
from analysis.fit_file import InTurn
from analysis.hop_cost import Cost


@dataclass(frozen=True)
class TurnTimes:
    """Measured extra times of one kernel.

    Attributes:
        by_rows: m, rising, and at each m pairs of log(n k), rising, and the extra time, s.
    """

    by_rows: tuple[tuple[int, tuple[tuple[float, float], ...]], ...] = ()

    @classmethod
    def of(cls, calls: Sequence[InTurn]) -> TurnTimes:
        """Take over those of a stored fit; shapes with as many weights are averaged."""
        found: dict[int, dict[int, list[float]]] = {}
        for call in calls:
            found.setdefault(call.m, {}).setdefault(call.n * call.k, []).append(call.extra_s)
        return cls(
            tuple(
                (m, tuple((float(np.log(size)), float(np.mean(found[m][size]))) for size in sorted(found[m])))
                for m in sorted(found)
            )
        )

    def __bool__(self) -> bool:
        """Whether anything was measured."""
        return bool(self.by_rows)

    def of_layers(self, layers: Sequence[Layer]) -> Cost:
        """Return the extra time of all calls of some layers over m, s.

        Raises:
            ValueError: nothing was measured.
        """
        if not self.by_rows:
            raise ValueError("0 calls were timed between small kernels, so layers have no extra time")
        sizes = np.log([layer.n * layer.k for layer in layers])
        counts = np.array([layer.count for layer in layers])
        knots = []
        for m, shapes in self.by_rows:
            measured, extra_s = np.array(shapes).T
            knots.append((m, float(counts @ np.interp(sizes, measured, extra_s))))
        return through(knots)


NO_TURNS = TurnTimes()
