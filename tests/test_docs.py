"""What the Markdown pages name exists: links, commands, options, kernels, files, tests, fields."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import get_args

import pytest
import typer

import profiler.cli as cli
import profiler.cli_errors as cli_errors
from analysis.chain_summary import summarise
from analysis.chain_table import _FIGURES
from analysis.paper import CONTRADICTIONS
from benchmarks.kernel_sweep import sweep_command
from kernels.formats import FORMATS
from kernels.peers.kernel import PEER_KERNELS
from kernels.registry import KERNELS
from profiler import record_docs
from profiler.record import Sample

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOT_OURS = {"build", "dist", "runs", "node_modules"}
PLACEHOLDERS = {"F", "format"}


def pages() -> list[Path]:
    found = ROOT.rglob("*.md")
    inner = ((page, page.relative_to(ROOT).parts) for page in found)
    return sorted(
        p for p, parts in inner if not any(part.startswith(".") or part in NOT_OURS for part in parts)
    )


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def fenced(text: str) -> str:
    """Only the fenced blocks."""
    return "\n".join(re.findall(r"^ *```[^\n]*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL))


def prose(text: str) -> str:
    """Everything but the fenced blocks."""
    return re.sub(r"^ *```[^\n]*\n.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def code_spans(text: str) -> list[str]:
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@lru_cache(maxsize=1)
def commands() -> dict[str, typer.core.TyperCommand]:
    """Every command by its words."""
    sweep_app = typer.Typer(add_completion=False)
    sweep_app.command()(sweep_command)
    sweep = typer.main.get_command(sweep_app)
    group = typer.main.get_command(cli.app)
    named = {f"qt-profile {key}": command for key, command in group.commands.items()}
    # `qt-profile sweep` hands its words on to the sweep's own command, so it lists no options itself.
    forwards = {"qt-profile sweep": sweep} if "qt-profile sweep" in named else {}
    return named | forwards | {"python -m benchmarks.kernel_sweep": sweep}


def options(command: str) -> set[str]:
    return {opt for parameter in commands()[command].params for opt in parameter.opts} | {"--help"}


def invocations(lines: str) -> Iterator[tuple[str, list[str]]]:
    """(command, arguments) of every line that calls one of ours; ``make chain ARGS="..."`` counts too."""
    for line in lines.replace("\\\n", " ").splitlines():
        line = line.strip().removeprefix("$ ").strip()
        made = re.fullmatch(r"make (chain|sweep) ARGS=([\"'])(.*)\2.*", line)
        if made:
            program = {"chain": "qt-profile chain", "sweep": "python -m benchmarks.kernel_sweep"}[made[1]]
            yield program, shlex.split(made[3])
            continue
        found = re.search(r"(?:^|[ /])(qt-profile|python3? -m benchmarks\.kernel_sweep)(?= |$)(.*)", line)
        if found is None:
            continue
        words = shlex.split(re.split(r" [|>;&]|&&", found[2])[0], comments=True)
        if found[1] == "qt-profile":
            if not words or words[0].startswith("-"):
                continue
            yield f"qt-profile {words[0]}", words[1:]
        else:
            yield "python -m benchmarks.kernel_sweep", words


def check_invocation(command: str, arguments: list[str], *, whole: bool) -> str | None:
    """What is wrong with an invocation, or None; ``whole`` ones are parsed as the program would."""
    if command not in commands():
        return f"{command}: no such command"
    if whole and "--help" not in arguments:
        try:
            commands()[command].make_context(command, list(arguments))
        except Exception as error:  # the parser's own classes are private to typer
            return f"{command}: {error}"
        return None
    named = {word.split("=")[0] for word in arguments if word.startswith("--")}
    strangers = named - options(command)
    return f"{command}: no option {', '.join(sorted(strangers))}" if strangers else None


@pytest.mark.parametrize("page", pages(), ids=name)
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)", prose(page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", pages(), ids=name)
def test_commands_and_options_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    wrong = [check_invocation(*call, whole=True) for call in invocations(fenced(text))]
    spans = [span for span in code_spans(text) if "..." not in span and "…" not in span]
    wrong += [check_invocation(*call, whole=False) for span in spans for call in invocations(span)]
    known = {option for command in commands() for option in options(command)}
    alone = {span.split()[0].split("=")[0] for span in spans if span.startswith("--")}
    # `ruff format --check` and the like begin with their program, so a bare option is one of ours.
    wrong += [f"no option {option}" for option in sorted(alone - known)]
    assert [reason for reason in wrong if reason] == []


@pytest.mark.parametrize("page", pages(), ids=name)
def test_make_targets_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    lines = [*fenced(text).splitlines(), *code_spans(text)]
    named = {
        match[1]
        for line in lines
        if (match := re.match(r"\$? ?make (?:[A-Z]+=\S+ )*([a-z-]+)", line.strip()))
    }
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert named <= targets


@pytest.mark.parametrize("page", pages(), ids=name)
def test_modules_that_are_run_exist(page: Path) -> None:
    packages = "kernels|profiler|reasoning|analysis|benchmarks"
    modules = re.findall(rf"python3? -m ((?:{packages})[\w.]*)", page.read_text("utf-8"))
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


@pytest.mark.parametrize("page", pages(), ids=name)
def test_kernels_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    named = set(re.findall(r"\b(?:unfused|fused|null)_[A-Za-z0-9]\w*", text))
    for _, arguments in invocations(fenced(text)):
        for option, value in zip(arguments, arguments[1:], strict=False):
            if option in ("--kernel", "--baseline", "--kernels"):
                named |= set(value.split(","))
    sources = "\n".join(file.read_text("utf-8") for file in (ROOT / "kernels").rglob("*.py"))
    functions = set(re.findall(r"\bdef (\w+)\(", sources))
    placeholders = {f"{scheme}_{word}" for scheme in ("unfused", "fused", "null") for word in PLACEHOLDERS}
    assert named - set(KERNELS) - set(PEER_KERNELS) - functions - placeholders == set()


@pytest.mark.parametrize("page", [page for page in pages() if page.name != "CHANGELOG.md"], ids=name)
def test_files_and_tests_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    paths = re.findall(r"`((?:kernels|profiler|reasoning|analysis|benchmarks|tests|docs)/[\w./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    sources = "\n".join(file.read_text("utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    tests = re.findall(r"`(test_\w+)`", text)
    assert [test for test in tests if f"def {test}(" not in sources] == []


def test_the_index_names_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "README.md").read_text("utf-8")))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


def test_records_page_is_current() -> None:
    written = (DOCS / "records.md").read_text("utf-8")
    assert written == record_docs.render(), "run: python -m profiler.record_docs > docs/records.md"


def test_records_page_describes_every_model_and_field() -> None:
    assert set(get_args(Sample)) == set(record_docs.SAMPLE_MODELS)
    page = record_docs.render()
    for model in (*record_docs.RECORD_MODELS, *record_docs.SAMPLE_MODELS):
        _, _, section = page.partition(f"\n### {model.__name__}\n")
        rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", section.partition("\n##")[0], re.MULTILINE)
        assert [row[0] for row in rows] == list(model.model_fields)
        assert all(not re.search(r"(?<!\\)\||``", meaning) for _, _, meaning in rows)
        linked = re.findall(r"\(#(\w+)\)", section.partition("\n##")[0])
        assert set(linked) <= {m.__name__.lower() for m in record_docs.RECORD_MODELS}


def test_records_page_names_the_derived_figures_of_a_chain() -> None:
    page = record_docs.render()
    for key in summarise([], [], baseline="bf16", seed=0).derived:
        assert f"| chain | `{key}` |" in page


def test_chain_page_lists_every_option_with_its_default() -> None:
    page = (DOCS / "chain.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(--[\w-]+)` \| (.*?) \|", page, re.MULTILINE))
    parameters = commands()["qt-profile chain"].params
    assert set(rows) == {parameter.opts[0] for parameter in parameters}
    for parameter in parameters:
        if parameter.default is False:
            assert rows[parameter.opts[0]] == "off"
        elif parameter.default is not None:
            assert rows[parameter.opts[0]] == str(parameter.default)


def test_chain_page_explains_every_row_of_the_table() -> None:
    page = (DOCS / "chain.md").read_text("utf-8")
    explained = re.findall(r"^\| `([^`]+)` \|[^|]*\|[^|]+\|[^|]*\|$", page, re.MULTILINE)
    assert explained == [label for label, _ in _FIGURES]


def test_chain_page_lists_every_exit_code() -> None:
    page = (DOCS / "chain.md").read_text("utf-8")
    codes = {value for key, value in vars(cli_errors).items() if key.startswith("EXIT_")} | {0}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == codes


def test_theory_page_states_every_contradiction_and_format() -> None:
    page = (DOCS / "theory.md").read_text("utf-8")
    rows = re.findall(
        r"^\| `([\w-]+)` \| (.+) \| (.+) \|$", page.partition("contradict themselves")[2], re.MULTILINE
    )
    assert rows == [(item.key, item.where, item.statement) for item in CONTRADICTIONS]
    assert [fmt for fmt in FORMATS if f"`{fmt}`" not in page] == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("qt-profile chian --kernel fused_nf4", "no such command"),
        ("$ qt-profile chain --kernels fused_nf4", "No such option"),
        ("qt-profile chain --limit many", "valid integer"),
        ("qt-profile chain --model", "requires an argument"),
        ("python -m benchmarks.kernel_sweep --sizes 1x1", "No such option"),
        ('make chain ARGS="--bach 8"', "No such option"),
    ],
)
def test_a_wrong_example_is_seen(line: str, message: str) -> None:
    (call,) = invocations(line)
    assert message in (check_invocation(*call, whole=True) or "")
