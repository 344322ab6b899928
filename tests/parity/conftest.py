"""One test for each vector of ``--parity-dir``, and a table of all of them at the end."""

from pathlib import Path

import pytest

from promptvit.testing.compare import table


@pytest.fixture(scope="session")
def parity_dir(pytestconfig):
    return Path(pytestconfig.getoption("parity_dir"))


def pytest_generate_tests(metafunc):
    if "vector" in metafunc.fixturenames:
        files = sorted(Path(metafunc.config.getoption("parity_dir")).glob("*.safetensors"))
        metafunc.parametrize("vector", files, ids=[file.stem for file in files])


def pytest_terminal_summary(terminalreporter):
    """The rows travel in the reports, so that they also arrive from the processes of pytest-xdist."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    rows = [value for report in reports if report.when == "call" for name, value in report.user_properties if name == "parity"]
    if rows:
        terminalreporter.section("parity with the authors' code")
        for line in table(sorted(rows)):
            terminalreporter.write_line(line)
