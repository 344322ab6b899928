"""Nothing untrusted is unpickled or run: a scan of every call in the source, so that a new one has to be thought about here."""

import ast
from pathlib import Path

import pytest

import promptvit

SOURCE = Path(promptvit.__file__).parent
UNPICKLERS = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}
RUNNERS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "os.execv",
    "subprocess.run",
    "subprocess.Popen",
    "subprocess.call",
    "yaml.unsafe_load",
    "yaml.full_load",
    "torch.jit.load",
    "torch.hub.load",
    "torch.package.PackageImporter",
    "pty.spawn",
}
SAFE = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}
ALLOWED = {  # where and why
    ("backbones/checkpoints/raw.py", "import pickle"),  # for the name of the error that torch's own unpickler raises
    ("plain.py", "yaml.load"),  # a safe loader, after a look at the text
    ("experiments/published.py", "yaml.load"),  # a file of the package, every value as text
}


def faults(text: str, name: str) -> list[str]:
    """What a source file does that it must not."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [f"import {alias.name}" for alias in node.names if alias.name.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {*UNPICKLERS, "subprocess", "os", "yaml"}:
            found += [
                f"from {node.module} import {alias.name}"
                for alias in node.names
                if node.module != "os" or alias.name in ("system", "popen")
            ]
        elif isinstance(node, ast.Call):
            found += _call(node)
    return [f"{name}: {what}" for what in found if (name, what) not in ALLOWED]


def _call(node: ast.Call) -> list[str]:
    called = ast.unparse(node.func)
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    values = {key: value.value for key, value in given.items() if isinstance(value, ast.Constant)}
    bad = called in RUNNERS or called == "yaml.load" or called.startswith("pickle.") or values.get("shell") is True
    if called in SAFE:
        key, wanted = SAFE[called]
        bad = values.get(key) is not wanted
    if called.endswith(".extractall") and isinstance(node.func, ast.Attribute):
        bad = values.get("filter") != "data" and ast.unparse(node.func.value) != "opened"
    return [called] if bad else []


def test_the_source_unpickles_and_runs_nothing():
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 100
    assert [fault for file in files for fault in faults(file.read_text(encoding="utf-8"), file.relative_to(SOURCE).as_posix())] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "run(text, shell=True)",
        "from os import system",
        "torch.jit.load(path)",
        "tar.extractall(into)",
    ],
)
def test_the_scan_sees(line):
    assert faults(line, "new.py")


def test_every_loader_of_weights_is_in_a_few_files():
    """Whoever adds a reader of files that come from elsewhere adds a target to the campaign, too."""
    calls = (
        "torch.load(",
        "np.load(",
        "load_file(",
        "from_bytes(",
        "loadmat(",
        "Image.open(",
        "read_yaml(",
        "zipfile.ZipFile(",
        "tarfile.open(",
    )
    readers = {
        file.relative_to(SOURCE).as_posix()
        for file in SOURCE.rglob("*.py")
        if any(call in file.read_text(encoding="utf-8") for call in calls)
    }
    assert readers == {
        "adapter.py",
        "backbones/checkpoints/raw.py",
        "cli/training.py",  # values of --set
        "data/fetch/unpack.py",
        "data/images.py",
        "experiments/results.py",
        "experiments/spec.py",
        "hub.py",
        "plain.py",
        "states.py",
        "training/run.py",
    }
