"""Options of the test suite."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# the integration run draws the same examples every time; elsewhere each run looks at new ones
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("dev", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

VECTORS = Path(__file__).parent / "parity" / "vectors"


def pytest_addoption(parser):
    parser.addoption("--parity-dir", default=str(VECTORS), help="folder of parity vectors (*.safetensors); default: tests/parity/vectors")
    parser.addoption("--kills", default=2, type=int, help="how often tests/experiments/test_sweep.py kills a sweep at a random moment")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests and the processes they start leave the user's cache of decoded images alone."""
    os.environ["PROMPTVIT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
