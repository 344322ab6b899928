"""``promptvit serve`` as a command: names, refusals, and an orderly end."""

import os
import signal
import subprocess
import sys

import pytest
from helpers import one_line_error, tiny_backbone
from running import Running, picture

import promptvit
from promptvit.cli.app import main
from promptvit.cli.serving import task_name


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def runs(backbone, tmp_path_factory):
    folder, loaded = tmp_path_factory.mktemp("runs"), promptvit.load_backbone(backbone)
    for method in ("vpt-deep", "gapt", "full"):
        promptvit.create_model(loaded, method, 3).save_pretrained(folder / method / "adapter")
    return folder


@pytest.mark.parametrize(("given", "name"), [("runs/birds", "birds"), ("runs/birds/adapter", "birds"), ("x=runs/birds", "x")])
def test_a_task_is_named_by_its_folder_or_by_the_user(given, name):
    assert task_name(given)[0] == name


@pytest.mark.parametrize("given", ["runs/two words", "../x=runs/birds", "=runs/birds", ".=runs/birds"])
def test_a_name_that_is_no_part_of_an_address_is_refused(given):
    with pytest.raises(ValueError, match="task: .* NAME="):
        task_name(given)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["full"], "full"), (["vpt-deep", "gapt", "vpt-deep"], "vpt-deep"), (["vpt-deep", "--max-batch", "0"], "max_batch"),
        (["vpt-deep", "--max-images", "999"], "max_queue"), (["nowhere"], "nowhere"),
        (["vpt-deep", "--timeout", "inf"], "timeout"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(runs, backbone, capsys, arguments, words):
    given = [str(runs / word) if word[0].isalpha() else word for word in arguments]
    with pytest.raises(SystemExit) as ended:
        main(["serve", *given, "--port", "0", "--backbone", backbone])
    message = one_line_error(subprocess.CompletedProcess([], ended.value.code, "", capsys.readouterr().err))
    assert words in message


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process can answer")
def test_serves_and_ends_on_sigterm(runs, backbone):
    line = [sys.executable, "-m", "promptvit", "serve", f"birds={runs / 'vpt-deep'}", runs / "gapt", "--port", "0", "--backbone", backbone]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said = process.stdout.readline()
        assert said.startswith("serving 2 tasks at http://127.0.0.1:"), process.stderr.read()
        service = Running(int(said.rsplit(":", 1)[1]), process)
        assert [row["name"] for row in service.ask("/v1/tasks").json["tasks"]] == ["birds", "gapt"]
        assert service.predict("birds", picture()).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0 and process.stderr.read() == ""
