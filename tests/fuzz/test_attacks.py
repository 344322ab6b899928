"""Known attacks, one by one: pickles and tags that run code, bombs, names that lead elsewhere, lists of a million lines."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
import yaml
from fuzz_checkpoints import Payload, payloads, torch_file
from fuzz_configs import BOMB
from PIL import Image
from safetensors.torch import save
from small import ARCH, adapter, backbone, noise, vit
from watching import Case, Watch, limited_memory

import promptvit
from promptvit.adapter import CONFIG
from promptvit.data import load_dataset
from promptvit.data.images import open_image
from promptvit.experiments.results import read_results
from promptvit.experiments.spec import read_spec
from promptvit.plain import DEEPEST, read_yaml
from promptvit.preprocessing import Preprocessing
from promptvit.training.run import read_settings

LINES = int(os.environ.get("PROMPTVIT_FUZZ_LINES", "20000"))


@pytest.fixture
def watch(tmp_path):
    """Judges what a test reads; the test fails on a crash."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "canary.png").write_bytes(b"nobody may read this")
    judge = Watch(tmp_path, outside, tmp_path / "canary")
    with limited_memory():
        yield judge
    assert judge.crashes == []


@pytest.mark.parametrize("number", range(len(payloads(None))))
def test_no_payload_runs_from_any_container(number, tmp_path, watch):
    payload = payloads(tmp_path / "canary")[number]
    archive = io.BytesIO()
    np.savez(archive, cls=np.array([payload], dtype=object))
    contents = [pickle.dumps(payload, protocol=protocol) for protocol in range(6)]
    contents += [torch_file(value, old) for value in (payload, {"model": {"cls_token": payload}}) for old in (False, True)] + [
        archive.getvalue()
    ]
    for content in contents:
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        assert watch.look(Case(lambda path=path: promptvit.load_backbone(path, arch=ARCH), ("weights.pth",))) == "refused"


def test_the_payloads_would_run(tmp_path):
    """Else the tests above prove nothing."""
    pickle.loads(pickle.dumps(Payload(open, str(tmp_path / "canary"), "w")))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("tag", ["object/apply:os.system ['touch {}']", "object/apply:eval [\"open('{}', 'w')\"]", "name:os.system"])
def test_yaml_runs_nothing(tag, tmp_path, watch):
    text = f"!!python/{tag.format(tmp_path / 'canary')}"
    (tmp_path / "config.yaml").write_text(f"name: {text}\nbackbone: b\ntasks: digits\nmethods: {{linear: {{}}}}\n")
    assert watch.look(Case(lambda: read_spec(tmp_path / "config.yaml"), ("config.yaml",))) == "refused"
    assert watch.look(Case(lambda: read_settings(tmp_path), (str(tmp_path),))) == "refused"


@pytest.mark.parametrize(
    "text", [BOMB + "\nname: *a11\n", "name: " + "[" * 200_000, "name: &a [*a]\n", "name: " + "1:" * 500_000 + "1\n", "x: 1\n" * 500_000]
)
def test_yaml_bombs_are_refused(text, tmp_path, watch):
    for file in ("spec.yaml", "config.yaml"):
        (tmp_path / file).write_text(text)
    (tmp_path / "result.json").write_text("{}")
    assert watch.look(Case(lambda: read_spec(tmp_path / "spec.yaml"), ("spec.yaml",))) == "refused"
    assert watch.look(Case(lambda: read_settings(tmp_path), (str(tmp_path),))) == "refused"
    left_out: list[str] = []
    assert watch.look(Case(lambda: read_results([tmp_path], left_out.append), ("x",))) == "accepted"
    assert "config.yaml" in left_out[0]


def test_plain_yaml_is_read_as_ever():
    text = "a: &x {b: [1, 2.5, null, true, é]}\nc: *x\nd: {<<: *x, e: 2001-12-14}\n"
    assert read_yaml(text) == yaml.safe_load(text)
    assert read_yaml("[" * DEEPEST + "]" * DEEPEST) and read_yaml("") is None
    with pytest.raises(ValueError, match="levels"):
        read_yaml("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))


def test_archives_that_would_unpack_to_far_more_are_refused(tmp_path, watch):
    state = {name: tensor.numpy() for name, tensor in vit().state_dict().items()}
    np.savez_compressed(tmp_path / "bomb.npz", **state, zeros=np.zeros(40 * 2**20 // 4, np.float32))
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(40 * 2**20))
    for name in ("bomb.npz", "bomb.pth"):
        assert (tmp_path / name).stat().st_size < 10**6
        with pytest.raises(ValueError, match=f"{name}: would unpack to"):
            promptvit.load_backbone(tmp_path / name, arch=ARCH)


def test_a_view_of_few_numbers_is_not_taken_for_a_huge_tensor(tmp_path, watch):
    torch.save(vit().state_dict() | {"pos_embed": torch.zeros(1).expand(1, 10**10, 8)}, tmp_path / "view.pth")
    assert watch.look(Case(lambda: promptvit.load_backbone(tmp_path / "view.pth", arch=ARCH), ("pos_embed",))) == "refused"


def folder_of(path, architecture="test_vit", **arguments):
    path.mkdir()
    (path / "model.safetensors").write_bytes(save({name: tensor.clone() for name, tensor in vit().state_dict().items()}))
    (path / "config.json").write_text(json.dumps({"architecture": architecture, "model_args": {**ARCH, "mlp_ratio": 4} | arguments}))
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        {"checkpoint_path": "CANARY"},
        {"pretrained": True},
        {"pretrained_cfg_overlay": {"file": "CANARY"}},
        {"cache_dir": "CANARY"},
        {"depth": 10**8},
        {"embed_dim": 2**15},
        {"img_size": 10**6},
        {"reg_tokens": 10**9},
        {"num_heads": 0},
        {"norm_layer": "os.system"},
        {"mlp_ratio": 1e300},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_a_checkpoint_cannot_say_what_else_to_open_or_how_much_to_build(arguments, tmp_path, watch):
    assert promptvit.load_backbone(folder_of(tmp_path / "sound")).width == 8
    given = {key: json.loads(json.dumps(value).replace("CANARY", str(watch.outside / "canary.png"))) for key, value in arguments.items()}
    folder = folder_of(tmp_path / "hostile", **given)
    assert watch.look(Case(lambda: promptvit.load_backbone(folder), (str(folder),))) == "refused"


def test_a_huge_architecture_with_tiny_weights_is_not_built(tmp_path, watch):
    folder = folder_of(tmp_path / "hostile", "vit_giant_patch14_dinov2", img_size=518, embed_dim=1408, depth=1, num_heads=16)
    assert watch.look(Case(lambda: promptvit.load_backbone(folder), (str(folder),))) == "refused"


@pytest.mark.parametrize("name", ["{outside}/canary.png", "../outside/canary.png", "~/weights.pth", "./x.safetensors"])
def test_an_adapter_cannot_name_a_file_as_its_backbone(name, tmp_path, watch, monkeypatch):
    saved = adapter(tmp_path / "adapter", "linear")
    config = json.loads((saved / CONFIG).read_text(encoding="utf-8"))
    load = {
        "name_or_path": name.format(outside=watch.outside),
        "pretrained": True,
        "arch": None,
        "image_size": None,
        "pool": None,
        "seed": 0,
    }
    (saved / CONFIG).write_text(json.dumps(config | {"backbone": config["backbone"] | {"load": load}}), encoding="utf-8")
    monkeypatch.chdir(saved)
    assert watch.look(Case(lambda: promptvit.PromptedModel.from_pretrained(saved), ("is no public name",))) == "refused"
    assert promptvit.PromptedModel.from_pretrained(saved, backbone=backbone()).classes[0] == "ant", "given by hand, it is used"


@pytest.mark.parametrize("values", [{"crop_pct": 1e-9}, {"std": [0, 1, 1]}, {"mean": [float("nan"), 0, 0]}, {"size": [0, 16]}])
def test_a_preprocessing_that_no_image_survives_is_refused(values, tmp_path, watch):
    saved = adapter(tmp_path / "adapter", "linear")
    config = json.loads((saved / CONFIG).read_text(encoding="utf-8"))
    config["preprocessing"] |= values
    (saved / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    read = Case(lambda: promptvit.PromptedModel.from_pretrained(saved, backbone=backbone()), (CONFIG,))
    assert watch.look(read) == "refused"


def test_no_image_is_scaled_beyond_memory():
    with pytest.raises(ValueError, match="would be scaled to"):
        Preprocessing(size=(4000, 4000), crop_pct=0.01).resized(Image.new("RGB", (8, 8)))


@pytest.mark.parametrize("kind", ["vtab", "json"])
def test_lists_of_very_many_lines(kind, tmp_path, watch):
    (tmp_path / "images").mkdir()
    if kind == "vtab":
        lines = "".join(f"images/{i}/../../../outside/canary.png {i % 47}\n" for i in range(LINES))
        for name in ("train800.txt", "val200.txt", "test.txt"):
            (tmp_path / name).write_text(lines if name == "train800.txt" else "images/1.jpg 1\n")
    else:
        for name in ("train.json", "val.json", "test.json"):
            (tmp_path / name).write_text(json.dumps({f"{i}.jpg": 1 + i % 200 for i in range(LINES if name == "train.json" else 1)}))
    name = "vtab/dtd" if kind == "vtab" else "fgvc/cub"
    assert watch.look(Case(lambda: load_dataset(name, root=tmp_path), ("data_root: ",))) == "refused"


def test_one_line_of_many_megabytes(tmp_path, watch):
    for name in ("train800.txt", "val200.txt", "test.txt"):
        (tmp_path / name).write_text("a" * 4_000_000 + " 1\n")
    assert watch.look(Case(lambda: load_dataset("vtab/dtd", root=tmp_path), ("data_root: ",))) == "refused"


def test_a_link_to_an_image_outside_is_not_followed(tmp_path, watch):
    noise().save(watch.outside / "secret.png")
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(4):
            noise().save(tmp_path / "data" / label / f"{i}.png")
    (tmp_path / "data" / "a" / "link.png").symlink_to(watch.outside / "secret.png")
    assert watch.look(Case(lambda: load_dataset("folder", root=tmp_path / "data"), ("data_root: ",))) == "refused"


def test_a_link_in_a_data_set_of_torchvision_is_not_followed(tmp_path, watch):
    noise().save(watch.outside / "secret.jpg")
    for label in range(10):
        (tmp_path / f"data/eurosat/2750/{label}").mkdir(parents=True)
        for i in range(8):
            noise().save(tmp_path / f"data/eurosat/2750/{label}/{i}.jpg")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/eurosat").symlink_to(tmp_path / "data/eurosat")
    for root in ("data", "linked"):
        assert len(load_dataset("torchvision/eurosat", root=tmp_path / root).classes) == 10
    (tmp_path / "data/eurosat/2750/3/link.jpg").symlink_to(watch.outside / "secret.jpg")
    assert watch.look(Case(lambda: load_dataset("torchvision/eurosat", root=tmp_path / "data"), ("link.jpg",))) == "refused"
    (tmp_path / "data/eurosat/2750/3/link.jpg").unlink()
    (tmp_path / "data/eurosat/2750/3/more").symlink_to(watch.outside)
    assert watch.look(Case(lambda: load_dataset("torchvision/eurosat", root=tmp_path / "data"), ("secret.jpg",))) == "crash"
    watch.crashes.clear()  # torchvision's own walk lists the folder; no file in it is opened


def test_an_image_of_the_largest_size_takes_bounded_memory(tmp_path, watch):
    Image.new("1", (8900, 8900)).save(tmp_path / "large.png", transparency=0)
    assert watch.look(Case(lambda: open_image(tmp_path / "large.png"), ("large.png",))) == "accepted"
    Image.new("1", (9000, 8900)).save(tmp_path / "large.png")
    assert watch.look(Case(lambda: open_image(tmp_path / "large.png"), ("too many pixels",))) == "refused"
