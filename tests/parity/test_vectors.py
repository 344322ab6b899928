"""Our code against the authors' numbers: every result of every vector."""

import pytest

from promptvit.testing.compare import compare


def test_there_are_vectors(parity_dir):
    assert list(parity_dir.glob("*.safetensors")), f"no *.safetensors in {parity_dir}"


def test_vector(vector, record_property):
    report = compare(vector)
    record_property("parity", report.row())
    if report.failures:
        pytest.fail(f"{vector.name}: {len(report.failures)} of its results differ\n" + "\n".join(report.failures), pytrace=False)
    assert report.keys or report.differs, "nothing was compared"
