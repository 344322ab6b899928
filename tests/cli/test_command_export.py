"""``promptvit export``: a finished run becomes one file."""

import onnxruntime
import torch
from PIL import Image

import promptvit


def test_a_run_becomes_a_file_that_answers_alike(finished, tmp_path, promptvit_command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = promptvit_command("export", finished, "--format", "onnx", "--json").json
    assert written["path"] == f"{finished.name}.onnx" and written["format"] == "onnx" and written["difference"] <= 1e-4
    path = tmp_path / written["path"]
    assert path.stat().st_size == written["bytes"]
    model = promptvit.PromptedModel.from_pretrained(finished, backbone=_backbone_of(finished))
    images = torch.stack([model.preprocess(Image.new("RGB", (30, 20), colour)) for colour in ("red", "green", "blue")])
    (logits,) = onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits).softmax(dim=-1), model.predict(images).probabilities, rtol=0, atol=1e-4)


def test_an_adapter_of_a_local_file(finished, backbone, tmp_path, promptvit_command):
    target = tmp_path / "new" / "model.pt2"
    line = ["export", finished / "adapter", "--format", "pt2", "--out", target]
    assert "--backbone" in promptvit_command(*line).error and not target.exists()
    outcome = promptvit_command(*line, "--backbone", backbone)
    assert outcome.code == 0 and outcome.err == "" and outcome.out.startswith(f"{target}: "), outcome.err
    assert [path.name for path in target.parent.iterdir()] == ["model.pt2"]


def test_refusals(finished, tmp_path, promptvit_command):
    assert "unknown format 'onxx'; did you mean onnx" in promptvit_command("export", finished, "--format", "onxx").error
    assert "has no adapter_config.json" in promptvit_command("export", tmp_path, "--format", "onnx").error
    assert "--format" in promptvit_command("export", finished).error


def _backbone_of(run):
    import yaml

    return promptvit.load_backbone(yaml.safe_load((run / "config.yaml").read_text())["backbone"])
