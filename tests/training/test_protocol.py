"""Which images a run may see when: what is trained on, what selects, what is scored; and the authors' quirks by name."""

import json

import pytest
from helpers import scripted_scores, tiny_backbone

import promptvit
from promptvit.data import load_dataset
from promptvit.data.base import Split
from promptvit.training import resolve
from promptvit.training.classification import Classification
from promptvit.training.optimization import epoch_schedule


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def scored(monkeypatch):
    """Names of the splits that were scored, in order."""
    names, score = [], Classification.score
    monkeypatch.setattr(Classification, "score", lambda self, split: names.append(split) or score(self, split))
    return names


def run(backbone, out, **settings):
    given = {"method": "vpt-shallow", "shots": 3, "epochs": 3, "batch_size": 16, **settings}
    return promptvit.train(backbone=backbone, data="digits", out=str(out), **given)


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_search_run_never_opens_the_test_split(backbone, tmp_path, scored, monkeypatch):
    """Not one image of it is decoded, not only scored."""
    opened, image = set(), Split.image
    monkeypatch.setattr(Split, "image", lambda split, index: opened.add(split.name) or image(split, index))
    result = run(backbone, tmp_path / "run", score="val").result
    assert scored == ["val"] * 4 and "test" not in opened
    assert result["split"] == "val" and result["accuracy"] == result["val_accuracy"]


def test_the_default_scores_test_once(backbone, tmp_path, scored):
    result = run(backbone, tmp_path / "run").result
    assert scored == ["val", "val", "val", "test"]
    assert (result["split"], result["select"], result["train_on"]) == ("test", "best", "train")


def test_training_on_both_splits(backbone, tmp_path, scored):
    data = load_dataset("digits", shots=3)
    both = data.splits["train"].joined(data.splits["val"])
    assert len(both) == 30 + 300 and both.name == "train"
    assert both.identifiers == data.splits["train"].identifiers + data.splits["val"].identifiers
    assert both.labels[30:] == data.splits["val"].labels and both.image(31).tobytes() == data.splits["val"].image(1).tobytes()
    finished = run(backbone, tmp_path / "run", train_on="train+val", select="last")
    assert scored == ["test"]
    assert finished.result["val_accuracy"] is None and finished.result["train_on"] == "train+val"
    assert [line["val_accuracy"] for line in lines(finished.run_dir)] == [None] * 3
    seconds = finished.result["train_seconds"]
    assert finished.result["images_per_second"] == pytest.approx(3 * 330 / seconds, rel=1e-2)


@pytest.mark.parametrize(("settings", "message"), [({"select": "best"}, "select=last"), ({"select": "last", "score": "val"}, "score=test")])
def test_validation_images_cannot_be_both(settings, message):
    with pytest.raises(ValueError, match=message):
        resolve(backbone="mae-tiny", method="linear", data="digits", train_on="train+val", **settings)


def test_selection_on_test_only_by_that_name_and_stamped(backbone, tmp_path, monkeypatch):
    scripted = {"val": iter([0.1, 0.2, 0.9]), "test": iter([0.3, 0.8, 0.4, 0.8])}
    monkeypatch.setattr(Classification, "score", lambda self, split: scripted_scores(next(scripted[split])))
    finished = run(backbone, tmp_path / "run", select="best-on-test")
    assert finished.result["select"] == "best-on-test"
    assert finished.result["accuracy"] == 0.8 and finished.result["val_accuracy"] == 0.2, "of the epoch that test chose"
    adapter = json.loads((finished.run_dir / "adapter" / "adapter_config.json").read_text())
    assert adapter["metrics"]["select"] == "best-on-test"


def test_epoch_schedule_is_the_published_one(backbone, tmp_path):
    """Epoch 1 at rate 0, epoch 11 at the peak of 100, half a cosine after it (facts of VPT's code)."""
    values = [epoch_schedule(epoch, 100, 0.1) for epoch in range(100)]
    assert values[0] == 0 and values[1] == pytest.approx(0.1) and values[10] == 1.0 and max(values) == 1.0
    assert values[55] == pytest.approx(0.5) and values[99] == pytest.approx(3.046e-4, rel=1e-3)
    finished = run(backbone, tmp_path / "run", schedule="epoch", warmup=0.4, epochs=5, lr=0.1, shots=6)
    rates = [line["lr"] for line in lines(finished.run_dir)]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.075, 0.025])


def test_preprocessing_policy_is_stored(backbone, tmp_path):
    finished = run(backbone, tmp_path / "run", epochs=1, normalization="half", resize="direct", interpolation="bilinear", crop_pct=0.5)
    stored = json.loads((finished.run_dir / "adapter" / "adapter_config.json").read_text())["preprocessing"]
    assert stored == {
        "size": [32, 32], "resize": "direct", "crop_pct": 0.5, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3,
    }


def test_the_hash_is_known_before_the_run(backbone, tmp_path):
    chosen = resolve(backbone=backbone, method="gapt", data="digits", shots=3, epochs=1, out=str(tmp_path / "run"))
    known = chosen.completed(load_dataset("digits", shots=3))
    assert promptvit.train(**chosen.model_dump()).result["settings_hash"] == known.hash
    assert known.hash == known.completed(load_dataset("digits")).hash
