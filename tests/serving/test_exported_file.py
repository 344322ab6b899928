"""Export: every method on every family, as ONNX and as ``.pt2``, equals the model; the file describes itself and needs no promptvit."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

import promptvit
from promptvit.backbones.families import wrap
from promptvit.methods import method_class
from promptvit.preprocessing import Preprocessing
from promptvit.serving import export as exporting
from promptvit.serving.export import FORMATS, TOLERANCE, description, export, traced

SIZE = 16
FLAT = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
SMALL = {"embed_dim": 16, "num_classes": 0}
FAMILIES = {
    "vit": lambda: VisionTransformer(**FLAT),
    "mae": lambda: VisionTransformer(**FLAT),
    "eva": lambda: Eva(**FLAT, use_rot_pos_emb=True, swiglu_mlp=True, num_reg_tokens=1, ref_feat_shape=(2, 2)),
    "swin": lambda: SwinTransformer(img_size=SIZE, patch_size=2, **SMALL, depths=(1, 2), num_heads=(2, 2), window_size=4),
}
# their forward pass is that of vpt-* and linear: one family is enough
LIKE_OTHERS = {"spt-shallow", "spt-deep", "full", "bias", "partial-1"}
PAIRS = [
    (method, kind)
    for method in promptvit.list_methods()
    for kind in (("vit",) if method in LIKE_OTHERS else ("vit", "eva", "swin"))
    if kind in method_class(method).families
] + [("vpt-deep", "mae"), ("lspt", "mae")]  # prompts in the readout
DOCS = Path(__file__).parent.parent.parent / "docs" / "export.md"


def created(method, kind="vit", **options):
    """A model with weights far from a near-identity start, so that differences show."""
    generator = torch.Generator().manual_seed(0)
    backbone = FAMILIES[kind]()
    for parameter in backbone.parameters():
        parameter.data.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    made = wrap(backbone, name=kind, preprocessing=Preprocessing(size=(SIZE, SIZE)), is_mae=kind == "mae")
    model = promptvit.create_model(made, method, 4, **{"num_prompts": 3, "classes": ["ant", "bee", "cat", "Zürich \"1\""]} | options)
    for _, parameter in model.trainable_parameters():
        parameter.data.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def images(count):
    return 2 * torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(10 + count))


@torch.no_grad()
def assert_agrees(model, run):
    """For batches of any length, one included; and the images matter."""
    for count in (1, 2, 5):
        torch.testing.assert_close(run(images(count)), model(images(count)), rtol=0, atol=TOLERANCE)
    assert run(images(5)).std(dim=0).max() > 100 * TOLERANCE


def run_onnx(path):
    session = onnxruntime.InferenceSession(path)
    return lambda batch: torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])


def run_pt2(path):
    return torch.export.load(path).module()


@pytest.mark.parametrize(("method", "kind"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_every_method_agrees_in_both_formats(method, kind, tmp_path):
    model = created(method, kind)
    program = traced(model)  # the slow part, once for both
    for name, run in (("onnx", run_onnx), ("pt2", run_pt2)):
        path = tmp_path / f"model.{name}"
        FORMATS[name].write(program, description(model), path)
        assert_agrees(model, run(path))


def test_options(tmp_path):
    model = created("sa2vp", attention="padded")
    found = export(model, tmp_path / "model.onnx")
    assert found.difference < TOLERANCE and found.size == found.path.stat().st_size
    assert_agrees(model, run_onnx(found.path))


def test_segmentation(tmp_path):
    model = created("vpt-deep", head="setr-pup", head_options={"channels": 8})
    found = export(model, tmp_path / "model.onnx")
    assert_agrees(model, run_onnx(found.path))
    assert run_onnx(found.path)(images(2)).shape == (2, 4, SIZE, SIZE)
    assert metadata(found.path)["task"] == "segmentation"


def metadata(path):
    if path.suffix == ".onnx":
        return json.loads(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["promptvit"])
    extra = {"promptvit": ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra["promptvit"])


@pytest.mark.parametrize("format", FORMATS)
def test_the_file_describes_itself_and_holds_no_path(format, tmp_path):
    model = created("lspt")
    path = export(model, tmp_path / f"model.{format}", format).path
    found = metadata(path)
    assert found["classes"] == model.classes and found["task"] == "classification" and found["palette"] is None
    assert (found["method"], found["reading"]) == ("lspt", "v1")
    assert (found["backbone"], found["fingerprint"]) == ("vit", model.backbone.fingerprint)
    assert Preprocessing(**found["preprocessing"]) == model.preprocessing
    content = path.read_bytes()
    for place in (str(Path(promptvit.__file__).parent), "site-packages", str(tmp_path)):
        assert place.encode() not in content


def test_onnx_has_a_named_input_of_any_batch(tmp_path):
    session = onnxruntime.InferenceSession(export(created("linear"), tmp_path / "model.onnx").path)
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("images", ["batch", 3, SIZE, SIZE], "tensor(float)")
    assert (answer.name, answer.shape) == ("logits", ["batch", 4])


def test_keys_and_values_of_deep_prompts_are_computed_once():
    """Neither the norm nor the projection that make them is in the graph."""

    def layer_norms(model):
        return sum("layer_norm" in str(node.target) for node in traced(model).graph.nodes)

    assert layer_norms(created("vpt-deep")) == layer_norms(created("linear"))


def test_the_model_stays_as_it_is(tmp_path):
    model = created("gapt").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainable = [name for name, _ in model.trainable_parameters()]
    export(model, tmp_path / "model.pt2", "pt2")
    assert model.training and [name for name, _ in model.trainable_parameters()] == trainable
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_file_that_disagrees_is_not_put_in_place(tmp_path, monkeypatch):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"before")
    right = FORMATS["pt2"]
    far = [lambda logits: logits + 2 * TOLERANCE * logits.abs().max().clamp(min=1), lambda logits: logits * float("nan")]
    for wrong in (*far, lambda logits: logits[:, :1]):
        bent = right._replace(read=lambda place, wrong=wrong: lambda batch: wrong(right.read(place)(batch)))
        monkeypatch.setitem(FORMATS, "pt2", bent)
        model = created("linear").train()
        with pytest.raises(ValueError, match=r"model.pt2 was not written; its logits differ .* use format onnx"):
            export(model, path, "pt2")
        assert model.training
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_refusals(tmp_path, monkeypatch):
    model = created("linear")
    with pytest.raises(ValueError, match=r"unknown format 'onx'; did you mean onnx\? valid: onnx, pt2"):
        export(model, tmp_path / "x", "onx")
    with pytest.raises(ValueError, match="on the CPU in float32, it has cpu bfloat16"):
        export(created("linear").bfloat16(), tmp_path / "x")
    monkeypatch.setattr(exporting, "ONNX_LIMIT", 1000)
    with pytest.raises(ValueError, match="do not fit into one ONNX file; use format pt2"):
        export(model, tmp_path / "x")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'needs the package onnxruntime; install it with: pip install "promptvit\[export\]"'):
        export(model, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_traced_is_said_in_one_line(tmp_path, monkeypatch):
    model = created("linear")
    monkeypatch.setattr(type(model.method), "encode", lambda self, step: (step.tokens if step.tokens.sum() > 0 else -step.tokens, None))
    with pytest.raises(ValueError, match=r"^export: linear on vit cannot be traced \(.+\)$"):
        export(model, tmp_path / "x.pt2", "pt2")


@pytest.mark.parametrize(("resize", "size"), [("short", (37, 23)), ("direct", (20, 41)), ("short", (16, 16))])
def test_the_page_says_how_to_use_it_without_promptvit(resize, size, tmp_path):
    """The page's own lines, in a process that can import neither promptvit nor torch."""
    (code,) = re.findall(r"^```python\n(import json\n.*?)^```", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]) <= 10
    preprocessing = Preprocessing(size=(SIZE, SIZE), resize=resize, crop_pct=0.8, interpolation="bilinear")
    model = created("vpt-deep", preprocessing=preprocessing)
    export(model, tmp_path / "pets.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    code = "import sys\nsys.modules['promptvit'] = sys.modules['torch'] = None\n" + code.replace("photo.jpg", "photo.png")
    code += 'print(*session.run(None, {"images": pixels.transpose(2, 0, 1)[None].astype(np.float32)})[0][0])'
    line, utf8 = [sys.executable, "-c", code], {**os.environ, "PYTHONUTF8": "1"}
    result = subprocess.run(line, cwd=tmp_path, capture_output=True, encoding="utf-8", env=utf8, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    image = Image.open(tmp_path / "photo.png")
    named, numbers = result.stdout.splitlines()
    assert named == model.predict(image).classes[0]
    expected = model(model.preprocess(image)[None])[0].tolist()
    assert [float(number) for number in numbers.split()] == pytest.approx(expected, abs=TOLERANCE)
