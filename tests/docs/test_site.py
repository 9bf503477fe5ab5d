"""The documents: the site builds without a warning, links lead somewhere, the reference is whole."""

from __future__ import annotations

import ast
import html
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

import layerkit
from documents import Command, File, agrees, steps

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", ".engine", ".layerkit", "_build", "wheels"} & set(path.relative_to(ROOT).parts)
)
_CODE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1`*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def generated() -> Iterator[ModuleType]:
    """The extension that makes the reference."""
    folder = str(ROOT / "docs" / "_ext")
    sys.path.insert(0, folder)
    try:
        import generated as module

        yield module
    finally:
        sys.path.remove(folder)


# ------------------------------------------------------------------------------------------------------ the site


class Page(HTMLParser):
    """The links of a page, and the names that links can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        self.links |= {given[name] for name in ("href", "src") if given.get(name)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    options = ("-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "doctrees"))
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(folder / "html")],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


def test_site_builds_strictly(site: Path) -> None:
    """Sphinx builds every page with no warning: no unknown reference, no page that no table of contents names."""
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= {path.stem for path in site.glob("*.html")}


def test_links_of_the_site(site: Path) -> None:
    """Every link inside the site leads to a file that is there, and to a name that the file has."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = pages.get(target)
            if not target.exists() or (parts.fragment and known and unquote(parts.fragment) not in known.names):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


# ------------------------------------------------------------------------------------------------------ the sources


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of *text*."""
    plain = re.sub(r"^(`{3,})[^\n]*\n.*?^\1`*$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+?)\s*$", plain, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_of_the_sources(page: Path) -> None:
    """Every relative link of a Markdown file, as it is read on GitHub, leads to a file and a heading that are there."""
    text = page.read_text(encoding="utf-8")
    broken = []
    for link in _LINK.findall(_CODE.sub("", text)):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists() or (
            parts.fragment and target.suffix == ".md" and parts.fragment not in anchors(target.read_text())
        ):
            broken.append(link)
    assert broken == []


# ---------------------------------------------------------------------------------------------------- the reference


def test_every_command_and_option_is_told(generated: ModuleType) -> None:
    """The page of the commands has each command that --help names, and each option with its words."""
    import click

    from layerkit.cli.app import cli

    text = generated.commands()
    for command, context in generated.walk(cli, click.Context(cli, info_name="layerkit", **cli.context_settings)):
        assert f"## {context.command_path}\n" in text
        for option in command.get_params(context):
            if isinstance(option, click.Option) and not option.hidden and "--help" not in option.opts:
                assert generated.escape(option.help or "") in text


def test_every_key_is_told(generated: ModuleType) -> None:
    """The page of layerkit.toml has each key of each table, each with its words."""
    text = generated.configuration()
    for table, content in layerkit.schema()["properties"].items():
        name = generated._reference(content)
        for key, value in layerkit.schema()["$defs"][name]["properties"].items():
            assert f"{{confval}} {table}.{key}\n" in text
            assert value.get("description"), f"{table}.{key}: no description"


def test_every_exit_status_is_told(generated: ModuleType) -> None:
    """The page of the exit statuses has a row for each of the contract."""
    told = re.findall(r"^\| (\d+) \|", generated.statuses(), re.MULTILINE)
    assert told == [*map(str, range(12)), "130", "143"]


def test_every_label_is_told(generated: ModuleType) -> None:
    """Each dev.layerkit.* name that the code writes has words on the page of the labels."""
    assert generated.found_labels() - set(generated.LABELS) == set()
    assert "checkpoint.digest" in generated.found_labels()


def test_every_public_name_is_told(generated: ModuleType) -> None:
    """The page of the Python API has each name of layerkit.__all__."""
    text = generated.api()
    missing = [name for name in layerkit.__all__ if f":: layerkit.{name}\n" not in text and name != "__version__"]
    assert missing == []


# ------------------------------------------------------------------------------------------------- pages that are run


@pytest.mark.parametrize(
    ("promised", "output", "holds"),
    [
        pytest.param((), "", True, id="silence"),
        pytest.param((), "a\n", False, id="silence-promised"),
        pytest.param(("a",), "a\n", True, id="line"),
        pytest.param(("a",), "b\n", False, id="other-line"),
        pytest.param(("a …",), "a 17 s\n", True, id="within"),
        pytest.param(("a …",), "b 17 s\n", False, id="within-other"),
        pytest.param(("…", "b"), "1\n2\nb\n", True, id="lines"),
        pytest.param(("…", "b"), "1\n2\nc\n", False, id="lines-missing"),
        pytest.param(("a",), "a\nb\n", False, id="more-than-promised"),
        pytest.param(("a.c",), "abc\n", False, id="no-pattern"),
    ],
)
def test_output_is_held_against_the_page(promised: tuple[str, ...], output: str, holds: bool) -> None:
    """Output agrees with a page line by line; only where the page says so may it be anything."""
    assert agrees(promised, output) is holds


def test_steps_of_a_page(tmp_path: Path) -> None:
    """Files and commands are found in their order; other blocks are not run."""
    page = tmp_path / "page.md"
    page.write_text("**a.py**\n\n```python\nx = 1\n```\n\n```sh\nno\n```\n\n```console\n$ one\nout\n…\n$ two\n```\n")
    assert list(steps(page)) == [File("a.py", "x = 1\n"), Command("one", ("out", "…")), Command("two", ())]


def test_the_terminal_picture() -> None:
    """It is small, fetches nothing, and shows the commands that tools/picture.py runs."""
    text = (ROOT / "docs" / "terminal.svg").read_text()
    assert len(text.encode()) < 100_000
    assert text.count("http") == 1 and 'xmlns="http://www.w3.org/2000/svg"' in text and "url(" not in text
    picture = ast.parse((ROOT / "tools" / "picture.py").read_text())
    (shown,) = (
        ast.literal_eval(node.value)
        for node in picture.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SHOWN"
    )
    typed = re.findall(r'<tspan class="prompt">\$ </tspan>(.*)</text>', text)
    assert typed == [html.escape(command, quote=False) for command in shown]
