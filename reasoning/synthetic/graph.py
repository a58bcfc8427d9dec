"""Dependency graphs of quantities: sampling, the solution order, and the key that splits train from test.

A graph is a list of quantities. A *fact* has a value and no inputs; a *derived* quantity is one arithmetic
operation on one quantity and a constant, or on two quantities. Exactly ``operations`` derived quantities are
needed for the asked one; the rest are distractors, which nothing needed depends on.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from enum import Enum
from random import Random

MAX_VALUE = 9999
MAX_FACT = 999
FACTORS = range(2, 13)
MAX_OPERATIONS = 10
MAX_DISTRACTORS = 3
_TEST_SHARE = 10
_FEW_OPERATIONS = 2


class Op(Enum):
    """One arithmetic operation; ``PLUS`` to ``OVER`` take a constant, ``SUM`` and ``DIFFERENCE`` a second quantity."""

    PLUS = "+c"
    MINUS = "-c"
    TIMES = "*c"
    OVER = "/c"
    SUM = "a+b"
    DIFFERENCE = "a-b"

    @property
    def symbol(self) -> str:
        """The operator as a calculator note writes it."""
        return {"+c": "+", "-c": "-", "*c": "*", "/c": "/", "a+b": "+", "a-b": "-"}[self.value]

    @property
    def takes_constant(self) -> bool:
        """Whether the second operand is a constant of the sentence."""
        return self in _WITH_CONSTANT


_WITH_CONSTANT = (Op.PLUS, Op.MINUS, Op.TIMES, Op.OVER)


@dataclass(frozen=True)
class Quantity:
    """A node: ``value``, and for a derived one its operation, input nodes and constant."""

    value: int
    op: Op | None = None
    inputs: tuple[int, ...] = ()
    constant: int | None = None


@dataclass(frozen=True)
class Graph:
    """Quantities in creation order (inputs come before their users), the asked one, and which ones are needed."""

    quantities: tuple[Quantity, ...]
    asked: int
    needed: frozenset[int]

    @property
    def operations(self) -> int:
        """Derived quantities that the asked one depends on, itself included."""
        return sum(self.quantities[i].op is not None for i in self.needed)


class _Dead(Exception):
    """The sampler ran into values that admit no further operation; the caller draws again."""


def sample_graph(rng: Random, operations: int) -> Graph:
    """Draw a graph with exactly ``operations`` needed operations.

    Args:
        rng: the source of randomness; the same state gives the same graph.
        operations: 1 to ``MAX_OPERATIONS``.

    Returns:
        A graph whose values are whole numbers from 1 to ``MAX_VALUE``.

    Raises:
        ValueError: ``operations`` outside the range.
    """
    if not 1 <= operations <= MAX_OPERATIONS:
        raise ValueError(f"operations={operations} is outside 1 to {MAX_OPERATIONS}")
    while True:
        try:
            return _draw(rng, operations)
        except _Dead:
            continue


def _draw(rng: Random, operations: int) -> Graph:
    nodes: list[Quantity] = []
    unused: list[int] = []
    for done in range(operations):
        left = operations - done - 1
        choices = [(a, b) for a, b in _SHAPES if a <= len(unused) and len(unused) - a + 1 <= left + 1]
        from_unused, others = rng.choice(choices)
        inputs = rng.sample(unused, from_unused)
        for _ in range(others):
            inputs.append(_fact_or_shared(rng, nodes, inputs))
        if from_unused and others:
            rng.shuffle(inputs)
        nodes.append(_derive(rng, nodes, inputs))
        unused = [i for i in unused if i not in inputs] + [len(nodes) - 1]
    asked = len(nodes) - 1
    needed = _ancestors(nodes, asked)
    if sum(nodes[i].op is not None for i in needed) != operations:
        raise _Dead
    fewest = 1 if operations <= _FEW_OPERATIONS else 0
    for _ in range(rng.randint(fewest, MAX_DISTRACTORS)):
        _add_distractor(rng, nodes)
    return Graph(tuple(nodes), asked, frozenset(needed))


_SHAPES = ((1, 0), (1, 0), (0, 1), (2, 0), (1, 1), (1, 1), (0, 2))
"""(inputs taken from results nobody has used yet, inputs from facts or shared results), weighted by repetition."""


def _fact_or_shared(rng: Random, nodes: list[Quantity], taken: list[int]) -> int:
    shared = [i for i in range(len(nodes)) if i not in taken]
    if shared and rng.random() < 0.25:
        return rng.choice(shared)
    nodes.append(Quantity(rng.randint(2, MAX_FACT)))
    return len(nodes) - 1


def _derive(rng: Random, nodes: list[Quantity], inputs: list[int]) -> Quantity:
    if len(inputs) == 2:
        a, b = (nodes[i].value for i in inputs)
        options: list[Quantity] = []
        if a + b <= MAX_VALUE:
            options.append(Quantity(a + b, Op.SUM, (inputs[0], inputs[1])))
        if a != b:
            first, second = (inputs[0], inputs[1]) if a > b else (inputs[1], inputs[0])
            options.append(Quantity(abs(a - b), Op.DIFFERENCE, (first, second)))
        if not options:
            raise _Dead
        return rng.choice(options)
    source = inputs[0]
    value = nodes[source].value
    options = []
    if value + 2 <= MAX_VALUE:
        c = rng.randint(2, min(MAX_FACT, MAX_VALUE - value))
        options.append(Quantity(value + c, Op.PLUS, (source,), c))
    if value > 2:
        c = rng.randint(2, min(MAX_FACT, value - 1))
        options.append(Quantity(value - c, Op.MINUS, (source,), c))
    factors = [c for c in FACTORS if value * c <= MAX_VALUE]
    if factors:
        c = rng.choice(factors)
        options.append(Quantity(value * c, Op.TIMES, (source,), c))
    divisors = [c for c in FACTORS if value % c == 0]
    if divisors:
        c = rng.choice(divisors)
        options.append(Quantity(value // c, Op.OVER, (source,), c))
    return rng.choice(options)


def _add_distractor(rng: Random, nodes: list[Quantity]) -> None:
    kind = rng.random()
    if kind < 0.4:
        nodes.append(Quantity(rng.randint(2, MAX_FACT)))
    else:
        inputs = rng.sample(range(len(nodes)), 1 if kind < 0.75 or len(nodes) < 2 else 2)
        nodes.append(_derive(rng, nodes, inputs))


def _ancestors(nodes: list[Quantity], target: int) -> set[int]:
    found: set[int] = set()
    stack = [target]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(nodes[node].inputs)
    return found


def plan_order(graph: Graph) -> list[int]:
    """Needed derived quantities from the asked one backwards, users before what they use.

    Kahn's algorithm on the reversed edges with a first-in first-out queue, so the order is unique: a quantity is listed
    once every needed user of it has been listed. Reversed, it is the order in which the solution computes.
    """
    users = dict.fromkeys(graph.needed, 0)
    for node in graph.needed:
        for source in set(graph.quantities[node].inputs):
            users[source] += 1
    order: list[int] = []
    queue = deque([graph.asked])
    while queue:
        node = queue.popleft()
        order.append(node)
        for source in dict.fromkeys(graph.quantities[node].inputs):
            users[source] -= 1
            if users[source] == 0 and graph.quantities[source].op is not None:
                queue.append(source)
    return order


def structure_key(graph: Graph) -> str:
    """The structure that the train/test split is made on, free of numbers, names and sentence order.

    For three operations and more it is the needed part alone: operations and edges. One or two operations have only
    a handful of such shapes, so there the distractors (what they are and what they hang on) belong to the structure.
    """
    numbering: dict[int, int] = {}
    key = _describe(graph, graph.asked, numbering)
    if graph.operations > _FEW_OPERATIONS:
        return key
    extra = []
    for i, quantity in enumerate(graph.quantities):
        if i in graph.needed:
            continue
        kind = "fact" if quantity.op is None else quantity.op.value
        extra.append(f"{kind}({','.join(str(numbering.get(s, 'x')) for s in quantity.inputs)})")
    return f"{key}|{';'.join(sorted(extra))}"


def _describe(graph: Graph, node: int, numbering: dict[int, int]) -> str:
    if node in numbering:
        return f"#{numbering[node]}"
    numbering[node] = len(numbering)
    quantity = graph.quantities[node]
    if quantity.op is None:
        return "f"
    return f"{quantity.op.value}({','.join(_describe(graph, s, numbering) for s in quantity.inputs)})"


def is_test_structure(graph: Graph) -> bool:
    """Whether this structure is held out: one in ten by a hash of :func:`structure_key`, the same everywhere."""
    digest = hashlib.blake2b(structure_key(graph).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _TEST_SHARE == 0
