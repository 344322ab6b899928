"""The HTML page in a real browser: it loads, sorts, and has nothing to complain about. Skipped where there is no Chromium."""

import json
import os
import re
import shutil
import subprocess
from html import unescape

import pytest
from made_up import run

from promptvit.experiments import suites
from promptvit.experiments.report import make_report, write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

# Presses the page's buttons from outside, so that the page itself is the one that users get.
DRIVER = """<!doctype html><pre id="out"></pre><iframe id="page" src="PAGE" width="1200" height="900"></iframe><script>
document.getElementById("page").addEventListener("load", event => {
  const page = event.target.contentDocument, table = page.querySelector("table"), said = [];
  const bodies = () => [...table.tBodies].map(body => [...body.rows].map(row => row.cells[0].textContent));
  const heads = [...table.tHead.rows[0].cells];
  for (const column of COLUMNS) {
    const button = heads[column].querySelector("button");
    button.focus();
    button.click();
    said.push({bodies: bodies(), sorts: heads.map(head => head.getAttribute("aria-sort")), focused: page.activeElement === button});
  }
  document.getElementById("out").textContent = JSON.stringify(said);
});
</script>"""


def browse(page, *options: str) -> subprocess.CompletedProcess[str]:
    line = [CHROMIUM, "--headless", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    line += ["--allow-file-access-from-files", f"--user-data-dir={page.parent / 'profile'}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        line.append("--no-sandbox")  # Chromium's own sandbox refuses root
    return subprocess.run([*line, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)


def complaints(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    tasks = [task for tasks in suites.groups("vtab").values() for task in tasks]
    for i, method in enumerate(("linear", "vpt-deep", "gapt")):
        for j, task in enumerate(tasks[i == 2:]):
            more = {"method": method, "backbone": "vit_base_patch16_224.mae", "num_trainable": 10 ** (i + 3)}
            run(folder / "runs", task, (30 + 10 * i + j) / 100, **more)
    run(folder / "runs", "digits", 0.5, method="</script><script>window.bad = 1</script>")
    return write_report(make_report([folder / "runs"]), folder, ["html"])[0]


def pressed(page, *columns: int) -> list[dict]:
    driver = page.with_name("driver.html")
    driver.write_text(DRIVER.replace("PAGE", page.as_uri()).replace("COLUMNS", json.dumps(columns)))
    result = browse(driver, "--dump-dom")
    assert complaints(result) == []
    return json.loads(unescape(re.search(r'<pre id="out">(.*?)</pre>', result.stdout, re.S)[1]))


def test_a_complaint_would_be_seen(page, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace('"use strict";', 'console.error("seen");'))
    assert complaints(browse(broken, "--dump-dom")), "the page's own policy refuses a script that was changed"


def test_loads_without_a_complaint(page):
    result = browse(page, "--dump-dom")
    assert complaints(result) == []
    assert result.stdout.count("<svg") > 3 and result.stdout.count("<script>") == 1


def test_sorts_and_says_so(page):
    by_name, by_mean, again = pressed(page, 0, 4, 4)
    assert by_name["bodies"][0] == ["gapt", "linear", "vpt-deep"] and by_name["sorts"][0] == "ascending"
    assert by_mean["bodies"][0] == ["vpt-deep", "linear", "gapt"], "highest first; gapt misses a task and has no mean"
    assert again["bodies"][0] == ["linear", "vpt-deep", "gapt"], "what is missing stays last"
    assert [one["sorts"][4] for one in (by_name, by_mean, again)] == ["none", "descending", "ascending"]
    assert by_mean["sorts"].count("none") == len(by_mean["sorts"]) - 1 and all(one["focused"] for one in (by_name, by_mean, again))


def test_quoted_lines_sort_among_themselves(page):
    before, after = pressed(page, 0, 1)
    for one in (before, after):
        assert one["bodies"][1][0] == "Published, quoted †" and all("†" in name for name in one["bodies"][1])
        assert not any("†" in name for name in one["bodies"][0])
    assert after["bodies"][1][1].startswith("spt-deep"), "67.19 is the highest Natural mean"
    assert sorted(before["bodies"][1]) == sorted(after["bodies"][1])


@pytest.mark.parametrize("size", ["1300,900", "420,900"])
def test_draws(page, tmp_path, size):
    browse(page, f"--screenshot={tmp_path / 'page.png'}", f"--window-size={size}")
    assert (tmp_path / "page.png").stat().st_size > 20_000
