"""One process at a time on a run folder; the second learns who the first is, and a killed one is none."""

import json
import platform
import signal
import subprocess
import sys

import pytest
from faults.targets import Pretrain, Train, prepare

from promptvit import locks

HOLD = """
import sys
from pathlib import Path
from promptvit import locks
with locks.owned(Path(sys.argv[1]), "run", inside=sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    prepare(folder)
    return folder


@pytest.fixture
def holder(tmp_path):
    """Starts a process that owns ``tmp_path / "run"``."""
    started = []

    def hold(inside):
        line = [sys.executable, "-c", HOLD, str(tmp_path / "run"), inside]
        started.append(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield hold
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("kind", "inside"), [(Train, "checkpoint"), (Pretrain, "")])
def test_the_second_is_refused_until_the_first_is_gone(shared, tmp_path, holder, kind, inside):
    first, run, target = holder(inside), tmp_path / "run", kind(shared)
    since = json.loads((run / inside / locks.OWNER).read_text())["since"]
    with pytest.raises(ValueError, match="another run writes to") as caught:
        target.work(run)
    assert f"process {first.pid} on {platform.node()}, since {since}" in str(caught.value) and str(run) in str(caught.value)
    assert sorted(path.name for path in (run / inside).iterdir()) == [locks.LOCK, locks.OWNER]
    first.send_signal(signal.SIGKILL)
    first.wait()
    target.work(run)
    target.work(tmp_path / "whole")
    assert target.outcome(run) == target.outcome(tmp_path / "whole")


def test_a_run_does_not_lock_its_folder_for_longer_than_it_works(shared, tmp_path):
    for _ in range(2):
        Train(shared).work(tmp_path / "run")
        with pytest.raises(RuntimeError), locks.owned(tmp_path / "run", "run", inside="checkpoint"):
            raise RuntimeError


def test_two_in_one_process(tmp_path):
    with locks.owned(tmp_path, "sweep"), pytest.raises(ValueError, match="another sweep"), locks.owned(tmp_path, "sweep"):
        pass
    with locks.owned(tmp_path, "sweep"):
        (tmp_path / locks.OWNER).write_text("{")
        with pytest.raises(ValueError, match="it began just now"), locks.owned(tmp_path, "sweep"):
            pass


def test_half_files_of_the_dead_are_deleted_and_nothing_else(tmp_path):
    for name in (".state.pt.abc.tmp", "state.tmp", ".hidden", "checkpoint/.state.pt.x.tmp", "mine/deeper/.a.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    with locks.owned(tmp_path, "run"):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"state.tmp", ".hidden", "mine/deeper/.a.tmp", locks.LOCK, locks.OWNER}


def test_a_file_system_without_locks_is_no_reason_to_stop(tmp_path, monkeypatch, caplog):
    def none(self, *given, **named):
        raise OSError(locks.NO_LOCKS[0], "No locks available")

    monkeypatch.setattr(locks.FileLock, "acquire", none)
    with locks.owned(tmp_path, "run"):
        assert (tmp_path / locks.OWNER).is_file()
    assert "has no locks" in caplog.text and not (tmp_path / locks.OWNER).exists()
