"""The package as such: silent and light to import, its names, its lock file, and a README that tells the truth."""

import ast
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import timm
import typer
from packaging.requirements import Requirement
from PIL import Image

import promptvit
from promptvit.cli.app import app
from promptvit.cli.training import parse_settings
from promptvit.experiments.spec import read_spec
from promptvit.training import resolve

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
MODULES = sorted((ROOT / "src" / "promptvit").rglob("*.py"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def python(code: str) -> str:
    """What a fresh process prints; it must say nothing else."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    return result.stdout


# Importing


def test_importing_prints_nothing_and_loads_nothing_heavy():
    loaded = set(python("import promptvit, promptvit.cli, sys; print(*{name.split('.')[0] for name in sys.modules})").split())
    assert "promptvit" in loaded
    assert not loaded & {"torch", "torchvision", "timm", "numpy", "PIL", "transformers", "accelerate", "matplotlib", "sklearn", "peft"}


def test_using_every_name_prints_nothing_and_touches_no_device_and_no_random_state():
    code = """if True:
        import numpy, torch
        before = numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads()
        import promptvit
        for name in promptvit.__all__:
            getattr(promptvit, name)
        assert before == (numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), torch.get_num_threads())
        assert not torch.cuda.is_initialized()
    """
    assert python(code) == ""


def test_public_names():
    assert all(getattr(promptvit, name) is not None for name in promptvit.__all__)
    assert promptvit.__all__ == sorted(promptvit.__all__) and len(set(promptvit.__all__)) == len(promptvit.__all__)
    contract = {"load_backbone", "create_model", "PromptedModel", "PromptBank", "train", "list_methods", "list_backbones", "list_datasets"}
    assert contract <= set(promptvit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'create_modle'"):
        _ = promptvit.create_modle


def test_the_version_is_said_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == promptvit.__version__ == metadata.version("promptvit")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT / "src" / "promptvit").as_posix())
def test_every_module_says_what_it_is(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring and len(docstring.split()) >= 2


# The lock file


def locked() -> list[Requirement]:
    return [Requirement(line) for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()]


def test_the_lock_holds_plain_versions_and_no_addresses():
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*==[0-9][0-9A-Za-z.]*( ; [^;]+)?", line), line
        assert "://" not in line and "@" not in line
    for requirement in locked():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and not requirement.extras


def test_the_lock_satisfies_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions: dict[str, set[str]] = {}
    for requirement in locked():
        versions.setdefault(requirement.name, set()).add(next(iter(requirement.specifier)).version)
    for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        wanted = Requirement(line)
        if wanted.name != "promptvit":
            assert versions.get(wanted.name.lower()), f"{wanted.name} is not locked"
            assert all(version in wanted.specifier for version in versions[wanted.name.lower()]), wanted


# The pages


def test_readme_opens_with_the_two_commands():
    first = FENCE.search(README)
    assert re.findall(r"^make (\w+)", first[2], re.MULTILINE) == ["demo", "test"]
    assert len(README[: first.start()].splitlines()) < 10
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    named = {word for page in PAGES for word in re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)}
    assert named <= set(targets)


def test_readme_python_block_runs(tmp_path, monkeypatch):
    """As it stands there, on a backbone and a folder that need no network and no patience."""
    (code,) = [text for language, text in FENCE.findall(README) if language == "python"]
    tiny = {'"vit_base_patch16_224.mae",': '"test_vit", pretrained=False, image_size=32,', "epochs=30": "epochs=1", "ts=50": "ts=1"}
    for ours, theirs in tiny.items():
        assert code.count(ours) == 1
        code = code.replace(ours, theirs)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    images = [Image.fromarray(array) for array in pixels]
    for index, image in enumerate(images):
        folder = tmp_path / "my_images" / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    names = {"image": images[0]}
    exec(compile(code, "README.md", "exec"), names)
    assert set(names["model"].predict(images).classes) <= {"cat", "dog"}


@pytest.mark.parametrize("call", re.findall(r"`[^`\n]*(promptvit\.create_model\([^`]*\))`", README))
def test_readme_calls_fit(call):
    """Arguments in the running text: they bind, and the method takes them."""
    node = ast.parse(call, mode="eval").body
    arguments = [ast.literal_eval(value) for value in node.args]
    bound = inspect.signature(promptvit.create_model).bind(*arguments, **{k.arg: ast.literal_eval(k.value) for k in node.keywords})
    assert bound.arguments["method"] in promptvit.list_methods() and is_backbone(bound.arguments["backbone"])


def test_python_names_on_the_pages_exist():
    for page in PAGES:
        for name in re.findall(r"\bpromptvit\.([a-zA-Z]\w*)(?=\()", page.read_text(encoding="utf-8")):
            assert hasattr(promptvit, name), f"{page.name}: promptvit.{name}"
    for name in re.findall(r"\bmodel\.(\w+)\(", README):
        assert hasattr(promptvit.PromptedModel, name), name


def is_backbone(name: str) -> bool:
    return name in promptvit.list_backbones() or ("." not in name and timm.is_model(name))


def command_lines() -> list[str]:
    lines = [line for page in PAGES for _, text in FENCE.findall(page.read_text(encoding="utf-8")) for line in text.splitlines()]
    return sorted({line for line in (line.removeprefix(".venv/bin/") for line in lines) if line.startswith("promptvit ")})


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_on_the_pages_parse(line):
    """Commands, options and their values exist; ``...`` stands for more of them."""
    name, *words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app).commands[name]
    if "..." in words:
        valid = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= valid
        return
    values = command.make_context(name, words).params
    if name == "train":
        given = {key: values[key] for key in ("backbone", "method", "data", "epochs", "lr", "shots") if values[key] is not None}
        if values["recipe"]:
            given = read_spec(values["recipe"]).single_run(given, faithful=values["faithful"])
        chosen = resolve(**given | parse_settings(values["settings"] or []))
        assert chosen.data in promptvit.list_datasets() and (is_backbone(chosen.backbone) or chosen.backbone.startswith("runs/"))


def test_there_are_command_lines_on_the_pages():
    assert {line.split()[1] for line in command_lines()} >= {"train", "evaluate", "predict", "list", "pretrain"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"
