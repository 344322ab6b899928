"""The packaged recipes: every run resolves, numbers are the papers', quirks stay where they belong; and training with one."""

import json
import re
from importlib import resources
from pathlib import Path

import pytest
import yaml
from helpers import tiny_backbone

import promptvit
from promptvit.cli import main
from promptvit.experiments.spec import list_recipes, read_spec
from promptvit.training import resolve

OWN = ("proc", "claims", "curves", "backbones")  # sweeps of ours, no paper's settings
PAPERS = [name for name in list_recipes() if not name.startswith(OWN)]
QUIRKS = {"schedule": "epoch", "head_init": "vpt", "fresh_norm": True, "select": "best-on-test", "precision": "fp16"}
DOC = Path(__file__).parents[2] / "docs" / "recipes.md"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def train(backbone, tmp_path, capsys):
    """``promptvit train --recipe RECIPE`` on a few digits with a tiny backbone: its result, config and messages."""

    def run(recipe, *arguments):
        line = ["train", "--recipe", recipe, "--backbone", backbone, "--data", "digits", "--shots", "3", "--epochs", "2", "--json"]
        main([*line, "--out", str(tmp_path / "run"), *arguments])
        out, err = capsys.readouterr()
        return json.loads(out), yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()), err

    return run


def fails(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["train", *map(str, arguments)])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and line.startswith("error: ")
    return line


def header(name):
    text = resources.files("promptvit.recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    lines = [line.removeprefix("#").strip() for line in text[: text.index("name:")].splitlines()]
    return lines, " ".join(lines)


def settings(name, task, **keywords):
    spec = read_spec(name)
    return spec.settings_of(next(iter(spec.methods)), task, **keywords)


def test_there_is_a_recipe_for_every_method_and_suite_that_its_paper_ran():
    on_all = ("vpt-shallow", "vpt-deep", "spt-shallow", "spt-deep", "linear", "full")
    for suite in ("fgvc", "vtab"):
        assert {f"{method}-{suite}-{weights}" for method in on_all for weights in ("sup", "mae", "mocov3")} <= set(PAPERS)
        assert {f"{method}-{suite}-{weights}" for method in ("gapt", "lspt") for weights in ("mae", "mocov3")} <= set(PAPERS)
    on_masks = ("vpt-shallow", "vpt-deep", "gapt", "lspt")
    assert {f"{method}-ade20k-{weights}" for method in on_masks for weights in ("mae", "mocov3")} <= set(PAPERS)
    assert {f"sa2vp-{suite}-sup" for suite in ("fgvc", "vtab", "hta")} <= set(PAPERS)


@pytest.mark.parametrize("name", PAPERS)
def test_every_run_of_a_recipe_resolves(name):
    spec = read_spec(name)
    ((label, entry),) = spec.methods.items()
    assert spec.name == name == f"{label}-{spec.tasks}-{name.split('-')[-1]}"
    assert set(entry.tasks) <= set(spec.task_names()) and set(entry.grid) <= set(spec.settings)
    for task in spec.task_names():
        for faithful in (False, True):
            for point in {str(p): p for p in (spec.points(label, task)[0], spec.points(label, task)[-1])}.values():
                chosen = resolve(**spec.settings_of(label, task, faithful=faithful, **point), train_on=spec.final, seed=spec.seeds[0])
                if chosen.task == "classification":
                    assert chosen.epochs == 100 and chosen.resize
                else:
                    assert (chosen.iterations, chosen.schedule, chosen.image_size, chosen.head) == (160_000, "poly", 512, "setr-pup")
                assert chosen.data == task and chosen.normalization != "weights"
                promptvit.methods.method_config(label, chosen.options)
            resolve(**spec.single_run({"data": task}, faithful=faithful))


@pytest.mark.parametrize("name", PAPERS)
def test_quirks_are_named_and_only_with_faithful(name):
    spec = read_spec(name)
    ((label, entry),) = spec.methods.items()
    assert spec.quirks.items() <= QUIRKS.items()
    searched = [{key: value} for key, values in entry.grid.items() for value in values]
    for place in (spec.settings, entry.settings, *entry.tasks.values(), *searched):
        assert not place.items() & QUIRKS.items()
    for task in spec.task_names():
        sound, faithful = (spec.settings_of(label, task, faithful=faithful) for faithful in (False, True))
        assert faithful == sound | spec.quirks
        assert resolve(**spec.single_run({"data": task})).select == ("last" if spec.final == "train+val" else "best")
    for quirk in spec.quirks:
        assert f"`{quirk}: " in DOC.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAPERS)
def test_the_header_says_what_it_is(name):
    lines, text = header(name)
    spec = read_spec(name)
    assert f"promptvit sweep {name} --data-root DATA" in lines
    assert "Assumed: " in text
    if spec.published is None:
        assert "Published: not found." in text
        return
    numbers = text.split("Published: ")[1].split(" (")[0]
    printed = re.findall(r"(Natural|Specialized|Structured|mean|mIoU)(?: of \d+ \w+)? (\d\d\.\d\d)", numbers)
    assert {key: float(value) for key, value in printed} == spec.published.means
    assert spec.published.source in text and re.search(r"\[[PC2]\]", spec.published.source)


def test_the_table_in_the_docs_is_the_recipes():
    rows = dict(re.findall(r"^\| `([\w-]+)` \|(.*)\|$", DOC.read_text(encoding="utf-8"), re.MULTILINE))
    assert set(PAPERS) <= rows.keys()
    for name in PAPERS:
        spec = read_spec(name)
        ((label, _),) = spec.methods.items()
        runs = 0
        for task in spec.task_names():
            points = len(spec.points(label, task))
            runs += (points if points > 1 else 0) + len(spec.seeds)
        means = spec.published.means if spec.published else {}
        assert f" {spec.final} | {runs} |" in rows[name], name
        assert all(f"{value:.2f}" in rows[name] for value in means.values()) and ("not found" in rows[name]) == (not means)


@pytest.mark.parametrize(
    ("name", "task", "expected"),
    [
        # GaPT, Table 5
        ("gapt-fgvc-mae", "fgvc/cub", {"lr": 0.1, "batch_size": 64, "num_prompts": 100, "gate_init": 5, "weight_decay": 0.0}),
        ("gapt-fgvc-mae", "fgvc/dogs", {"lr": 0.5, "gate_init": 15}),
        ("gapt-vtab-mae", "vtab/smallnorb_azi", {"lr": 0.1, "batch_size": 128, "num_prompts": 1, "gate_init": 20}),
        ("gapt-vtab-mocov3", "vtab/oxford_iiit_pet", {"lr": 1.0, "batch_size": 64, "num_prompts": 100, "gate_init": 1}),
        ("gapt-vtab-mocov3", "vtab/caltech101", {"lr": 2.5, "num_prompts": 10, "gate_init": 4, "optimizer": "sgd", "momentum": 0.9}),
        # SPT's README
        ("spt-deep-fgvc-mae", "fgvc/cub", {"lr": 0.05, "weight_decay": 0.01, "head_weight_decay": 0.5, "num_prompts": 20}),
        ("spt-deep-fgvc-sup", "fgvc/dogs", {"lr": 0.001, "head_weight_decay": 3.0, "augment": "rrc-flip", "interpolation": "bicubic"}),
        ("spt-shallow-vtab-mocov3", "vtab/dtd", {"num_prompts": 100, "init_images": 1, "resize": "short", "crop_pct": 1.0}),
        # SA2VP's README
        ("sa2vp-vtab-sup", "vtab/svhn", {"rank": 16, "scale": 0.5, "lr": 0.001, "normalization": "half", "batch_size": 40}),
        ("sa2vp-vtab-sup", "vtab/clevr_count", {"rank": 32, "scale": 1.5, "lr": 0.0005, "weight_decay": 0.0001}),
        ("sa2vp-vtab-sup", "vtab/dsprites_ori", {"rank": 16, "scale": 0.1}),
        ("sa2vp-fgvc-sup", "fgvc/cars", {"rank": 64, "scale": 1.5, "maps": 1, "augment": "crop-flip", "crop_pct": 0.875}),
        ("sa2vp-hta-sup", "hta/dtd", {"rank": 64, "scale": 0.1}),
        # VPT's code: base rate 1 at 256 images is 0.5 at 128
        ("vpt-deep-vtab-sup", "vtab/cifar", {"lr": 0.5, "dropout": 0.1, "resize": "direct", "interpolation": "bilinear"}),
        ("vpt-shallow-fgvc-mocov3", "fgvc/cub", {"num_prompts": 100, "dropout": 0.0, "normalization": "imagenet", "augment": "crop-flip"}),
        ("full-vtab-mae", "vtab/cifar", {"optimizer": "adamw", "batch_size": 384, "lr": 0.0005 * 1.5, "warmup": 0.05}),
        ("linear-vtab-sup", "vtab/cifar", {"optimizer": "sgd", "batch_size": 1024, "lr": 4.0}),
        # GaPT, Table 5, and its ADE20K table
        ("gapt-ade20k-mae", "ade20k", {"lr": 0.001, "batch_size": 16, "num_prompts": 100, "gate_init": 10}),
        ("vpt-deep-ade20k-mocov3", "ade20k", {"num_prompts": 10, "head_options": {"aux_blocks": [5, 9]}}),
        # ours, after GaPT: its gates must stay at LSPT's own start
        ("lspt-fgvc-mae", "fgvc/dogs", {"lr": 0.5, "num_prompts": 100, "batch_size": 64}),
    ],
)
def test_numbers_of_the_papers(name, task, expected):
    given = settings(name, task)
    for key, value in expected.items():
        assert given[key] == (pytest.approx(value) if isinstance(value, float) else value)
    if name.startswith("lspt"):
        assert "gate_init" not in given


def test_grids_seeds_and_splits_of_the_papers():
    vtab, fgvc = read_spec("vpt-deep-vtab-sup"), read_spec("vpt-deep-fgvc-sup")
    assert (len(vtab.points("vpt-deep", "vtab/cifar")), len(fgvc.points("vpt-deep", "fgvc/cub"))) == (40, 36)
    assert (vtab.seeds, vtab.final, fgvc.final) == ([42, 44, 82, 100, 800], "train+val", "train")
    assert {point["weight_decay"] for point in vtab.points("vpt-deep", "vtab/cifar")} == {0.01, 0.001, 0.0001, 0.0}
    largest = vtab.settings_of("vpt-deep", "vtab/cifar", lr=50.0, weight_decay=0.0)
    assert largest["lr"] == 25.0
    assert len(read_spec("spt-deep-fgvc-mae").points("spt-deep", "fgvc/cub")) == 1, "known, so not searched"
    assert read_spec("vpt-deep-vtab-mae").quirks["fresh_norm"] and "fresh_norm" not in read_spec("vpt-deep-vtab-mocov3").quirks


def test_a_gate_starts_at_minus_the_published_number(backbone):
    options = {key: settings("gapt-fgvc-mae", "fgvc/cub")[key] for key in ("num_prompts", "gate_init", "dropout")}
    model = promptvit.create_model(promptvit.load_backbone(backbone), "gapt", 3, **options)
    assert model.method.gate_logits.tolist() == [-5.0] and tuple(model.method.prompts.shape) == (100, 32)


def test_training_with_a_recipe_is_sound(train):
    result, config, err = train("vpt-deep-fgvc-mae", "--num-prompts", "2", "--set", "batch_size=8")
    assert (config["method"], config["data"], config["epochs"], config["seed"]) == ("vpt-deep", "digits", 2, 42)
    assert (config["optimizer"], config["normalization"], config["interpolation"]) == ("sgd", "imagenet", "bilinear")
    assert config["lr"] == 1.0 * 8 / 256, "the rate follows the batch size"
    assert (config["schedule"], config["head_init"], config["options"]["fresh_norm"], config["select"]) == ("step", "small", False, "best")
    assert (result["status"], result["train_on"], result["select"]) == ("ok", "train", "best")
    assert "recipe vpt-deep-fgvc-mae: vpt-deep on digits" in err and "searched by a sweep: lr 0.03125, weight_decay 0.0001" in err


def test_training_with_a_faithful_recipe_has_its_quirks(train, tmp_path):
    own = ("--lr", "0.3", "--set", "batch_size=8", "--num-prompts", "2", "--seed", "7")
    result, config, _ = train("vpt-deep-vtab-mae", "--faithful", *own)
    assert config["lr"] == 0.3 and result["seed"] == 7, "what is given wins and is not scaled"
    assert (config["schedule"], config["head_init"], config["options"]["fresh_norm"]) == ("epoch", "vpt", True)
    rates = [json.loads(line)["lr"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rates[0] == 0 < rates[1]
    assert (result["train_on"], result["select"], result["val_accuracy"]) == ("train+val", "last", None)


def test_any_setting_of_a_run_can_be_given_beside_a_recipe():
    assert read_spec("gapt-fgvc-mae").single_run({"data": "fgvc/cub", "task": "classification"})["task"] == "classification"


def test_selecting_on_test_is_stamped(train):
    result, _, _ = train("spt-shallow-fgvc-sup", "--faithful", "--num-prompts", "2")
    assert result["select"] == "best-on-test"


def test_options_win_over_quirks(train):
    result, _, _ = train("spt-shallow-fgvc-sup", "--faithful", "--num-prompts", "2", "--set", "select=last")
    assert result["select"] == "last"


def test_what_is_missing_or_unknown_is_one_line(capsys, tmp_path):
    assert "unknown recipe 'gapt-fgvc-mea'; did you mean gapt-fgvc-mae" in fails(capsys, "--recipe", "gapt-fgvc-mea")
    assert "data: missing; gapt-fgvc-mae is for fgvc/cub" in fails(capsys, "--recipe", "gapt-fgvc-mae")
    assert "vpt-deep" in fails(capsys, "--recipe", "gapt-fgvc-mae", "--data", "digits", "--method", "vpt-deep")
    assert "--faithful: " in fails(capsys, "--faithful", "--data", "digits") and "--recipe" in fails(capsys, "--faithful")
    assert "backbone: missing" in fails(capsys, "--data", "digits", "--method", "linear")
    assert "method: missing" in fails(capsys, "--data", "digits", "--backbone", "mae-tiny")
    two = {"name": "two", "backbone": "mae-tiny", "tasks": ["digits"], "methods": {"linear": None, "gapt": {"settings": {"lr": 0.1}}}}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(two, sort_keys=False))
    assert "method: missing; two has linear, gapt" in fails(capsys, "--recipe", tmp_path / "two.yaml")
    assert read_spec(tmp_path / "two.yaml").single_run({"method": "gapt"})["data"] == "digits"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metods": {}}, ["unknown key 'metods'", "methods"]),
        ({"methods": {"gapt": {"grids": {"lr": [0.1]}}}}, ["unknown key of gapt 'grids'", "grid"]),
        ({"methods": {}}, ["methods"]),
        ({"final": "test"}, ["final", "train+val"]),
        ({"reference_batch": 0}, ["reference_batch", "0"]),
        ({"seeds": [0, 1, 0]}, ["seeds", "[0, 1, 0]"]),
    ],
)
def test_a_spec_with_a_slip_is_refused(change, words, tmp_path):
    path = tmp_path / "own.yaml"
    good = {"name": "own", "backbone": "mae-tiny", "tasks": "fgvc", "methods": {"gapt": {}}}
    path.write_text(yaml.safe_dump(good | change))
    with pytest.raises(ValueError) as failure:
        read_spec(path)
    assert all(word in str(failure.value) for word in [str(path), *words]) and "\n" not in str(failure.value)


def test_a_rate_that_yaml_reads_as_a_word_is_scaled_too(tmp_path):
    path = tmp_path / "own.yaml"
    settings = "settings: {lr: 1e-2, batch_size: 64}"
    path.write_text(f"{{name: own, backbone: mae-tiny, tasks: [digits], reference_batch: 256, {settings}, methods: {{gapt: null}}}}")
    assert read_spec(path).settings_of("gapt", "digits")["lr"] == 0.0025


def test_an_unknown_setting_is_refused_with_the_nearest_name():
    spec = read_spec("gapt-fgvc-mae")
    with pytest.raises(ValueError, match="'epcohs'; did you mean epochs"):
        resolve(**spec.settings_of("gapt", "fgvc/cub", epcohs=3))


def test_the_list_of_recipes(capsys):
    main(["list", "recipes"])
    assert capsys.readouterr().out.splitlines() == list_recipes()
    main(["list", "recipes", "--json"])
    assert json.loads(capsys.readouterr().out) == list_recipes()
