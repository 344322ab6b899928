"""A worker of the data loader that fails ends the run at once, with its reason; nothing finished is lost by it."""

import threading

import pytest
from faults.targets import CacheBuilding, Train, prepare

import promptvit
from promptvit.data import BadImage, Split


def run(shared, out):
    return promptvit.train(
        backbone=Train(shared).backbone, method="vpt-deep", data="folder", data_root=str(CacheBuilding(shared).images()), out=str(out),
        epochs=3, batch_size=8, num_prompts=2, augment="rrc-flip", resume=True,
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    prepare(folder)
    run(folder, folder / "whole")
    return folder


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("promptvit-data")]


@pytest.mark.parametrize("error", [MemoryError("no memory"), SystemExit("gone")])
def test_a_worker_that_dies(shared, tmp_path, monkeypatch, error):
    original, calls, lock = Split.image, [], threading.Lock()

    def image(self, index):
        with lock:
            calls.append(threading.current_thread())
            if len(calls) == 90:  # in the second epoch: each decodes every training image anew
                raise error
        return original(self, index)

    monkeypatch.setattr(Split, "image", image)
    with pytest.raises(type(error), match=str(error)):
        run(shared, tmp_path / "run")
    assert calls[89].name.startswith("promptvit-data") and workers() == []
    monkeypatch.setattr(Split, "image", original)
    assert Train(shared).finished(tmp_path / "run") >= {"epoch 1"}
    run(shared, tmp_path / "run")
    assert Train(shared).outcome(tmp_path / "run") == Train(shared).outcome(shared / "whole")


def test_an_image_that_goes_away_meanwhile_is_named(shared, tmp_path, monkeypatch):
    images = CacheBuilding(shared).images()
    gone, original, calls = images / "cat" / "3.png", Split.image, []
    content = gone.read_bytes()

    def image(self, index):
        calls.append(index)
        if len(calls) == 60:
            gone.unlink()
        return original(self, index)

    monkeypatch.setattr(Split, "image", image)
    try:
        with pytest.raises(BadImage, match=r"3\.png"):
            run(shared, tmp_path / "run")
    finally:
        gone.write_bytes(content)
    monkeypatch.setattr(Split, "image", original)
    run(shared, tmp_path / "run")
    assert Train(shared).outcome(tmp_path / "run") == Train(shared).outcome(shared / "whole")
