"""Options of the test suite."""

from pathlib import Path

VECTORS = Path(__file__).parent / "parity" / "vectors"


def pytest_addoption(parser):
    parser.addoption("--parity-dir", default=str(VECTORS), help="folder of parity vectors (*.safetensors); default: tests/parity/vectors")
