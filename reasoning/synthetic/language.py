"""Words for a graph: themes, sentence templates, the question and the worked solution."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from reasoning.synthetic.graph import Graph, Op, Quantity, plan_order


@dataclass(frozen=True)
class Theme:
    """Who owns what: a pool of owners, the things counted, the verb and its question form."""

    owners: tuple[str, ...]
    items: tuple[str, ...]
    verb: str
    question: str


_PEOPLE = tuple(
    [
        "Ada",
        "Ben",
        "Cora",
        "Dan",
        "Eva",
        "Finn",
        "Gus",
        "Hana",
        "Ivan",
        "Jill",
        "Kim",
        "Leo",
        "Mia",
        "Nils",
        "Olga",
        "Paul",
        "Quinn",
        "Rosa",
        "Sam",
        "Tess",
        "Uma",
        "Vera",
        "Will",
        "Yara",
        "Zoe",
        "Anton",
        "Bella",
        "Carl",
        "Dora",
        "Emil",
        "Fay",
        "Greta",
        "Hugo",
        "Iris",
        "Jonas",
        "Karin",
    ]
)
_PLACES = tuple(
    [
        "Ashford",
        "Brook",
        "Calder",
        "Dunmore",
        "Elton",
        "Farley",
        "Garth",
        "Holt",
        "Ingram",
        "Jarrow",
        "Kelso",
        "Linden",
        "Marlow",
        "Norton",
        "Oakham",
        "Preston",
        "Quorn",
        "Ripley",
        "Selby",
        "Tarn",
        "Upton",
        "Vale",
        "Weston",
        "Yarm",
    ]
)
_SHIPS = tuple(
    [
        "Albatross",
        "Beluga",
        "Condor",
        "Dolphin",
        "Egret",
        "Falcon",
        "Gannet",
        "Heron",
        "Ibis",
        "Jaguar",
        "Kestrel",
        "Lynx",
        "Marlin",
        "Narwhal",
        "Osprey",
        "Pelican",
        "Raven",
        "Seal",
        "Tern",
        "Viper",
        "Walrus",
        "Zebra",
        "Orca",
        "Swift",
    ]
)

THEMES = (
    Theme(_PEOPLE, ("apples", "marbles", "coins", "stickers", "books", "cards"), "has", "does {o} have"),
    Theme(_PEOPLE, ("loaves", "pies", "rolls", "cakes"), "baked", "did {o} bake"),
    Theme(_PEOPLE, ("points", "goals", "medals"), "won", "did {o} win"),
    Theme(_PLACES, ("trees", "wells", "houses", "lamps", "bridges"), "has", "does {o} have"),
    Theme(_PLACES, ("tents", "bricks", "windows"), "bought", "did {o} buy"),
    Theme(_SHIPS, ("crates", "barrels", "sacks", "boxes"), "carries", "does {o} carry"),
)

_FACT = (
    "{o} {verb} {v} {items}.",
    "{o} {verb} exactly {v} {items}.",
    "We know that {o} {verb} {v} {items}.",
)
_DERIVED: dict[Op, tuple[str, ...]] = {
    Op.PLUS: (
        "{o} {verb} {c} more {items} than {a}.",
        "{o} {verb} as many {items} as {a} and {c} more.",
        "Add {c} to the {items} of {a} and you get what {o} {verb}.",
    ),
    Op.MINUS: (
        "{o} {verb} {c} fewer {items} than {a}.",
        "{o} {verb} as many {items} as {a}, less {c}.",
        "Take {c} from the {items} of {a} and you get what {o} {verb}.",
    ),
    Op.TIMES: (
        "{o} {verb} {c} times as many {items} as {a}.",
        "For each of the {items} of {a}, {o} {verb} {c}.",
        "Multiply the {items} of {a} by {c} and you get what {o} {verb}.",
    ),
    Op.OVER: (
        "{o} {verb} {part} as many {items} as {a}.",
        "Divide the {items} of {a} by {c} and you get what {o} {verb}.",
        "{o} {verb} {part} of the number of {items} of {a}.",
    ),
    Op.SUM: (
        "{o} {verb} as many {items} as {a} and {b} together.",
        "The {items} of {a} and {b} put together are as many as {o} {verb}.",
        "Add the {items} of {a} to those of {b} and you get what {o} {verb}.",
    ),
    Op.DIFFERENCE: (
        "{o} {verb} as many {items} as {a} without those of {b}.",
        "From the {items} of {a} take those of {b} and you get what {o} {verb}.",
        "The {items} of {a}, less those of {b}, are as many as {o} {verb}.",
    ),
}
_PARTS = {
    2: "half",
    3: "a third",
    4: "a quarter",
    5: "a fifth",
    6: "a sixth",
    7: "a seventh",
    8: "an eighth",
    9: "a ninth",
    10: "a tenth",
    11: "an eleventh",
    12: "a twelfth",
}
_QUESTIONS = (
    "How many {items} {asking}?",
    "What is the number of {items} of {o}?",
    "Tell me how many {items} {o} {verb}.",
)


@dataclass(frozen=True)
class Story:
    """A graph in words: the problem text and its worked solution (ends with ``#### answer``)."""

    question: str
    solution: str
    answer: int


def tell(rng: Random, graph: Graph) -> Story:
    """Put a graph into words: one theme, one owner per quantity, shuffled sentences, the question last.

    The solution's first line is the plan, from the asked quantity backwards; then one line per operation with its
    calculator note ``<<a*b=c>>``, in the plan's reverse order; then ``#### answer``.
    """
    theme = rng.choice(THEMES)
    owners = rng.sample(theme.owners, len(graph.quantities))
    items = rng.choice(theme.items)
    sentences = [_sentence(rng, q, owners[i], owners, theme, items) for i, q in enumerate(graph.quantities)]
    rng.shuffle(sentences)
    asked = owners[graph.asked]
    ask = rng.choice(_QUESTIONS).format(
        items=items, o=asked, verb=theme.verb, asking=theme.question.format(o=asked)
    )
    return Story(
        question=" ".join([*sentences, ask]),
        solution=_solution(graph, owners, theme, items),
        answer=graph.quantities[graph.asked].value,
    )


def _sentence(rng: Random, q: Quantity, owner: str, owners: list[str], theme: Theme, items: str) -> str:
    sources = [owners[s] for s in q.inputs]
    template = rng.choice(_FACT if q.op is None else _DERIVED[q.op])
    return template.format(
        o=owner,
        verb=theme.verb,
        items=items,
        v=q.value,
        c=q.constant,
        part=_PARTS.get(q.constant or 0, ""),
        a=sources[0] if sources else "",
        b=sources[-1] if sources else "",
    )


def _solution(graph: Graph, owners: list[str], theme: Theme, items: str) -> str:
    order = plan_order(graph)
    plan = " ".join(
        f"{owners[i]} needs {' and '.join(owners[s] for s in graph.quantities[i].inputs)}." for i in order
    )
    lines = [f"Plan: {plan}"]
    for i in reversed(order):
        q = graph.quantities[i]
        left, right = operands(graph, q)
        expression = f"{left}{_symbol(q)}{right}"
        lines.append(f"{owners[i]} {theme.verb} {expression}=<<{expression}={q.value}>>{q.value} {items}.")
    lines.append(f"#### {graph.quantities[graph.asked].value}")
    return "\n".join(lines)


def _symbol(q: Quantity) -> str:
    if q.op is None:
        raise ValueError("a fact has no operation")
    return q.op.symbol


def operands(graph: Graph, q: Quantity) -> tuple[int, int]:
    """The two numbers of a derived quantity's operation, left then right."""
    left = graph.quantities[q.inputs[0]].value
    right = q.constant if q.constant is not None else graph.quantities[q.inputs[1]].value
    return left, right
