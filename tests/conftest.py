"""Options of the test suite."""

import os
from pathlib import Path

import pytest

VECTORS = Path(__file__).parent / "parity" / "vectors"


def pytest_addoption(parser):
    parser.addoption("--parity-dir", default=str(VECTORS), help="folder of parity vectors (*.safetensors); default: tests/parity/vectors")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests and the processes they start leave the user's cache of decoded images alone."""
    os.environ["PROMPTVIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
