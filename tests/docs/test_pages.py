"""What the pages name is there: pages, files, tests, commands, options, environment variables, and what their code imports."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import surface
from tests.docs.page import DOCS, ROOT, blocks_of

PAGES = [ROOT / name for name in surface.tracked(".md") if not name.startswith(("proto/", "sdk/", "txcoord/"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FRAGMENT = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
pages = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def links(page: Path) -> Iterator[str]:
    """Where a page's links lead, code left out."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    """What can follow `#`, as forges make it from headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def spans(page: Path) -> list[str]:
    """What stands between backticks on one line."""
    return re.findall(r"`([^`\n]+)`", page.read_text())


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), link
        assert found.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(found), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = (page.parent / link.partition("#")[0] for link in links(page) if "://" not in link and not link.startswith("#"))
        ahead += [target.resolve() for target in targets]
    assert set(PAGES) - seen == set()


def test_the_index_names_every_page() -> None:
    index = {(DOCS / link).resolve() for link in links(DOCS / "README.md")}
    assert {page for page in PAGES if page.is_relative_to(DOCS)} - index == {DOCS / "README.md"}


@pages
def test_files_and_tests_that_it_names_are_there(page: Path) -> None:
    for span in spans(page):
        named = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)+/?)(?:::(\w+))?", span)
        if named is None:
            assert "::" not in span, f"{span}: name the file from the root on"
            continue
        path, name = named.groups()
        if not name and "." not in path.rpartition("/")[2] and not path.startswith(("tests/", "docs/", "examples/", "tools/")):
            continue  # no file of ours: a word with a slash in it
        matches = [known for known in surface.tracked() if known == path or known.endswith(f"/{path}")]
        if (ROOT / path).is_dir():
            continue
        assert matches, f"{span}: there is no such file"
        if name:
            assert any(surface.is_defined(ROOT / match, name) for match in matches), f"{span}: the file does not define it"


@pages
def test_commands_and_options_that_it_names_exist(page: Path) -> None:
    lines = [*spans(page), *(line for block in blocks_of(page) for line in block.text.splitlines())]
    for line in lines:
        for shown in re.findall(r"(?:^|[;&|(] ?|bin/|\$ )(txcoord(?:-agent)? [^#;&|>)]*)", line.strip()):
            words = shlex.split(shown, comments=True)
            assert not (wrong := surface.complaint_about(words)), f"{line}: {wrong}"


@pages
def test_what_it_installs_is_there(page: Path) -> None:
    """There is no release: it comes from the clone, with extras that it has."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for source, named in re.findall(r"pip install (?:-q )?'?([\w./]+)\[([\w,]+)\]", page.read_text()):
        assert source == "."
        assert set(named.split(",")) <= set(extras)


@pages
def test_options_that_stand_alone_exist(page: Path) -> None:
    known = {o for program in surface.PROGRAMS.values() for _, c in surface.commands(program) for p in c.params for o in p.opts}
    known |= {"--version", "--help"}
    for span in spans(page):
        if re.fullmatch(r"--[a-z-]+", span):
            elsewhere = re.escape(span)
            ours = span in known or any(
                re.search(rf"[\"']{elsewhere}[\"']", (ROOT / n).read_text()) for n in surface.tracked(".py")
            )
            assert ours, f"{span}: no command has it"


@pages
def test_environment_variables_that_it_names_are_read(page: Path) -> None:
    named = set(re.findall(r"\b(?:TXCOORD|SHOP)_[A-Z_]+\b(?!\*)", page.read_text()))
    assert {name for name in named if not name.endswith("_")} - surface.variables() == set()


@pages
def test_its_python_is_python_and_imports_what_is_there(page: Path) -> None:
    for block in blocks_of(page):
        if block.language != "python":
            continue
        tree = compile(block.text, str(page), "exec", FRAGMENT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("txcoord"):
                module = importlib.import_module(node.module or "")
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pages
def test_its_code_is_run_or_says_that_it_is_a_fragment(page: Path) -> None:
    runs = [block for block in blocks_of(page) if block.language in ("python", "bash") and not block.is_fragment]
    if not runs:
        return
    name = str(page.relative_to(DOCS)) if page.is_relative_to(DOCS) else page.name
    tests = "\n".join(path.read_text() for path in (ROOT / "tests" / "docs").glob("test_*.py"))
    assert f'"{name}"' in tests, "no test opens this page: mark what cannot run as ```python fragment"
