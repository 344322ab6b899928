"""The adapter folder to the letter: what is in it, what is not, and that nothing but an intact one on its own backbone is used."""

import errno
import hashlib
import json
import pickle
import re
import shutil
import struct
from pathlib import Path

import pytest
import torch
from helpers import tiny_backbone
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import promptvit
from promptvit.adapter import CONFIG, WEIGHTS

RELAXED = settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
FIELDS = {
    "format_version", "method", "method_config", "reading", "backbone", "head", "head_options", "classes", "palette", "preprocessing",
    "metrics", "weights_sha256",
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def backbone(path):
    return promptvit.load_backbone(path)


@pytest.fixture(scope="module")
def intact(tmp_path_factory, backbone):
    """An adapter of the method with the most options; tests must not change it."""
    model = promptvit.create_model(backbone, "lspt", 3, classes=["ant", "bee", "été"], num_prompts=2, seed=5)
    return model.save_pretrained(tmp_path_factory.mktemp("saved") / "adapter", metrics={"split": "test", "accuracy": 0.5})


@pytest.fixture
def folder(intact, tmp_path):
    """A copy of the intact adapter, to be damaged."""
    return Path(shutil.copytree(intact, tmp_path / "adapter"))


def load(folder, backbone):
    return promptvit.PromptedModel.from_pretrained(folder, backbone=backbone)


def refusal(folder, backbone=None) -> str:
    with pytest.raises(ValueError) as refused:
        load(folder, backbone)
    message = str(refused.value)
    assert "\n" not in message and len(message) < 2000
    return message


def change(folder, **values):
    """Replace fields of the config."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(config | values), encoding="utf-8")


def write_weights(folder, content: bytes):
    """Replace the weights and make the config agree, as someone with bad intentions would."""
    (folder / WEIGHTS).write_bytes(content)
    change(folder, weights_sha256=hashlib.sha256(content).hexdigest())


def safetensors(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


# What it holds


def test_two_files_with_what_the_contract_says(intact, backbone):
    assert {file.name for file in intact.iterdir()} == {CONFIG, WEIGHTS}
    config = json.loads((intact / CONFIG).read_text(encoding="utf-8"))
    assert config.keys() == FIELDS
    assert (config["format_version"], config["method"], config["reading"], config["head"]) == (1, "lspt", "v1", "linear")
    assert config["method_config"]["num_prompts"] == 2 and config["method_config"]["cell"] == "lstm"
    assert config["backbone"] == {"name": backbone.name, "fingerprint": backbone.fingerprint, "load": None}
    assert config["classes"] == ["ant", "bee", "été"]
    assert config["preprocessing"]["size"] == [32, 32] and config["metrics"]["accuracy"] == 0.5
    names = load_file(intact / WEIGHTS).keys()
    assert names == {name for name, _ in load(intact, backbone).trainable_parameters()}
    assert all(name.startswith(("method.", "head.")) for name in names)


def test_the_same_run_anywhere_gives_the_same_bytes_without_a_path_or_a_time(path, tmp_path, monkeypatch):
    written = []
    for place in ("one", "two/deeper"):
        here = tmp_path / place
        shutil.copytree(path, here / "weights" / "tiny")
        monkeypatch.chdir(here)
        weights, out = str(here / "weights" / "tiny"), str(here / "secret-run")
        run = promptvit.train(backbone=weights, method="gapt", data="digits", shots=2, epochs=1, batch_size=20, out=out)
        written.append({file.name: file.read_bytes() for file in (run.run_dir / "adapter").iterdir()})
    assert written[0] == written[1] and written[0].keys() == {CONFIG, WEIGHTS}
    weights = written[0][WEIGHTS]
    header = weights[8 : 8 + struct.unpack("<Q", weights[:8])[0]]
    assert json.loads(header)["__metadata__"] == {"format": "pt"}
    for text in (written[0][CONFIG].decode(), header.decode()):
        assert not any(word in text for word in (str(tmp_path), str(Path.home()), "secret-run", "weights/tiny", "\\\\"))
        assert not re.search(r"\b20[2-9]\d-\d\d|\d\d:\d\d|seconds|\btime\b|\bdate\b", text), text
    assert b"\r" not in written[0][CONFIG]


def test_saved_and_loaded_computes_the_same(intact, backbone):
    source = promptvit.create_model(backbone, "lspt", 3, num_prompts=2, seed=5).eval()
    loaded = load(intact, backbone)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), source(images))
    assert loaded.classes == ["ant", "bee", "été"] and loaded.preprocessing == backbone.preprocessing and not loaded.training


def test_another_preprocessing_travels_with_the_adapter(backbone, tmp_path):
    own = backbone.preprocessing.model_copy(update={"resize": "direct", "mean": (0.1, 0.2, 0.3)})
    promptvit.create_model(backbone, "linear", 2, preprocessing=own).save_pretrained(tmp_path)
    assert load(tmp_path, backbone).preprocessing == own


def test_writing_that_fails_leaves_the_old_adapter_whole(folder, backbone, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    model = promptvit.create_model(backbone, "linear", 2)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("promptvit.files.os.fsync", full)
        model.save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("promptvit.adapter.files.write_json", lambda *_: full(_))  # between the two files
        model.save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


# Where it is found


def test_a_run_folder_and_an_adapter_folder(path, tmp_path):
    run = promptvit.train(backbone=path, method="linear", data="digits", shots=1, epochs=1, out=str(tmp_path / "run"))
    backbone = promptvit.load_backbone(path)
    images = torch.zeros(1, 3, 32, 32)
    expected = run.model(images)
    for place in (run.run_dir, str(run.run_dir), run.run_dir / "adapter"):
        assert torch.equal(load(place, backbone)(images), expected)


def test_a_public_backbone_is_loaded_again_by_its_name(tmp_path):
    backbone = promptvit.load_backbone("test_vit", pretrained=False, seed=3, image_size=32)
    model = promptvit.create_model(backbone, "vpt-shallow", 2, num_prompts=1).eval()
    model.save_pretrained(tmp_path)
    images = torch.ones(1, 3, 32, 32)
    assert torch.equal(promptvit.PromptedModel.from_pretrained(tmp_path)(images), model(images))
    change(tmp_path, backbone={"name": "test_vit", "fingerprint": "0" * 64, "load": {"name_or_path": "test_vti"}})
    assert CONFIG in refusal(tmp_path)


def test_a_local_backbone_has_to_be_given(folder):
    message = refusal(folder)
    assert "local file export" in message and "load_backbone(path" in message and "--backbone" in message


def test_hub_addresses(intact, backbone, monkeypatch):
    asked = []

    def download(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        return str(intact)

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.snapshot_download", download)
        assert load("somebody/bees", backbone).classes[1] == "bee"
    assert asked == [("somebody/bees", [CONFIG, WEIGHTS])], "nothing else is fetched"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal("somebody/nothing-here", backbone)
    assert "no folder somebody/nothing-here" in message and "hub" in message
    assert "no folder" in refusal("no/such/place", backbone)


# What is refused


def test_another_backbone_is_refused_with_both_fingerprints(folder, backbone):
    other = promptvit.load_backbone("test_vit", pretrained=False)
    message = refusal(folder, other)
    assert backbone.fingerprint in message and other.fingerprint in message and other.name in message


def test_another_image_size_is_refused(folder, path):
    message = refusal(folder, promptvit.load_backbone(path, image_size=64))
    assert "image_size=(32, 32)" in message and "(64, 64)" in message


@pytest.mark.parametrize("version", [2, 99, 0, "1", None, -1])
def test_other_format_versions_are_refused(version, folder, backbone):
    change(folder, format_version=version)
    message = refusal(folder, backbone)
    assert f"format version {version!r}" in message and CONFIG in message and "reads 1" in message


def test_another_reading_is_refused(folder, backbone):
    change(folder, reading="v2")
    message = refusal(folder, backbone)
    assert "reading v2" in message and "reading v1" in message and CONFIG in message


def test_missing_files_and_odd_places(folder, backbone, tmp_path):
    assert f"has no {CONFIG}" in refusal(folder / CONFIG, backbone)
    (tmp_path / "empty").mkdir()
    assert f"has no {CONFIG}" in refusal(tmp_path / "empty", backbone)
    (folder / WEIGHTS).unlink()
    assert f"has no {WEIGHTS}" in refusal(folder, backbone)
    (folder / WEIGHTS).mkdir()
    assert WEIGHTS in refusal(folder, backbone)
    (folder / CONFIG).unlink()
    assert f"has no {CONFIG}" in refusal(folder, backbone)
    (folder / CONFIG).mkdir()
    assert CONFIG in refusal(folder, backbone)


def test_weights_of_another_adapter_are_refused(folder, backbone, tmp_path):
    promptvit.create_model(backbone, "lspt", 3, num_prompts=2, seed=6).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / WEIGHTS, folder / WEIGHTS)
    assert "checksum" in refusal(folder, backbone)


def damaged(content: bytes):
    """A few bytes flipped, removed, put in, or everything replaced."""
    size = len(content)
    places = st.integers(0, size - 1)
    return st.one_of(
        st.builds(lambda i, b: content[:i] + bytes([content[i] ^ b]) + content[i + 1 :], places, st.integers(1, 255)),
        st.builds(lambda i: content[:i], places),
        st.builds(lambda i, b: content[:i] + b + content[i:], places, st.binary(min_size=1, max_size=9)),
        st.binary(max_size=200),
    )


@RELAXED
@given(data=st.data())
def test_any_damage_to_the_weights_is_noticed(data, intact, backbone, tmp_path):
    folder = Path(shutil.copytree(intact, tmp_path / "adapter", dirs_exist_ok=True))
    (folder / WEIGHTS).write_bytes(data.draw(damaged((intact / WEIGHTS).read_bytes())))
    assert WEIGHTS in refusal(folder, backbone)


@RELAXED
@given(data=st.data())
def test_damaged_weights_with_a_forged_checksum_are_at_most_other_numbers(data, intact, backbone, tmp_path):
    folder = Path(shutil.copytree(intact, tmp_path / "adapter", dirs_exist_ok=True))
    write_weights(folder, data.draw(damaged((intact / WEIGHTS).read_bytes())))
    used_or_refused(folder, backbone)


@pytest.mark.parametrize(
    "content",
    [
        b"", struct.pack("<Q", 2**63) + b"{}", safetensors(b"[" * 5000), safetensors({}),
        safetensors({"head.bias": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        safetensors({"head.bias": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"\0"),
        safetensors({"head.bias": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}, b"\0\0\0"),
        safetensors({"head.bias": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, b"\0" * 12),
    ],
)
def test_forged_weights_are_refused(content, folder, backbone):
    write_weights(folder, content)
    assert WEIGHTS in refusal(folder, backbone)


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_nothing_is_ever_unpickled(name, folder, backbone, tmp_path):
    canary = tmp_path / "executed"
    torch.save(Payload(canary), tmp_path / "zip")
    for content in (pickle.dumps(Payload(canary)), (tmp_path / "zip").read_bytes()):
        if name == WEIGHTS:
            write_weights(folder, content)
        else:
            (folder / CONFIG).write_bytes(content)
        assert name in refusal(folder, backbone)
    assert not canary.exists()


def used_or_refused(folder, backbone):
    """Either a model comes out, or a ValueError that names the file; nothing else."""
    try:
        model = load(folder, backbone)
    except ValueError as error:
        message = str(error)
        assert "\n" not in message and any(word in message for word in (CONFIG, WEIGHTS, "fingerprint", "image size")), message
    else:
        assert model.classes and not model.training


@RELAXED
@given(data=st.data())
def test_damage_to_the_config_is_refused_or_harmless(data, intact, backbone, tmp_path):
    """The config is for people too: another class name is a change, not damage. Whatever cannot be used names the file."""
    folder = Path(shutil.copytree(intact, tmp_path / "adapter", dirs_exist_ok=True))
    (folder / CONFIG).write_bytes(data.draw(damaged((intact / CONFIG).read_bytes())))
    used_or_refused(folder, backbone)


# sizes that fit the memory of no machine, or of every one
NUMBERS = st.one_of(st.integers(-3, 300), st.integers(2**62, 2**70), st.floats())
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: object, at: tuple = ()):
    """Where a JSON value can be replaced."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(inner, (*at, key))


@settings(RELAXED, max_examples=150)
@given(data=st.data())
def test_any_value_anywhere_in_the_config(data, intact, backbone, tmp_path):
    folder = Path(shutil.copytree(intact, tmp_path / "adapter", dirs_exist_ok=True))
    config = json.loads((intact / CONFIG).read_text(encoding="utf-8"))
    config["backbone"]["load"] = {"name_or_path": "test_vit", "pretrained": False, "arch": None, "image_size": 32, "pool": None, "seed": 0}
    *way, last = data.draw(st.sampled_from(list(places(config))))
    inner = config
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(VALUES)
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    used_or_refused(folder, backbone)


@settings(RELAXED, max_examples=20)
@given(text=st.text(max_size=30))
@example(text="")
@example(text="null")
@example(text="[]")
@example(text="{}")
@example(text="[" * 100_000)
@example(text='{"a":' * 900 + "1" + "}" * 900)
@example(text='{"format_version": ' + "9" * 5000 + "}")
@example(text='{"format_version": 1, "format_version": 1}')
@example(text='{"format_version": NaN}')
def test_a_config_that_is_none(text, intact, backbone, tmp_path):
    folder = Path(shutil.copytree(intact, tmp_path / "adapter", dirs_exist_ok=True))
    (folder / CONFIG).write_bytes(text.encode("utf-8", "surrogatepass"))
    assert CONFIG in refusal(folder, backbone)


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_deep_nesting_in_any_field(field, folder, backbone):
    nested: list = []
    for _ in range(400):
        nested = [nested]
    change(folder, **{field: {"x": nested} if field in ("metrics", "method_config") else nested})
    if field != "metrics":
        assert CONFIG in refusal(folder, backbone)
    change(folder, **{field: None})
    if field not in ("reading", "palette"):
        assert CONFIG in refusal(folder, backbone)


def test_unknown_fields_and_options_are_refused(folder, backbone):
    before = (folder / CONFIG).read_bytes()
    change(folder, surprise=1)
    assert "surprise" in refusal(folder, backbone)
    (folder / CONFIG).write_bytes(before)
    for options in ({"num_promts": 2}, {"classes": []}, {"backbone": "x"}, {"num_prompts": 2**66}):
        change(folder, method_config=options)
        assert CONFIG in refusal(folder, backbone)
    change(folder, method_config={"num_prompts": 3})
    assert WEIGHTS in refusal(folder, backbone), "the weights do not fit"
