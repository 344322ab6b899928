"""A few kills of every kind of work; ``make faults`` does hundreds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.dying import Death, attempt

TESTS = Path(__file__).parent.parent


def test_killed_anywhere_nothing_is_lost(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(TESTS), "TMPDIR": str(tmp_path)}
    kinds = ("train", "sweep", "pretrain", "cache", "adapter")  # an export takes seconds before it writes: only `make faults` kills those
    line = [sys.executable, "-m", "faults.campaign", "--kills", "8", *(part for kind in kinds for part in ("--only", kind))]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("|")]
    kills = {row[0]: int(row[1]) for row in rows[2:]}
    assert all(kills[kind] > 0 for kind in kinds) and kills["all"] >= 8


@pytest.mark.parametrize("death", [Death("time", 0.2), Death("step", 2), Death("cut", 1, size=300)])
def test_the_campaign_would_see_a_half_file(tmp_path, death):
    """A writer that does not write whole files leaves one in each of the ways to die."""
    from promptvit import files

    def work():
        while True:
            with files.atomic(tmp_path / "whole.txt", sync=False) as temporary:
                temporary.write_text("0123456789" * 100)
            with (tmp_path / "half.txt").open("w") as file:
                for _ in range(100):
                    file.write("0123456789")
                    file.flush()

    sizes = set()
    for _ in range(20):
        assert attempt(work, death).killed
        whole, half = tmp_path / "whole.txt", tmp_path / "half.txt"
        assert not whole.exists() or whole.stat().st_size == 1000
        sizes.add(half.stat().st_size if half.exists() else 0)
        if death.kind != "time":
            break
    assert death.kind == "cut" or sizes != {1000}
