"""Segmentation from settings to masks: training, resuming, scoring, predicting, sweeping; on miniatures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from data.test_segmentation_data import miniature_ade20k, miniature_folder
from helpers import CONTRACT_FILES, tiny_backbone
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

import promptvit
from promptvit.cli import main
from promptvit.data import MaskedSplit, load_segmentation
from promptvit.data.segmentation.masks import Coding, open_mask
from promptvit.experiments import segmentations
from promptvit.experiments.plan import cells
from promptvit.experiments.spec import Spec
from promptvit.experiments.sweep import run_sweep
from promptvit.experiments.use import evaluate_run
from promptvit.heads.windows import Inference
from promptvit.training import loop, resolve
from promptvit.training.distributed import average
from promptvit.training.optimization import poly
from promptvit.training.segmentation import Segmentation, evaluate_masks
from promptvit.training.segmentation_scores import SegmentationMeter

HEAD = {"head": "setr-naive", "head_options": {"channels": 8}}
RESULT_KEYS = {
    "method", "reading", "backbone", "fingerprint", "dataset", "seed", "data_seed", "split", "train_on", "select",
    "miou", "mean_accuracy", "accuracy", "val_miou", "val_mean_accuracy", "val_accuracy", "per_class_iou",
    "num_trainable", "num_total", "epochs", "train_seconds", "images_per_second", "settings_hash", "status",
}  # fmt: skip


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="module")
def ade(tmp_path_factory):
    return miniature_ade20k(tmp_path_factory.mktemp("ade") / "ADEChallengeData2016")


def run(backbone, root, out, method="gapt", data="ade20k", **settings):
    given = {"num_prompts": 2, "batch_size": 4, "epochs": 2, **HEAD, **settings}
    return promptvit.train(backbone=backbone, method=method, data=data, data_root=str(root), out=str(out), **given)


@pytest.fixture(scope="module")
def finished(backbone, ade, tmp_path_factory):
    """A finished run; tests must not change it."""
    return run(backbone, ade, tmp_path_factory.mktemp("finished") / "run")


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(folder):
    """Everything in a run folder that must not depend on time."""
    result = json.loads((folder / "result.json").read_text())
    found = [result, *lines(folder)]
    for record in found:
        for key in ("seconds", "train_seconds", "images_per_second"):
            record.pop(key, None)
    return found, {path.name: path.read_bytes() for path in sorted((folder / "adapter").iterdir())}


def command(capsys, *arguments):
    main(list(map(str, arguments)))
    return capsys.readouterr().out


def error(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    last = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 1 and last.startswith("error: ")
    return last


# Training


def test_a_run_folder_holds_what_the_contract_says(finished):
    folder = finished.run_dir
    assert {path.name for path in folder.iterdir()} == CONTRACT_FILES | {"predictions.png"}
    result = json.loads((folder / "result.json").read_text())
    assert result == finished.result and result.keys() == RESULT_KEYS
    assert result["status"] == "ok" and result["split"] == "test" and len(result["per_class_iou"]) == 150
    known = [value for value in result["per_class_iou"].values() if value is not None]
    assert result["miou"] == pytest.approx(sum(known) / len(known)) and 0 <= result["accuracy"] <= 1
    keys = ["epoch", "train_loss", "train_accuracy", "val_miou", "val_mean_accuracy", "val_accuracy", "lr", "seconds"]
    assert [list(line) for line in lines(folder)] == [keys] * 2
    assert result["val_miou"] == max(line["val_miou"] for line in lines(folder))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    wanted = {"task": "segmentation", "schedule": "poly", "warmup": 0.0, "augment": "scale-crop-flip-photo", **HEAD}
    assert wanted.items() <= config.items()
    adapter = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert adapter["head"] == "setr-naive" and len(adapter["palette"]) == 150 and adapter["metrics"]["miou"] == result["miou"]
    assert Image.open(folder / "predictions.png").size > (3 * 96, 3 * 96)


@pytest.mark.parametrize("method", ["linear", "vpt-deep", "spt-deep", "lspt", "sa2vp", "bias", "full"])
def test_every_kind_of_method_trains_on_masks(method, backbone, ade, tmp_path):
    options = {"init": "random", "init_images": 4} if method == "spt-deep" else {}
    prompts = {} if method in ("linear", "bias", "full", "sa2vp") else {"num_prompts": 2}
    given = {"backbone": backbone, "method": method, "data": "ade20k", "data_root": str(ade), "epochs": 1, "batch_size": 5, **HEAD}
    result = promptvit.train(**given, **prompts, **options, out=str(tmp_path / "run")).result
    assert result["status"] == "ok" and 0 <= result["miou"] <= 1


def test_training_learns(tmp_path):
    """Full tuning fits two classes told apart by colour, far above the share of the larger one."""
    for part in ("images", "masks"):
        (tmp_path / "own" / part).mkdir(parents=True)
    for number in range(10):
        mask = np.zeros((32, 32), dtype=np.uint8)
        mask[:, 2 * number + 4 :] = 1
        colours = np.array([[30, 30, 250], [250, 30, 30]], dtype=np.uint8)
        Image.fromarray(colours[mask]).save(tmp_path / f"own/images/{number}.png")
        Image.fromarray(mask).save(tmp_path / f"own/masks/{number}.png")
    (tmp_path / "own/classes.txt").write_text("blue\nred\n")
    given = {"method": "full", "lr": 3e-3, "head_lr": 1e-2, "iterations": 30, "augment": "none", "batch_size": 4, "head": "linear-seg"}
    finished = promptvit.train(
        backbone=tiny_backbone(tmp_path / "backbone"), data="folder", data_root=str(tmp_path / "own"), task="segmentation",
        out=str(tmp_path / "run"), select="last", **given,
    )  # fmt: skip
    assert finished.result["miou"] > 0.8 and finished.result["accuracy"] > 0.9


def test_resumed_equals_uninterrupted(backbone, ade, tmp_path, monkeypatch):
    """Batch norm's running statistics and the schedule too, also where the last epoch is cut."""
    settings = {"iterations": 8, "batch_size": 3, "epochs": None, "method": "vpt-deep", "dropout": 0.1}
    whole = run(backbone, ade, tmp_path / "whole", **settings)
    save = loop.RunFolder.save_state

    def dies(self, state, history):
        save(self, state, history)
        if len(history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop.RunFolder, "save_state", dies)
        run(backbone, ade, tmp_path / "run", **settings)
    resumed = run(backbone, ade, tmp_path / "run", resume=True, **settings)
    assert len(lines(resumed.run_dir)) == 3 and numbers(resumed.run_dir) == numbers(whole.run_dir)


def test_iterations_cut_the_last_epoch(backbone, ade, tmp_path, monkeypatch):
    """9 training images in batches of 2 are 5 steps; 12 iterations are 2 epochs and 2 steps."""
    rates, set_rate = [], loop.set_rate
    monkeypatch.setattr(loop, "set_rate", lambda optimizer, factor: rates.append(factor) or set_rate(optimizer, factor))
    result = run(backbone, ade, tmp_path / "run", iterations=12, batch_size=2, epochs=None, warmup=0.25).result
    assert rates == pytest.approx([0.25, 0.5, 0.75, *(((12 - step) / 9) ** 0.9 for step in range(3, 12))])
    assert result["epochs"] == 3 and rates == [poly(step, 12, 0.25) for step in range(12)]


def test_iterations_of_a_classifier(backbone, tmp_path):
    """30 images in batches of 16: 2 steps an epoch."""
    given = {"backbone": backbone, "method": "vpt-shallow", "data": "digits", "shots": 3, "batch_size": 16, "iterations": 3}
    assert promptvit.train(**given, out=str(tmp_path / "run")).result["epochs"] == 2


def test_a_search_run_never_opens_the_test_split(backbone, ade, tmp_path, monkeypatch):
    opened, pair = set(), MaskedSplit.pair
    monkeypatch.setattr(MaskedSplit, "pair", lambda split, index: opened.add(split.name) or pair(split, index))
    result = run(backbone, ade, tmp_path / "run", score="val").result
    assert opened == {"train", "val"} and result["split"] == "val" and result["miou"] == result["val_miou"]


def test_training_on_both_splits(backbone, ade, tmp_path):
    finished = run(backbone, ade, tmp_path / "run", train_on="train+val", select="last", epochs=1)
    assert finished.result["val_miou"] is None and lines(finished.run_dir)[0]["val_miou"] is None
    seconds = finished.result["train_seconds"]
    assert finished.result["images_per_second"] == pytest.approx(10 / seconds, rel=1e-2)


def test_the_best_epoch_has_its_own_running_statistics(backbone, ade, tmp_path, monkeypatch):
    values = iter([0.9, 0.1, 0.5])  # two epochs, then the test split

    def score(self, split):
        meter, right = SegmentationMeter(150), round(100 * next(values))
        meter.update(torch.tensor([0] * right + [1] * (200 - right)), torch.tensor([0] * 100 + [1] * 100))
        return meter.scores()

    monkeypatch.setattr(Segmentation, "score", score)
    run(backbone, ade, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint" / "state.pt", weights_only=True)
    counter = next(name for name in state["best"] if name.endswith("num_batches_tracked"))
    assert (int(state["best"][counter]), int(state["trained"][counter])) == (3, 6)
    assert torch.equal(state["best"][counter], load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")[counter])


def test_statistics_of_several_processes_are_averaged():
    class Two:
        num_processes = 2

        def reduce(self, values, how):
            return values + 3 * values  # the other process has three times as much

    statistics, counter = torch.tensor([1.0, 2.0]), torch.tensor(5)
    average(Two(), [statistics, counter])
    assert statistics.tolist() == [2.0, 4.0] and counter == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "segmentatoin"}, "unknown task 'segmentatoin'; did you mean segmentation"),
        ({"data": "digits"}, "head.*linear"),
        ({"data": "digits", "head": None, "inference": "whole"}, "inference: a setting of segmentation"),
        ({"data": "digits", "head": None, "stride": 8}, "stride: a setting of segmentation"),
        ({"data": "digits", "head": None, "head_options": {"channels": 8}}, "head_options: a setting of segmentation"),
        ({"head": "linear"}, "unknown head for segmentation 'linear'.*linear-seg"),
        ({"head": "setr-pop"}, "did you mean setr-pup"),
        ({"shots": 3}, "shots: a setting of classification"),
        ({"head_init": "vpt"}, "head_init: a setting of classification"),
        ({"resize": "direct"}, "resize: a setting of classification"),
        ({"epochs": 3, "iterations": 30}, "epochs=3 and iterations=30: give one"),
        ({"iterations": 0}, "iterations.*greater than or equal to 1"),
        ({"head_options": {"chanels": 8}}, "did you mean channels"),
        ({"stride": 64}, "stride: at most the window"),
        ({"pool": "cls"}, "pool"),
        ({"data_root": "/nowhere"}, "no such folder"),
        ({"augment": "crop-flop"}, "unknown augmentation 'crop-flop'"),
    ],
)
def test_bad_settings_are_one_clear_line(backbone, ade, tmp_path, change, message):
    settings = {"backbone": backbone, "method": "gapt", "data": "ade20k", "data_root": str(ade), "out": str(tmp_path / "run"), **HEAD}
    if change.get("data") == "digits":
        settings["head_options"] = None
    with pytest.raises(ValueError, match=message) as refused:
        promptvit.train(**settings | change)
    assert "\n" not in str(refused.value)


def test_the_task_follows_from_the_data():
    chosen = resolve(backbone="mae-tiny", method="gapt", data="proc/seg")
    assert (chosen.task, chosen.head, chosen.schedule, chosen.batch_size, chosen.epochs) == ("segmentation", "setr-pup", "poly", 16, 50)
    assert resolve(backbone="mae-tiny", method="gapt", data="folder").task == "classification"
    assert resolve(backbone="mae-tiny", method="gapt", data="folder", task="segmentation").head == "setr-pup"
    again = resolve(**chosen.model_dump())
    assert again.hash == chosen.hash


# Using a run


def test_evaluate_gives_the_runs_own_number(finished, capsys):
    scores = json.loads(command(capsys, "evaluate", finished.run_dir, "--json"))
    for key in ("miou", "mean_accuracy", "accuracy", "per_class_iou"):
        assert scores[key] == finished.result[key]
    assert scores["images"] == 3
    printed = command(capsys, "evaluate", finished.run_dir, "--split", "train")
    assert "ade20k, train: mIoU" in printed and "pixel accuracy" in printed and "of 9 images" in printed


def test_evaluation_modes_reach_the_model(finished, ade, monkeypatch):
    """Windows, scales and mirroring as asked for; an adapter with none of the run's settings slides over its crop."""
    seen = []  # of what was asked for
    monkeypatch.setattr(segmentations, "evaluate_masks", lambda model, split, how: seen.append(how) or evaluate_masks(model, split, how))
    run_dir = str(finished.run_dir)
    multi = evaluate_run(run_dir, inference={"scales": (0.5, 1.0), "flip": True})
    evaluate_run(run_dir, inference={"mode": "whole", "stride": None})
    evaluate_run(run_dir, inference={"stride": 16})
    loaded = evaluate_run(str(finished.run_dir / "adapter"), data="ade20k", data_root=str(ade), backbone=backbone_of(finished))
    window = (32, 32)
    assert seen == [
        Inference(window=window, scales=(0.5, 1.0), flip=True), Inference(window=window, mode="whole"),
        Inference(window=window, stride=(16, 16)), Inference(window=window),
    ]  # fmt: skip
    assert loaded["miou"] == finished.result["miou"] and 0 <= multi["miou"] <= 1


def backbone_of(finished):
    return yaml.safe_load((finished.run_dir / "config.yaml").read_text())["backbone"]


def test_predict_writes_masks_and_overlays(finished, ade, tmp_path, capsys):
    source = tmp_path / "photos"
    shutil.copytree(ade / "images" / "validation", source / "in" / "side")
    (source / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        main(["predict", str(finished.run_dir), str(source), "--out", str(tmp_path / "out"), "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(row) for row in rows] == [{"image", "error"}] + 3 * [{"image", "mask", "overlay", "top"}]
    model = finished.model
    palette = load_segmentation("ade20k", root=ade).palette
    for row, path in zip(rows[1:], sorted(source.rglob("side/*.jpg")), strict=True):
        image = Image.open(path)
        expected = model.predict(image.convert("RGB"))[0].numpy()
        mask = Image.open(row["mask"])
        assert row["mask"] == str(tmp_path / "out" / "in" / "side" / f"{path.stem}.png") and mask.mode == "P"
        np.testing.assert_array_equal(np.asarray(mask), expected)
        np.testing.assert_array_equal(open_mask(row["mask"], Coding(150)), expected)
        np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), palette[expected])
        assert Image.open(row["overlay"]).size == image.size
        top = row["top"][0]
        assert top["share"] == pytest.approx((expected == model.classes.index(top["class"])).mean()) and len(row["top"]) <= 3


def test_predict_in_words(finished, ade, tmp_path, capsys):
    image = next((ade / "images" / "validation").iterdir())
    printed = command(capsys, "predict", finished.run_dir, image, "--out", tmp_path / "out", "--inference", "whole", "--top-k", "1")
    assert printed.startswith(f"{image}: ") and printed.strip().endswith(f"-> {tmp_path / 'out' / image.stem}.png") and "%" in printed


def test_what_cannot_be_is_refused(finished, ade, tmp_path, capsys):
    images = ade / "images" / "validation"
    assert "out: missing" in error(capsys, "predict", finished.run_dir, images)
    assert "out: missing" in error(capsys, "predict", finished.run_dir, images, "--json")
    wrong = error(capsys, "predict", finished.run_dir, images, "--out", tmp_path, "--inference", "hole")
    assert "inference mode" in wrong and "'slide' or 'whole'" in wrong
    assert "stride" in error(capsys, "evaluate", finished.run_dir, "--stride", 33)
    assert "scales" in error(capsys, "evaluate", finished.run_dir, "--scales", "1,big")
    (tmp_path / "one").mkdir()
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (20, 20)).save(tmp_path / "one" / name)
    assert "would both be" in error(capsys, "predict", finished.run_dir, tmp_path / "one", "--out", tmp_path / "out")
    own = error(capsys, "predict", finished.run_dir, tmp_path / "one" / "a.png", "--out", tmp_path / "one")
    assert "would replace the image" in own and not (tmp_path / "out").exists()
    assert "other classes" in error(capsys, "evaluate", finished.run_dir, "--data", "proc/seg")
    assert "unknown segmentation data set 'digits'" in error(capsys, "evaluate", finished.run_dir, "--data", "digits")


def test_no_overlay_replaces_an_image(tmp_path):
    images = {tmp_path / name: Path(name) for name in ("a.jpg", "a-overlay.jpg")}
    with pytest.raises(ValueError, match=r"out: the overlay of .*a.jpg would replace the image .*a-overlay.jpg; choose another folder"):
        segmentations.targets_of(images, tmp_path)
    elsewhere = segmentations.targets_of(images, tmp_path / "out")
    assert list(elsewhere.values()) == [tmp_path / "out" / "a.png", tmp_path / "out" / "a-overlay.png"]


def test_a_classifier_knows_no_masks(backbone, tmp_path, capsys):
    given = {"backbone": backbone, "method": "linear", "data": "digits", "shots": 1, "epochs": 1}
    folder = promptvit.train(**given, out=str(tmp_path / "run")).run_dir
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    assert "leave --out away" in error(capsys, "predict", folder, tmp_path / "a.png", "--out", tmp_path / "out")
    assert "flip: only for segmentation" in error(capsys, "predict", folder, tmp_path / "a.png", "--flip")
    assert "scales, flip: only for segmentation" in error(capsys, "evaluate", folder, "--flip", "--scales", "0.5,1")


def test_a_bad_mask_ends_the_run_by_name(backbone, ade, tmp_path, capsys):
    root = shutil.copytree(ade, tmp_path / "copy")
    bad = root / "annotations" / "training" / "ADE_train_00000003.png"
    Image.fromarray(np.full((12, 19), 151, dtype=np.uint8)).save(bad)
    line = ["--data", "ade20k", "--data-root", root, "--backbone", backbone, "--method", "gapt", "--epochs", 1, "--head", "linear-seg"]
    assert "ADE_train_00000003.png" in error(capsys, "train", *line, "--out", tmp_path / "run")


def test_train_on_the_command_line(backbone, tmp_path, capsys):
    root = miniature_folder(tmp_path / "own")
    line = ["--backbone", backbone, "--method", "vpt-shallow", "--num-prompts", 1, "--task", "segmentation", "--head", "linear-seg"]
    line += ["--data", "folder", "--data-root", root, "--set", "iterations=1", "--set", "batch_size=2"]
    printed = command(capsys, "train", *line, "--out", tmp_path / "run")
    assert "mIoU" in printed and "accuracy" not in printed
    palette = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())["palette"]
    assert palette[1] == [0, 16, 255], "the folder's own colour"


# Sweeps


def test_a_sweep_selects_on_miou(backbone, ade, tmp_path):
    settings = {**HEAD, "iterations": 2, "batch_size": 4, "num_prompts": 2}
    methods = {"gapt": {"grid": {"lr": [0.1, 0.01]}}}
    spec = Spec(name="tiny", backbone=backbone, tasks=["ade20k"], settings=settings, seeds=[1], methods=methods)
    (cell,) = cells(spec, tmp_path / "runs", ade)
    by_hash = {run.hash: {"miou": miou, "accuracy": 1 - miou} for run, miou in zip(cell.search, (0.2, 0.4), strict=True)}
    assert cell.choice(by_hash) == 1
    assert cell.choice({name: {"miou": None, "accuracy": None} for name in by_hash}) is None
    done = run_sweep(spec, tmp_path / "sweep", jobs=1, data_root=ade, console=Console(quiet=True))
    (row,) = json.loads((tmp_path / "sweep" / "summary.json").read_text())["rows"]
    assert not done.missing() and row["dataset"] == "ade20k" and 0 <= row["miou"] <= 1 and row["seed"] == 1
    searched = [json.loads(path.read_text()) for path in (tmp_path / "sweep" / "runs").glob("*/result.json")]
    assert sorted(result["split"] for result in searched) == ["test", "val", "val"]
