"""The command as such: help, listings, usage errors, the two ways to start it."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import typer
from helpers import command

import promptvit
from promptvit.cli import main
from promptvit.cli.app import app
from promptvit.cli.training import parse_settings

COMMANDS = sorted(typer.main.get_command(app).commands)


def test_the_commands_of_the_contract_are_there():
    assert set(COMMANDS) >= {"train", "evaluate", "predict", "list", "demo", "pretrain"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name, promptvit_command):
    outcome = promptvit_command(name, "--help")
    assert outcome.code == 0 and outcome.err == ""
    assert f"Example: promptvit {name}" in " ".join(outcome.out.split()), outcome.out


def test_help_without_a_command(promptvit_command, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["promptvit"])
    outcome = promptvit_command("--help")
    assert outcome.code == 0 and all(name in outcome.out for name in COMMANDS) and "Example: promptvit train" in outcome.out


def test_python_m_promptvit_without_arguments_shows_help():
    result = command()
    assert result.returncode == 0 and result.stderr == "" and "Example: promptvit train" in result.stdout


def test_the_installed_script_is_this_command():
    (script,) = entry_points(group="console_scripts", name="promptvit")
    assert script.load() is main


@pytest.mark.parametrize("what", ["methods", "backbones", "datasets"])
def test_list(what, promptvit_command):
    names = {"methods": promptvit.list_methods, "backbones": promptvit.list_backbones, "datasets": promptvit.list_datasets}[what]()
    assert promptvit_command("list", what).out.splitlines() == names
    assert promptvit_command("list", what, "--json").json == names
    assert {"methods": "lspt", "backbones": "vit_base_patch16_224.mae", "datasets": "folder"}[what] in names


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trian", ["trian", "train"]),
        ("train --backbon x", ["--backbon", "--backbone", "promptvit train --help"]),
        ("train --backbone b --method m --data d --epochs many", ["--epochs", "integer"]),
        ("train --backbone", ["--backbone"]),
        ("train surprise --backbone b --method m --data d", ["surprise"]),
        ("list metods", ["metods", "methods", "backbones", "datasets", "recipes"]),
        ("evaluate", ["Missing", "run"]),
        ("predict run photo.jpg --top-k 0", ["--top-k", "1"]),
        ("pretrain --steps 3", ["Missing", "--out"]),
    ],
)
def test_usage_errors_are_one_line(line, words, promptvit_command):
    outcome = promptvit_command(*line.split())
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1 and outcome.out == ""
    assert all(word in outcome.error for word in words), outcome.error


def test_an_error_of_a_real_process():
    result = command("train", "--backbone", "mae-tiny", "--metod", "gapt", "--data", "digits")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and "--method" in result.stderr and result.stderr.count("\n") == 1


def test_faults_of_ours_are_one_line_too_and_can_be_traced(promptvit_command, monkeypatch):
    def fault():
        raise KeyError("oh")

    monkeypatch.setattr(promptvit, "list_methods", fault)
    outcome = promptvit_command("list", "methods")
    assert outcome.code == 1 and outcome.error == "KeyError: 'oh' (PROMPTVIT_DEBUG=1 shows where)"
    monkeypatch.setenv("PROMPTVIT_DEBUG", "1")
    with pytest.raises(KeyError):
        main(["list", "methods"])


def test_a_reader_that_stops_early_is_no_fault_of_ours():
    line = [sys.executable, "-c", "from promptvit.cli import main; import promptvit; promptvit.list_methods = lambda: ['x' * 99] * 9999; "
            "main(['list', 'methods'])"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "x" * 99 + "\n"
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_set_reads_values_as_a_person_means_them():
    pairs = ["lr=1e-3", "epochs=3", "precision=no", "residual=true", "arch=null", "cell=gru", "windows=[2, 3]", "gate-init=-2.5", "pool="]
    assert parse_settings(pairs) == {
        "lr": "1e-3", "epochs": 3, "precision": "no", "residual": True, "arch": None, "cell": "gru", "windows": [2, 3], "gate_init": -2.5,
        "pool": None,
    }


@pytest.mark.parametrize("pair", ["epochs", "=3", "windows=[2", "x=!!python/object/apply:os.getcwd []", "x=2024-13-45"])
def test_set_refuses_what_it_cannot_read(pair):
    with pytest.raises(ValueError, match="^--set") as refused:
        parse_settings([pair])
    assert "\n" not in str(refused.value)


def test_pretrain_makes_a_backbone_and_goes_on(promptvit_command, tmp_path):
    line = [
        "pretrain", "--objective", "mae", "--out", tmp_path / "tiny", "--batch-size", 4, "--seed", 3, "--set", "width=16",
        "--set", "depth=1", "--set", "heads=2", "--set", "patch_size=8", "--set", "decoder_width=8", "--set", "decoder_depth=1",
        "--steps", 2,
    ]
    outcome = promptvit_command(*line)
    assert outcome.code == 0 and str(tmp_path / "tiny" / "export") in outcome.out
    assert promptvit.load_backbone(tmp_path / "tiny" / "export").width == 16
    assert json.loads((tmp_path / "tiny" / "losses.json").read_text())[1] > 0
    assert "--resume" in promptvit_command(*line).error
    assert promptvit_command(*line, "--resume").code == 0
    assert "other settings" in promptvit_command(*line[:-1], 3, "--resume").error


def test_pretrain_checks_everything_before_it_works(promptvit_command, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to" in promptvit_command("pretrain", "--out", tmp_path / "file" / "x").error
    out = tmp_path / "out"
    assert "did you mean width" in promptvit_command("pretrain", "--out", out, "--set", "widht=3").error
    assert "steps" in promptvit_command("pretrain", "--out", out, "--steps", 0).error
    assert "objective" in promptvit_command("pretrain", "--out", out, "--objective", "mea").error
