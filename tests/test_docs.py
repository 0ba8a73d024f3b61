"""What the documentation says is there: commands, options, links, examples, files; and nothing of this machine."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import msgspec
import pytest
from _pytest.mark import KeywordMatcher
from _pytest.mark.expression import Expression

import fedthings as ft
from fedthings.cli import fedthings
from fedthings.device.rules import Rules
from fedthings.helper.rules import Rules as HelperRules
from fedthings.spelling import decode

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "bench").glob("*.md")])
README = ROOT / "README.md"
PLACE = re.compile(r"(?<![\w.~/])/(?:work|home|root|Users|opt|tmp/[\w-])")
# In parts, so that this file does not hold them itself.
PARTS = (
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("npmjs", "org"),
    ("npmjs", "com"),
    ("crates", "io"),
    ("anaconda", "org"),
)
HOSTS = [".".join(parts) for parts in PARTS]


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def calls(text: str, program: str) -> list[str]:
    """Return what follows `program` wherever it stands in code, up to a comment or the end of the code."""
    code = re.findall(r"^ {4}(.+)$|`([^`\n]+)`", text, re.M)
    lines = [(first or second).split("#")[0].strip() for first, second in code]
    return [line.removeprefix(program) for line in lines if line == program or line.startswith(f"{program} ")]


def named(text: str) -> list[list[str]]:
    """Return the words of every `fedthings ...` in code."""
    return [words.split() for words in calls(text, "fedthings") if words]


def command(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that `words` begin with, of a group its subcommand, and all the options."""
    context = click.Context(fedthings)
    found = fedthings.get_command(context, words[0])
    assert found is not None, f"there is no command fedthings {words[0]}"
    known = options(found)
    if isinstance(found, click.Group):
        below = [word for word in words[1:] if word in found.commands]
        assert len(words) == 1 or below, f"no subcommand in {words}"
        known += [option for word in below for option in options(found.commands[word])]
    return found, known


def options(found: click.Command) -> list[str]:
    return [name for parameter in found.params for name in parameter.opts] + ["--help", "-h"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_is_there(page: Path) -> None:
    for words in named(page.read_text()):
        if words[0].isupper() or words[0].startswith("-"):  # fedthings COMMAND --help
            continue
        _, known = command(words)
        for word in words[1:]:
            if word.startswith("-"):
                assert word.split("=")[0] in known, f"{page.name}: fedthings {' '.join(words)}"


def test_the_readme_names_every_command() -> None:
    table = README.read_text().split("## Commands")[1].split("\n## ")[0]
    assert {words[0] for words in named(table)} == set(fedthings.list_commands(click.Context(fedthings)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_resolves(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_the_readmes_example_is_the_quickstart_in_25_lines() -> None:
    (example,) = fenced(README, "python")
    assert example == (ROOT / "examples" / "quickstart.py").read_text()
    compile(example, "README.md", "exec")
    lines = example.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("import "))
    assert len(lines) - first <= 25


def test_the_federation_and_the_rules_in_running_are_accepted(tmp_path: Path) -> None:
    text, rules = fenced(ROOT / "docs" / "running.md", "toml")
    (tmp_path / "house.toml").write_text(text)
    federation = ft.load(tmp_path / "house.toml")
    (tmp_path / "again.toml").write_text(ft.dumps(federation))
    assert ft.load(tmp_path / "again.toml") == federation
    own = {"edge", "secure", "privacy", "query", "local"}  # which have their own pages
    assert set(tomllib.loads(text)) == set(federation.__struct_fields__) - own
    (edge,) = fenced(ROOT / "docs" / "gateways.md", "toml")
    assert decode(tomllib.loads(edge)["edge"], ft.Edge) == ft.Edge(rounds=5)
    assert set(tomllib.loads(edge)["edge"]) == set(ft.Edge.__struct_fields__)
    assert set(tomllib.loads(rules)) == set(decode(tomllib.loads(rules), Rules).__struct_fields__)


def test_the_federation_in_privacy_is_that_of_its_toml() -> None:
    (text,) = fenced(ROOT / "docs" / "privacy.md", "toml")
    (code,) = fenced(ROOT / "docs" / "privacy.md", "python")
    task = ft.Task(model=ft.mlp(4, 2), loss="cross_entropy")
    told: dict[str, ft.Federation] = {}
    exec(code, {"ft": ft, "task": task}, told)
    data = {"task": msgspec.to_builtins(task), **tomllib.loads(text), "devices": 1000}
    assert decode(data, ft.Federation) == told["federation"]
    assert set(tomllib.loads(text)["privacy"]) == set(ft.central_dp.__struct_fields__)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_the_examples_define_a_federation(name: str) -> None:
    pytest.importorskip("sklearn")
    assert isinstance(runpy.run_path(str(ROOT / "examples" / name))["federation"], ft.Federation)


def test_the_federation_and_the_rules_in_secure_are_accepted(tmp_path: Path) -> None:
    text, rules, alone = fenced(ROOT / "docs" / "secure.md", "toml")
    whole, _ = fenced(ROOT / "docs" / "running.md", "toml")
    for part in (text, alone):
        settings = {"stages": tomllib.loads(text)["stages"], "pace": {"goal": 10}}
        spec = tomllib.loads(whole) | settings | tomllib.loads(part)
        federation = decode(spec, ft.Federation)
        assert federation.secure is not None
        assert set(spec["secure"]) - {"type"} == set(federation.secure.__struct_fields__)
    assert set(tomllib.loads(rules)) == set(HelperRules.__struct_fields__)
    decode(tomllib.loads(rules), HelperRules)


def test_the_federations_in_queries_and_statistics_are_accepted() -> None:
    text, local = (tomllib.loads(part) for part in fenced(ROOT / "docs" / "queries.md", "toml"))
    assert decode(text, ft.Federation).pace.quorum == 5
    assert set(local["local"]) == set(ft.local_dp.__struct_fields__)
    assert decode({**text, "query": "mean(power)", **local}, ft.Federation).local == ft.local_dp(1.0, (0.0, 3000.0))
    (code,) = fenced(ROOT / "docs" / "statistics.md", "python")
    told: dict[str, ft.Federation] = {}
    exec(code, {}, told)
    assert told["federation"].strategy == ft.ridge()


def test_the_test_files_named_are_there() -> None:
    for page in PAGES:
        for path in re.findall(r"`((?:tests|src|bench|examples|scripts)/[\w./-]+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def selected(call: str, items: list[pytest.Item]) -> list[pytest.Item]:
    """Return those of all tests that `scripts/test` runs with the words of `call`, by pytest's own rules."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("-k", default="")
    parser.add_argument("-s", action="store_true")
    parser.add_argument("paths", nargs="*")
    said = parser.parse_args(shlex.split(call))
    places = [ROOT / path for path in said.paths] or [ROOT]
    here = [item for item in items if any(item.path.is_relative_to(place) for place in places)]
    if said.k:
        wanted = Expression.compile(said.k)
        here = [item for item in here if wanted.evaluate(KeywordMatcher.from_item(item))]
    return [item for item in here if said.all or item.get_closest_marker("long") is None]


def test_every_selection_of_tests_has_some(collected: list[pytest.Item]) -> None:
    found = [(page.name, call) for page in PAGES for call in calls(page.read_text(), "scripts/test")]
    assert len(found) > 40
    nothing = [f"{page}: scripts/test{call}" for page, call in found if not selected(call, collected)]
    assert not nothing


def test_nothing_tracked_names_a_registry_or_a_place_on_this_machine() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: which files are tracked is not known")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        path = ROOT / name
        if not path.is_file() or path == Path(__file__):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found = [host for host in HOSTS if host in text] + PLACE.findall(text)
        assert not found, f"{name} has {found}"
