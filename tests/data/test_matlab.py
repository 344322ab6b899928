"""MATLAB files: what SciPy writes is read as SciPy reads it."""

import io

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from promptvit.data.listed.matlab import read_matlab

CELLS = np.array([["a b/1.jpg"], ["é/2.jpg"], ["日本.jpg"]], dtype=object)
RECORDS = np.array([("x.jpg", 3, np.array([1.5, 2])), ("é.jpg", 1000, "t")], dtype=[("path", "O"), ("class", "O"), ("more", "O")])
VALUES = {
    "doubles": np.array([[1.0, 2.5, -3.0]]),
    "bytes": np.array([[1], [2], [255]], np.uint8),
    "wide": np.array([2**40, -1]),
    "one": 7,
    "text": "word",
    "floats": np.float32([0.5, 1]),
    "none": np.zeros((0, 0)),
    "cells": CELLS,
    "records": RECORDS,
    "flags": np.array([True, False]),
}


def written(values, **options) -> bytes:
    file = io.BytesIO()
    savemat(file, values, **options)
    return file.getvalue()


def expected(content: bytes, name: str) -> list:
    value = loadmat(io.BytesIO(content), simplify_cells=True)[name]
    value = list(np.ravel(value)) if isinstance(value, np.ndarray) else value if isinstance(value, list) else [value]
    return [{key: np.asarray(item).tolist() for key, item in one.items()} if isinstance(one, dict) else one for one in value]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_as_scipy_reads_it(name, packed):
    content = written(VALUES, do_compression=packed)
    assert read_matlab(content, [name])[name] == expected(content, name)


def test_only_what_is_asked_for_is_understood():
    import scipy.sparse

    content = written({"labels": [[1, 2]], "odd": scipy.sparse.eye(3)})
    assert read_matlab(content, ["labels", "missing"]) == {"labels": [1, 2]}
    with pytest.raises(ValueError, match="class 5"):
        read_matlab(content, ["odd"])


def test_other_byte_order():
    little = written({"x": np.array([[1.0, 256.0]])})
    header = little[:124] + b"\x01\x00MI"
    words = np.frombuffer(little[128:], "<u4")
    assert read_matlab(little, ["x"])["x"] == [1.0, 256.0]
    tags = words[:14].astype(">u4").tobytes()  # all words but the name's bytes, at 44
    name = tags[:44] + b"x\0\0\0" + tags[48:]
    assert read_matlab(header + name + words[14:].view("<f8").astype(">f8").tobytes(), ["x"])["x"] == [1.0, 256.0]


def test_another_version_and_damage_are_refused():
    content = written(VALUES)
    for bad in (b"", b"MATLAB 7.3 MAT-file".ljust(512, b"\0"), written({"one": 1}, format="4"), content[:-9], content[:128] + b"\xff" * 64):
        with pytest.raises(ValueError):
            read_matlab(bad, VALUES)


def test_a_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr("promptvit.data.listed.matlab.LARGEST", 10**6)
    with pytest.raises(ValueError, match="more than"):
        read_matlab(written({"labels": np.zeros((1, 10**6))}, do_compression=True), ["labels"])
