"""The documents: the site builds without a warning and asks nobody for anything; what pages quote is so; the worked method works."""

import ast
import re
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

import promptvit
from promptvit import analysis
from promptvit.experiments.spec import read_spec

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The code of a page in ``language``."""
    return [text for found, text in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


class Page(HTMLParser):
    """Of a page of the site: its anchors, and the addresses that a browser asks for by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors, self.asked, self.content = set(), [], path.read_text(encoding="utf-8")
        self.feed(self.content)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.add(given.get("id"))
        if tag != "a":
            self.asked += [given[key] for key in ("src", "href") if given.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site: every page, link and anchor in order, or else ``--strict`` fails. Pages by their path without ``.html``."""
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return {path.relative_to(folder).with_suffix("").as_posix(): Page(path) for path in folder.rglob("*.html")}


def test_every_page_is_there(site):
    assert {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES} <= site.keys()


def test_the_site_asks_no_other_host(site):
    asked = [address for page in site.values() for address in page.asked]
    assert len(asked) > len(site)
    assert not [address for address in asked if "://" in address or address.startswith("//")]
    addresses = {found for page in site.values() for found in re.findall(r"@import|url\(['\"]?(?:https?:)?//", page.content)}
    assert not addresses


def test_the_public_names_are_in_the_reference(site):
    listed = {anchor for name, page in site.items() if name.startswith("reference/") for anchor in page.anchors}
    assert {f"promptvit.{name}" for name in promptvit.__all__} <= listed
    twice = {"sensitivity", "similarity"}  # functions that are called as their modules are
    assert {f"promptvit.analysis.{name}.{name}" if name in twice else f"promptvit.analysis.{name}" for name in analysis.__all__} <= listed


def test_docstrings_are_shown_without_markup(site):
    for name, page in site.items():
        assert not re.search(r":(?:attr|class|data|func|meth|mod):<|,</span></code></b>", page.content), name


def test_anchors_that_the_readme_links_to(site):
    links = re.findall(r"\]\(docs/([\w/-]+)\.md#([\w-]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links
    assert not [(page, anchor) for page, anchor in links if anchor not in site[page].anchors]


def test_python_on_the_pages_is_python():
    assert sum(bool(ast.parse(code)) for page in PAGES for code in blocks(page, "python")) > 5


# Getting started


def test_the_practice_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(blocks(DOCS / "getting-started.md", "python")[0], {})
    data = promptvit.load_dataset("folder", root="my_images")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 280, "val": 60, "test": 60}
    assert len(data.classes) == 10 and not data.skipped


def test_the_sweep_file(tmp_path):
    (code,) = blocks(DOCS / "getting-started.md", "yaml")
    (tmp_path / "mine.yaml").write_text(code, encoding="utf-8")
    assert read_spec(tmp_path / "mine.yaml").methods.keys() == yaml.safe_load(code)["methods"].keys()


# The method in one file


def test_the_page_quotes_the_example():
    example = (ROOT / "examples" / "own_method.py").read_text(encoding="utf-8")
    quoted = blocks(DOCS / "add-a-method.md", "python")
    assert len(quoted) == 2
    for code in quoted:
        assert code in example or textwrap.indent(code, "    ") in example


def test_the_example_keeps_the_contract(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "examples"))
    line = [sys.executable, "-m", "pytest", "-q", "-p", "own_method", "-k", "vpt-growing", "tests/contract/test_methods.py"]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
    (passed,) = re.findall(r"(\d+) passed", result.stdout)
    assert int(passed) > 30, "every test on four backbone families, refused on the fifth"
