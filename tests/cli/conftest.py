"""A tiny backbone, a small folder of images, a finished run on it, and the command inside this process."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from folders import fill
from helpers import tiny_backbone

from promptvit.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The message of a command that failed as promised: no traceback, the error in one last line."""
        assert self.code != 0, self.out
        assert "Traceback" not in self.err, self.err
        last = self.err.splitlines()[-1]
        assert last.startswith("error: ") and self.err.count("error: ") == 1, self.err
        return last.removeprefix("error: ")


@pytest.fixture
def promptvit_command(capsys, monkeypatch):
    """``promptvit_command("train", "--method", ...)`` runs the whole command in this process."""
    monkeypatch.delenv("PROMPTVIT_DEBUG", raising=False)

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def backbone(tmp_path_factory) -> str:
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def pets(tmp_path_factory) -> Path:
    """Three classes of seven images, no splits."""
    return fill(tmp_path_factory.mktemp("pets"), {"cat": 7, "dog": 7, "emu": 7})


@pytest.fixture(scope="session")
def finished(tmp_path_factory, backbone, pets) -> Path:
    """A run folder; tests must not change it."""
    import promptvit

    out = tmp_path_factory.mktemp("runs") / "pets"
    settings = {"epochs": 4, "batch_size": 8, "num_prompts": 2, "augment": "none"}
    promptvit.train(backbone=backbone, method="vpt-deep", data="folder", data_root=str(pets), out=str(out), **settings)
    return out
