"""Every example runs as a script, learns, and says what it reached."""

import ast
import re
import runpy
import sys
from pathlib import Path

import pytest
from helpers import tiny_backbone

import promptvit
from promptvit.methods import base

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SHORT = {
    "plain_loop": ["--steps", "3"], "lightning_style": ["--epochs", "1"], "hf_trainer_style": ["--steps", "3"],
    "own_method": ["--epochs", "1"],
}
LONGER = {
    "plain_loop": ["--steps", "250"], "lightning_style": ["--epochs", "30"], "hf_trainer_style": ["--steps", "200"],
    "own_method": ["--epochs", "30"],
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def run(backbone, monkeypatch, capsys):
    """Run an example as its command does, in this process; gives the accuracy that it prints."""

    def script(name: str, *arguments: str) -> float:
        monkeypatch.setattr(base, "_METHODS", dict(base._METHODS))  # what an example registers is gone after the test
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--backbone", backbone, *arguments])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        (accuracy,) = re.findall(r"^test accuracy: ([\d.]+)$", capsys.readouterr().out, re.MULTILINE)
        return float(accuracy)

    return script


def test_every_example_is_run_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == SHORT.keys() == LONGER.keys()


@pytest.mark.parametrize("name", SHORT)
def test_docstring_with_its_command(name):
    docstring = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8")))
    assert re.search(rf"^ *python examples/{name}\.py --backbone mae-tiny --\w+ \d+$", docstring, re.MULTILINE)


@pytest.mark.parametrize("name", SHORT)
def test_runs_with_its_own_method(name, run):
    assert 0 <= run(name, "--shots", "2", *SHORT[name]) <= 1


@pytest.mark.parametrize("name", LONGER)
def test_learns(name, run):
    assert run(name, "--method", "full", *LONGER[name]) > 0.3, "three times chance"


def test_the_plain_loops_adapter_can_be_used(backbone, run, tmp_path):
    accuracy = run("plain_loop", "--shots", "2", "--steps", "3", "--save", str(tmp_path / "adapter"))
    model = promptvit.PromptedModel.from_pretrained(tmp_path / "adapter", backbone=promptvit.load_backbone(backbone))
    test = promptvit.load_dataset("digits").splits["test"]
    predicted = model.predict([test.image(i) for i in range(len(test))]).probabilities.argmax(dim=-1).tolist()
    right = sum(guess == label for guess, label in zip(predicted, test.labels, strict=True))
    assert right / len(test) == pytest.approx(accuracy, abs=1e-4)


@pytest.mark.parametrize("name", SHORT)
def test_an_unknown_method_is_said(name, run):
    with pytest.raises(ValueError, match="did you mean gapt"):
        run(name, "--method", "gatp")
