"""Some hostile inputs of every kind; ``make fuzz`` reads 100,000. The environment variable PROMPTVIT_FUZZ sets how many are read here."""

import os
from random import Random

import pytest
from campaign import TARGETS, fuzz
from watching import Case, Watch

from promptvit.errors import shown

CASES = int(os.environ.get("PROMPTVIT_FUZZ", "600"))
WHOLE = sum(target.share for target in TARGETS.values())


@pytest.mark.filterwarnings("ignore")  # Pillow and torch have much to say about damaged files
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_gets_the_better_of_its_reader(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMPTVIT_CACHE", str(tmp_path / "cache"))
    watch = fuzz(name, max(8, CASES * TARGETS[name].share // WHOLE), tmp_path)
    assert watch.crashes == []
    assert watch.counts["refused"] + watch.counts["accepted"] >= 8


@pytest.fixture
def watch(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary").write_text("x")
    return Watch(tmp_path, outside, tmp_path / "ran")


def refuse(message: str):
    raise ValueError(message)


def test_the_judge_knows_a_crash_when_it_sees_one(watch, tmp_path, monkeypatch):
    monkeypatch.setattr("watching.SECONDS", 0.2)
    monkeypatch.setattr("watching.GROWTH", 2**20 * 200)
    (tmp_path / "link").symlink_to(watch.outside)
    hostile = {
        "named by nothing": lambda: refuse("something is wrong"),
        "endless": lambda: refuse(f"file {'x' * 5000}"),
        "another kind": lambda: {}["file"],
        "no end": lambda: all(True for _ in iter(int, 1)),
        "memory": lambda: bytearray(b"x" * 2**20 * 400),
        "outside": lambda: (watch.outside / "canary").read_text(),
        "outside, by a link": lambda: (tmp_path / "link" / "canary").read_text(),
        "runs": lambda: os.system("true"),
        "leaves a canary": lambda: watch.canary.touch(),
    }
    for what, read in hostile.items():
        assert watch.look(Case(read, ("file",), what)) == "crash", what
    assert len(watch.crashes) == len(hostile)
    assert watch.look(Case(lambda: refuse("file: no good"), ("file",))) == "refused"
    assert watch.look(Case(lambda: None, ("file",))) == "accepted"


def test_a_case_can_be_made_again_by_its_number(tmp_path):
    def draws(folder):
        (folder / "a").mkdir(parents=True)
        draw = TARGETS["image"].start(folder / "a", folder)
        return [(draw(Random(f"0 {number}")).note, (folder / "a" / "hostile.img").read_bytes()) for number in range(20)]

    assert draws(tmp_path / "one") == draws(tmp_path / "two")


def test_what_was_given_is_shown_in_part():
    assert shown("a'b") == '"a\'b"' and shown([1, 2]) == "[1, 2]"
    assert len(shown("x" * 10**6)) < 250 and shown("x" * 300).endswith("...")
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert "nested list" in shown(deep)
