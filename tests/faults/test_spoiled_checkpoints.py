"""A checkpoint that is not what was written is refused: by name, with a way on, and with everything left as it is."""

import hashlib
import random
import shutil

import pytest
import torch
from faults.targets import Pretrain, Train, _digest, prepare
from pretraining.tiny import settings
from safetensors.torch import save

import promptvit
from promptvit import adapter, states
from promptvit.pretraining.loop import pretrain


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    prepare(folder)
    Train(folder).work(folder / "run")
    Pretrain(folder).work(folder / "pretrained")
    return folder


@pytest.fixture
def run(shared, tmp_path):
    """A copy of a finished run, to be spoilt; its config names the folder it lies in."""
    folder = shutil.copytree(shared / "run", tmp_path / "run")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(str(shared / "run"), str(folder)))
    return folder


def contents(folder):
    visible = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in visible}


def refused(work, folder, path):
    """``work`` names ``path`` and a way on, and changes nothing."""
    before = contents(folder)
    with pytest.raises(ValueError) as caught:
        work()
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and "--resume" in message
    assert contents(folder) == before
    return message


def spoilt(content: bytes):
    """Name and bytes of files that are no checkpoint any more."""
    yield "empty", b""
    yield "text", b"not a checkpoint"
    yield "zeros", bytes(len(content))
    yield "weights of something else", save({"a": torch.zeros(3)})
    for share in (0.01, 0.5, 0.99):
        yield f"cut at {share:.0%}", content[: int(len(content) * share)]


def test_a_damaged_state_of_a_run(shared, run):
    state = run / "checkpoint" / "state.pt"
    for name, content in spoilt(state.read_bytes()):
        state.write_bytes(content)
        assert "is damaged" in refused(lambda: Train(shared).work(run), run, state), name
    state.unlink()
    Train(shared).work(run)
    assert Train(shared).outcome(run) == Train(shared).outcome(shared / "run"), "the way on that the message names"


def test_a_damaged_checkpoint_of_pretraining(shared, tmp_path):
    out = shutil.copytree(shared / "pretrained", tmp_path / "out")
    path = out / "checkpoint.pt"
    for name, content in spoilt(path.read_bytes()):
        path.write_bytes(content)
        assert "is damaged" in refused(lambda: Pretrain(shared).work(out), out, path), name
    path.unlink()
    Pretrain(shared).work(out)
    assert Pretrain(shared).outcome(out) == Pretrain(shared).outcome(shared / "pretrained")


def test_no_flipped_bit_is_loaded(shared, tmp_path):
    """Either it is found, or it lies where nothing is read."""
    content = (shared / "run" / "checkpoint" / "state.pt").read_bytes()
    whole, draw, found = _digest(states.load(shared / "run" / "checkpoint" / "state.pt")), random.Random(0), 0
    for _ in range(300):
        bad = bytearray(content)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        (tmp_path / "state.pt").write_bytes(bad)
        try:
            loaded = states.load(tmp_path / "state.pt")
        except ValueError as error:
            assert f"{tmp_path / 'state.pt'} is damaged" in str(error)
            found += 1
        else:
            assert _digest(loaded) == whole
    assert found > 100


def test_a_state_of_something_else(shared, run):
    state = run / "checkpoint" / "state.pt"
    whole = torch.load(state, weights_only=True)
    others = {
        "nothing": {},
        "a list": [1, 2],
        "too little": {key: value for key, value in whole.items() if key != "optimizer"},
        "another shape": {**whole, "trained": {key: torch.zeros(5, 7) for key in whole["trained"]}},
        "another method": {**whole, "trained": {"method.x": torch.zeros(1)}},
        "another kind": {**whole, "history": 3},
        "pre-training's": torch.load(shared / "pretrained" / "checkpoint.pt", weights_only=True),
    }
    for name, content in others.items():
        torch.save(content, state)
        assert "checkpoint" in refused(lambda: Train(shared).work(run), run, state), name


def test_a_checkpoint_of_something_else(shared, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for content in ([1], {"weights": torch.zeros(2)}, {"settings": settings("mae", steps=6, batch_size=4).model_dump(), "model": {}}):
        torch.save(content, out / "checkpoint.pt")
        refused(lambda: pretrain(settings("mae", steps=6, batch_size=4), out, resume=True), out, out / "checkpoint.pt")


@pytest.mark.parametrize("content", [b"", b"{", b"backbone: [", b"a: 1", b"\xff\xfe", b"- 1"])
def test_a_damaged_config_of_a_run(shared, run, content):
    (run / "config.yaml").write_bytes(content)
    before = contents(run)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        Train(shared).work(run)
    assert contents(run) == before


def test_a_damaged_result_is_made_again(shared, run):
    expected = Train(shared).outcome(shared / "run")
    for content in (b"", b"{", b"[]"):
        (run / "result.json").write_bytes(content)
        Train(shared).work(run)
        assert Train(shared).outcome(run) == expected


def test_an_adapter_that_was_being_replaced_is_the_old_or_the_new_one(tmp_path, shared):
    """What a kill between the two files leaves: the config is complete beside its weights, but not yet under its name."""
    backbone = promptvit.load_backbone(str(shared / "backbone" / "export"))
    old, new = (promptvit.create_model(backbone, "vpt-deep", 3, num_prompts=2, seed=seed) for seed in (0, 1))
    old.save_pretrained(tmp_path / "a")
    new.save_pretrained(tmp_path / "b")
    shutil.copy(tmp_path / "b" / adapter.CONFIG, tmp_path / "a" / adapter.NEXT)
    assert _digest(adapter.load(tmp_path / "a", backbone).learned()) == _digest(old.learned())
    shutil.copy(tmp_path / "b" / adapter.WEIGHTS, tmp_path / "a" / adapter.WEIGHTS)
    assert _digest(adapter.load(tmp_path / "a", backbone).learned()) == _digest(new.learned())
    (tmp_path / "a" / adapter.NEXT).write_bytes(b"[")
    with pytest.raises(ValueError, match="checksum"):
        adapter.load(tmp_path / "a", backbone)
