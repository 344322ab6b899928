"""The hub: cards made from an adapter folder, and publishing through a stand-in for the hub's client. Nothing here uses a network."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from timm.models.vision_transformer import VisionTransformer

import promptvit
from promptvit import hub
from promptvit.adapter import CONFIG, WEIGHTS, BackboneReference, read_config
from promptvit.backbones.families import wrap
from promptvit.preprocessing import Preprocessing

METRICS = {"dataset": "vtab/cifar", "split": "test", "select": "best", "accuracy": 0.8765, "val_accuracy": 0.75}
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def backbone():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny = VisionTransformer(img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    return wrap(tiny, name="own.pth", preprocessing=Preprocessing(size=(16, 16)))


@pytest.fixture
def model(backbone):
    return promptvit.create_model(backbone, "lspt", 2, num_prompts=3, classes=["cat", "dog"]).eval()


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A folder in place of the hub; what was asked of it stands in ``calls``."""
    calls = []

    class Client:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, *, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok, self.token))
            (tmp_path / repo_id).mkdir(parents=True, exist_ok=exist_ok)

        def create_commit(self, repo_id, operations, *, commit_message, revision):
            calls.append(("commit", repo_id, commit_message, revision, self.token))
            for operation in operations:
                with operation.as_file() as content:
                    (tmp_path / repo_id / operation.path_in_repo).write_bytes(content.read())
            return SimpleNamespace(commit_url=f"https://example.org/{repo_id}/commit/1")

    def snapshot_download(repo_id, *, allow_patterns):
        target = tmp_path / "cache" / repo_id
        shutil.copytree(tmp_path / repo_id, target, ignore=lambda _, names: set(names) - set(allow_patterns))
        return str(target)

    monkeypatch.setattr(huggingface_hub, "HfApi", Client)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return SimpleNamespace(folder=tmp_path, calls=calls)


def test_a_model_makes_the_round_trip(model, backbone, remote):
    address = model.push_to_hub("me/pets", metrics=METRICS, private=True, token="secret")
    assert address == "https://example.org/me/pets/commit/1"
    assert remote.calls == [("create", "me/pets", True, True, "secret"), ("commit", "me/pets", "Adapter and model card", None, "secret")]
    assert {path.name for path in (remote.folder / "me/pets").iterdir()} == {CONFIG, WEIGHTS, "README.md"}
    again = promptvit.PromptedModel.from_pretrained("me/pets", backbone=backbone)
    torch.testing.assert_close(again(IMAGES), model(IMAGES), rtol=0, atol=0)
    assert again.classes == ["cat", "dog"]
    assert not list((remote.folder / "cache/me/pets").glob("*.md")), "only what is needed is fetched"


def test_a_run_folder_is_published_as_it_is(model, remote, tmp_path):
    model.save_pretrained(tmp_path / "run" / "adapter", metrics=METRICS)
    hub.push(tmp_path / "run", "me/pets", revision="next")
    assert remote.calls[-1][3] == "next"
    for name in (CONFIG, WEIGHTS):
        assert (remote.folder / "me/pets" / name).read_bytes() == (tmp_path / "run" / "adapter" / name).read_bytes()
    assert (remote.folder / "me/pets/README.md").read_text(encoding="utf-8") == hub.model_card(tmp_path / "run", "me/pets")
    assert "secret" not in str(remote.calls) and not (tmp_path / "run" / "adapter" / "README.md").exists()


def test_a_damaged_adapter_stays_at_home(model, remote, tmp_path):
    folder = model.save_pretrained(tmp_path / "adapter")
    (folder / WEIGHTS).write_bytes(b"other")
    with pytest.raises(ValueError, match="is damaged"):
        hub.push(folder, "me/pets")
    assert remote.calls == []


def test_a_refusal_of_the_hub_is_one_line(model, remote, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("401: no token\nand a long explanation")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", refuse)
    with pytest.raises(ValueError, match=r"^hub: me/pets could not be written \(PermissionError: 401: no token\)$"):
        model.push_to_hub("me/pets")


def test_the_card_says_what_was_measured(model, backbone, tmp_path):
    folder = model.save_pretrained(tmp_path / "adapter", metrics=METRICS)
    text = hub.model_card(folder, "me/pets")
    card = ModelCard(text, ignore_metadata_errors=False).data
    assert (card.library_name, card.pipeline_tag, card.metrics) == ("promptvit", "image-classification", ["accuracy"])
    assert "lspt" in card.tags and card.base_model is None
    (result,) = card.eval_results
    assert (result.dataset_name, result.dataset_split, result.metric_type) == ("vtab/cifar", "test", "accuracy")
    assert result.metric_value == 0.8765
    for fact in ("`lspt`, reading `v1`", "`own.pth`", f"`{backbone.fingerprint}`", "16 x 16 px", "Weights chosen by: `best`"):
        assert fact in text
    assert "| `vtab/cifar` | `test` | accuracy | 0.8765 |" in text and "| `vtab/cifar` | `val` | accuracy | 0.7500 |" in text
    assert json.loads(text.split("```json\n")[1].split("```")[0]) == ["cat", "dog"]


@pytest.mark.parametrize("metrics", [{}, {"accuracy": None}, {"accuracy": float("nan")}, {"accuracy": "high"}])
def test_nothing_measured_nothing_claimed(model, metrics, tmp_path):
    folder = model.save_pretrained(tmp_path / "adapter", metrics={"dataset": "pets", "split": "test", **metrics})
    text = hub.model_card(folder)
    assert "No measurement is stored" in text
    assert ModelCard(text).data.eval_results is None and ModelCard(text).data.metrics is None


def test_numbers_without_a_data_set_are_shown_but_not_listed(model, tmp_path):
    text = hub.model_card(model.save_pretrained(tmp_path / "adapter", metrics={"accuracy": 0.5}))
    assert "| `not named` | `not named` | accuracy | 0.5000 |" in text and ModelCard(text).data.eval_results is None


def test_segmentation(backbone, tmp_path):
    model = promptvit.create_model(backbone, "vpt-deep", 2, head="linear-seg", classes=["sky", "sea"])
    metrics = {"dataset": "proc/seg", "split": "val", "miou": 0.4, "mean_accuracy": 0.5, "accuracy": 0.9}
    text = hub.model_card(model.save_pretrained(tmp_path / "adapter", metrics=metrics))
    card = ModelCard(text).data
    assert card.pipeline_tag == "image-segmentation"
    assert {result.metric_type: result.metric_value for result in card.eval_results} == {
        "mean_iou": 0.4, "mean_accuracy": 0.5, "accuracy": 0.9,
    }
    assert "pixel accuracy" in text and "a class index per pixel" in text


def test_the_lines_that_load_it_run(model, tmp_path, monkeypatch, capsys):
    """As they stand on the card, for a backbone with a public name."""
    from PIL import Image

    public = promptvit.load_backbone("test_vit", pretrained=False, image_size=32)
    model = promptvit.create_model(public, "vpt-deep", 2, num_prompts=2, classes=["cat", "dog"])
    text = hub.model_card(model.save_pretrained(tmp_path / "adapter"))
    Image.new("RGB", (40, 30)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    code = text.split("```python\n")[1].split("```")[0]
    exec(code.replace("path/to/this/folder", "adapter"), {})
    assert capsys.readouterr().out.strip() in ("['cat']", "['dog']")
    assert "load_backbone" not in code and ModelCard(text).data.base_model is None, "random weights are nobody's"


def test_an_adapter_of_a_local_file_asks_for_it(model, tmp_path):
    assert "from_pretrained(\"path/to/this/folder\", backbone=backbone)" in hub.model_card(model.save_pretrained(tmp_path / "adapter"))


@pytest.mark.parametrize(
    ("name", "pretrained", "expected"),
    [
        ("vit_base_patch16_224.mae", True, "timm/vit_base_patch16_224.mae"),
        ("timm:vit_base_patch16_224.mae", True, "timm/vit_base_patch16_224.mae"),
        ("hf:owner/backbone", True, "owner/backbone"),
        ("vit_base_patch16_224.mae", False, None),
        ("mae-tiny", True, None),
    ],
)
def test_base_model(name, pretrained, expected):
    load = {"name_or_path": name, "pretrained": pretrained, "arch": None, "image_size": None, "pool": None, "seed": 0}
    assert hub.base_model(BackboneReference(name=name, fingerprint="0", load=load)) == expected


def test_odd_names_break_neither_the_front_matter_nor_the_page(backbone, tmp_path):
    classes = ["```", "---", "a: b | c", "<script>", "line\nbreak", 'quote"', "Zürich"]
    model = promptvit.create_model(backbone, "linear", len(classes), classes=classes)
    odd = "x`|\n---\n# no: [title"
    folder = model.save_pretrained(tmp_path / "adapter", metrics={**METRICS, "dataset": odd, "select": odd})
    values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    values["backbone"]["name"] = odd
    (folder / CONFIG).write_text(json.dumps(values), encoding="utf-8")
    text = hub.model_card(folder)
    data = ModelCard(text).data
    assert data.eval_results[0].dataset_name == odd and data.library_name == "promptvit"
    body = text.split("\n---\n", 1)[1]
    assert [line for line in body.splitlines() if line.startswith("#")] == [
        "# linear on x`/ --- # no: [title", "## Use", "## Facts", "## Measured", "## Classes",
    ]
    assert sum(line.startswith("```") for line in body.splitlines()) == 4
    assert json.loads(body.split("```json\n")[1].rsplit("```", 1)[0]) == classes
    assert {line.count("|") for line in body.splitlines() if line.startswith("|")} == {3, 5}


def test_a_finished_run_names_its_data_set(backbone, tmp_path):
    """What training stores is enough for the card."""
    from helpers import tiny_backbone

    path = tiny_backbone(tmp_path / "backbone")
    run = promptvit.train(backbone=path, method="linear", data="digits", shots=2, epochs=1, out=str(tmp_path / "run"))
    metrics = read_config(Path(run.run_dir) / "adapter").metrics
    assert (metrics["dataset"], metrics["split"]) == ("digits", "test")
    (result,) = ModelCard(hub.model_card(run.run_dir)).data.eval_results
    assert (result.dataset_name, result.metric_value) == ("digits", run.result["accuracy"])
