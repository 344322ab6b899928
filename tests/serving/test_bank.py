"""The bank: a mixed batch equals separate runs, what it refuses, what it keeps, and threads."""

import json
import re
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from agreement import images_for, wrapped
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.models.eva import Eva as TimmEva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import ResPostBlock, VisionTransformer

import promptvit
from promptvit.adapter import CONFIG, WEIGHTS
from promptvit.methods import method_class
from promptvit.serving.mixing import joined_heads
from promptvit.serving.recall import Recall

FLAT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0}
SWIN = {"img_size": 32, "patch_size": 2, "embed_dim": 8, "depths": (1, 2), "num_heads": (2, 2), "window_size": 4, "num_classes": 0}
FAMILIES = {
    "vit": lambda: wrapped(VisionTransformer(**FLAT)),
    "mae": lambda: wrapped(VisionTransformer(**FLAT), is_mae=True),
    "eva": lambda: wrapped(TimmEva(**FLAT, use_rot_pos_emb=True, num_reg_tokens=2, ref_feat_shape=(4, 4))),
    "swin": lambda: wrapped(SwinTransformer(**SWIN)),
    "black box": lambda: wrapped(VisionTransformer(**FLAT, block_fn=ResPostBlock, init_values=0.5)),
}
REFUSED = {"bias", "full", "lora", "partial-1"}
HEADS = (1, 5, 40)


def task_model(backbone, method, classes=3, seed=0, **options):
    """A model whose every learned value is its own."""
    model = promptvit.create_model(backbone, method, classes, **{"num_prompts": 3, "seed": seed, **options})
    generator = torch.Generator().manual_seed(seed)
    for _, tensor in model.trainable_parameters():
        tensor.data.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def served(backbone):
    """Tasks of every method that runs on ``backbone`` and may share it, in every head size."""
    names = [n for n in promptvit.list_methods() if n not in REFUSED and backbone.family in method_class(n).families]
    if not all(block.opened for block in backbone.blocks()):
        names.remove("sa2vp")  # it looks into the blocks
    return {f"{name} {classes}": task_model(backbone, name, classes, seed) for seed, classes in enumerate(HEADS) for name in names}


def filled(backbone, models, **options):
    bank = promptvit.PromptBank(backbone, **options)
    for task, model in models.items():
        bank.add(task, model)
    return bank


@torch.no_grad()
def separate(images, models):
    """Logits of each image alone through its own model."""
    return [model(image[None])[0] for image, model in zip(images, models, strict=True)]


def assert_equal(found, expected):
    assert [len(logits) for logits in found] == [len(logits) for logits in expected]
    for n, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert float((a - b).abs().max()) <= 1e-4, n


def passes(backbone, monkeypatch):
    """Batch sizes of the passes that start from now on."""
    sizes, embed = [], backbone.embed
    monkeypatch.setattr(backbone, "embed", lambda images, any_size: (sizes.append(len(images)), embed(images, any_size))[1])
    return sizes


@pytest.fixture(scope="module")
def backbone():
    return FAMILIES["vit"]()


@pytest.fixture(scope="module")
def models(backbone):
    return served(backbone)


# The contract: mixing changes nothing


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_all_methods_and_head_sizes_equals_separate_runs(family):
    backbone = FAMILIES[family]()
    models = served(backbone)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    bank, images = filled(backbone, models), images_for(backbone, len(models))
    expected = separate(images, models.values())
    for _ in range(2):  # the second call uses what the first remembered
        assert_equal(bank(images, list(models)), expected)
    for task in models:  # alone, from what the mixed calls remembered
        row = list(models).index(task)
        assert_equal(bank(images[row : row + 1], task), expected[row : row + 1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


OPTIONS = [
    ("vpt-deep", {"project": 5}), ("vpt-deep", {"shared": True}), ("vpt-deep", {"first": 2}), ("vpt-deep", {"last": 1}),
    ("vpt-deep", {"first": 1, "beyond": "remove"}), ("vpt-deep", {"fresh_norm": True}), ("vpt-deep", {"pool": "norm+patches+prompts"}),
    ("vpt-shallow", {"insert_at": 2}), ("vpt-shallow", {"pool": "prompts"}), ("gapt", {"hard": True}), ("gapt", {"gates": "none"}),
    ("gapt", {"gates": 1}), ("gapt", {"temperature": 0.5}), ("gapt", {"temperature_range": (0.9, 1.1)}), ("linear", {"pool": "mean"}),
]


@pytest.mark.parametrize(("method", "options"), OPTIONS, ids=str)
def test_options_that_shape_the_pass_stack_too_and_only_with_their_like(backbone, monkeypatch, method, options):
    models = {str(seed): task_model(backbone, method, 4, seed, **options) for seed in range(3)}
    models |= {f"plain {seed}": task_model(backbone, method, 4, seed) for seed in range(2)}
    bank, images = filled(backbone, models), images_for(backbone, 5)
    expected, sizes = separate(images, models.values()), passes(backbone, monkeypatch)
    assert_equal(bank(images, list(models)), expected)
    assert sizes == [3, 2]


def test_one_pass_for_each_shape_one_plain_pass_and_one_for_each_task_that_cannot_share(backbone, models, monkeypatch):
    bank, sizes = filled(backbone, models), passes(backbone, monkeypatch)
    bank(images_for(backbone, len(models)), list(models))
    deep, shallow, gapt, linear, alone = 6, 6, 3, 3, [1] * 6  # three tasks a method; spt is vpt with another start
    assert sorted(sizes) == sorted([deep, shallow, gapt, linear, *alone])


def test_how_a_task_was_trained_does_not_keep_it_from_sharing(backbone, monkeypatch):
    kinds = [("gapt", {"gate_init": 2.0}), ("gapt", {"dropout": 0.5}), ("gapt", {"init": "mean", "init_images": 9})]
    bank = filled(backbone, {str(seed): task_model(backbone, name, 2, seed, **kind) for seed, (name, kind) in enumerate(kinds)})
    sizes = passes(backbone, monkeypatch)
    bank(images_for(backbone, 3), bank.tasks)
    assert sizes == [3]
    bank.add("wider", task_model(backbone, "gapt", num_prompts=4))
    bank(images_for(backbone, 4), bank.tasks)
    assert sizes == [3, 3, 1]


@settings(max_examples=40)
@given(data=st.data())
def test_any_mix_of_tasks_equals_separate_runs(backbone, models, data):
    tasks = data.draw(st.lists(st.sampled_from(list(models)), max_size=8))
    seed, kept = data.draw(st.integers(0, 3)), data.draw(st.sampled_from([0, 2_000, 2**20]))
    bank = filled(backbone, {task: models[task] for task in tasks}, recall_bytes=kept)
    images = images_for(backbone, len(tasks), seed)
    expected = separate(images, [models[task] for task in tasks])
    for _ in range(2):
        assert_equal(bank(images, tasks), expected)
    predicted = bank.predict(images, tasks)
    assert predicted.classes == [models[task].classes[int(row.argmax())] for task, row in zip(tasks, expected, strict=True)]
    assert_equal(predicted.probabilities, [row.softmax(-1) for row in expected])


@torch.no_grad()
def test_heads_are_joined_without_keeping_one_another_alive():
    heads = [torch.nn.Linear(4, classes) for classes in (2, 10_000, 1)]
    features = torch.randn(4, 4)
    found = joined_heads(features, [heads[0], heads[1], heads[0], heads[2]])
    assert_equal(found, [heads[n](features[row]) for row, n in enumerate((0, 1, 0, 2))])
    assert [logits.untyped_storage().nbytes() for logits in found] == [8, 40_000, 8, 4]


def test_pictures_one_task_for_all_and_none(backbone, models):
    bank = filled(backbone, models)
    pictures = [Image.new("RGB", (50, 40), color) for color in ("red", "gray")]
    found = bank.predict(pictures, "vpt-deep 5")
    alone = models["vpt-deep 5"].predict(pictures)
    assert found.classes == alone.classes
    torch.testing.assert_close(torch.stack(found.probabilities), alone.probabilities)
    assert bank(torch.zeros(0, 3, 32, 32), []) == [] and bank.predict([], []) == ([], [])


# What is refused


def test_methods_that_tune_the_backbone_are_refused_by_name(backbone, tmp_path):
    assert {name for name in promptvit.list_methods() if not method_class(name).shares_backbone()} == REFUSED
    bank = promptvit.PromptBank(backbone)
    for name in sorted(REFUSED):
        model = promptvit.create_model(backbone, name, 2)
        for adapter in (model, model.save_pretrained(tmp_path / name)):
            with pytest.raises(ValueError, match=f"task 'birds': {name} tunes weights of the backbone itself"):
                bank.add("birds", adapter)
    assert bank.tasks == []


def test_a_segmentation_head_is_refused(backbone):
    model = promptvit.create_model(backbone, "vpt-deep", 2, head="linear-seg")
    with pytest.raises(ValueError, match="task 'roads': .* linear-seg labels pixels"):
        promptvit.PromptBank(backbone).add("roads", model)


@pytest.mark.parametrize("as_folder", [False, True])
def test_another_backbone_and_another_preprocessing_are_refused_with_both_values(backbone, tmp_path, as_folder):
    other = wrapped(VisionTransformer(**FLAT), seed=9)
    bank, model = promptvit.PromptBank(backbone), task_model(other, "vpt-deep")
    with pytest.raises(ValueError, match="task 'a'") as refused:
        bank.add("a", model.save_pretrained(tmp_path / "a") if as_folder else model)
    assert backbone.fingerprint in str(refused.value) and other.fingerprint in str(refused.value)
    direct = backbone.preprocessing.replaced(resize="direct", normalization="half")
    model = task_model(backbone, "vpt-deep", preprocessing=direct)
    adapter = model.save_pretrained(tmp_path / "b") if as_folder else model
    with pytest.raises(ValueError, match="task 'b'") as refused:
        bank.add("b", adapter)
    assert str(direct) in str(refused.value) and str(backbone.preprocessing) in str(refused.value)
    promptvit.PromptBank(backbone, preprocessing=direct).add("b", adapter)


def test_names_and_numbers_are_checked(backbone, models):
    bank = filled(backbone, models)
    with pytest.raises(ValueError, match="'gapt 5' is there already"):
        bank.add("gapt 5", models["gapt 5"])
    for name in ("vtab/dtd", "/", "", ".", ".."):
        with pytest.raises(ValueError, match=f"^task: {re.escape(repr(name))} cannot be part of an address"):
            bank.add(name, models["gapt 5"])
    assert bank.tasks == list(models)
    for wrong in (lambda: bank(images_for(backbone, 1), "gapt 6"), lambda: bank.remove("gapt 6"), lambda: bank.classes("gapt 6")):
        with pytest.raises(ValueError, match=r"unknown task 'gapt 6'; did you mean gapt 5.* the bank has \d+"):
            wrong()
    with pytest.raises(ValueError, match="2 images need as many names, or one for all; got 3"):
        bank(images_for(backbone, 2), ["gapt 5"] * 3)
    with pytest.raises(ValueError, match="recall_bytes: at least 0, got -1"):
        promptvit.PromptBank(backbone, recall_bytes=-1)


# Adapter folders


def test_weights_are_read_at_first_use_and_blamed_by_task_and_file(backbone, models, tmp_path):
    folder = models["vpt-deep 5"].save_pretrained(tmp_path / "adapter")
    bank = promptvit.PromptBank(backbone)
    bank.add("birds", folder)
    assert bank.classes("birds") == models["vpt-deep 5"].classes and bank.resident_bytes == 0
    weights = (folder / WEIGHTS).rename(tmp_path / "elsewhere")
    image = images_for(backbone, 1)
    with pytest.raises(ValueError, match=rf"task 'birds': .*{tmp_path}.*{WEIGHTS}"):
        bank(image, "birds")
    shutil.copy(weights, folder / WEIGHTS)
    random_state = torch.get_rng_state()
    assert_equal(bank(image, "birds"), separate(image, [models["vpt-deep 5"]]))
    assert torch.equal(random_state, torch.get_rng_state())
    assert bank.resident_bytes > 0
    shutil.rmtree(folder)
    assert_equal(bank(image, "birds"), separate(image, [models["vpt-deep 5"]]))


def test_weights_that_changed_after_the_check_are_refused(backbone, models, tmp_path):
    folder = models["vpt-deep 5"].save_pretrained(tmp_path / "adapter")
    bank = promptvit.PromptBank(backbone)
    bank.add("birds", folder)
    promptvit.create_model(backbone, "full", 5).save_pretrained(folder)
    with pytest.raises(ValueError, match=f"task 'birds': .*{WEIGHTS} is damaged, or belongs to another"):
        bank(images_for(backbone, 1), "birds")


def test_a_folder_is_checked_when_it_is_added(backbone, models, tmp_path):
    bank = promptvit.PromptBank(backbone)
    with pytest.raises(ValueError, match=f"task 'birds': .*has no {CONFIG}"):
        bank.add("birds", tmp_path)
    folder = models["gapt 5"].save_pretrained(tmp_path / "adapter")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"method": "gatp"}))
    with pytest.raises(ValueError, match="task 'birds': unknown method 'gatp'; did you mean gapt"):
        bank.add("birds", folder)
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=f"task 'birds': .* has no {WEIGHTS}"):
        bank.add("birds", folder)


# What is kept


def test_a_model_is_copied_without_its_backbone_and_without_gradients(backbone):
    model, image = task_model(backbone, "vpt-deep"), images_for(backbone, 1)
    bank = promptvit.PromptBank(backbone)
    model(image).sum().backward()
    bank.add("birds", model)
    expected = separate(image, [model])
    with torch.no_grad():
        for _, tensor in model.trainable_parameters():
            tensor.add_(1.0)
    assert_equal(bank(image, "birds"), expected)
    kept = bank._residents["birds"].model
    assert kept.backbone is backbone and all(not p.requires_grad and p.grad is None for p in kept.parameters())


def test_a_thousand_tasks_of_vit_base_fit_in_a_gigabyte():
    """What a task keeps does not depend on the MLPs, so they are left out here."""
    backbone = wrapped(VisionTransformer(img_size=32, depth=12, embed_dim=768, num_heads=12, num_classes=0, mlp_ratio=0.01))
    bank = promptvit.PromptBank(backbone)
    for task in range(3):
        bank.add(str(task), task_model(backbone, "vpt-deep", 100, task, num_prompts=10))
    learned = 4 * (12 * 10 * 768 + 100 * 769)
    assert bank.resident_bytes == 3 * learned
    assert 1000 * learned + bank.recall_bytes < 1e9
    bank(images_for(backbone, 3), bank.tasks)
    remembered = 3 * 12 * 2 * 10 * 768 * 4
    assert bank.resident_bytes == 3 * learned + remembered


def test_what_is_remembered_stays_within_its_limit_and_is_forgotten_with_its_task(backbone):
    bank = filled(backbone, {str(n): task_model(backbone, "vpt-deep", 2, n) for n in range(6)}, recall_bytes=4000)
    images, each = images_for(backbone, 6), 3 * 2 * 3 * 16 * 4
    assert 4000 // each == 3
    learned = bank.resident_bytes
    expected = separate(images, [resident.model for resident in bank._residents.values()])
    assert_equal(bank(images, bank.tasks), expected)
    assert_equal(bank(images[:1], "0"), expected[:1])  # forgotten meanwhile, and now the most recently used
    assert_equal(bank(images[3:4], "3"), expected[3:4])
    tensors = [t for memory in bank._recall._kept.values() for pair in memory.values() for t in pair]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    assert sum(storages.values()) == bank._recall.bytes == 3 * each == bank.resident_bytes - learned
    kept = [task for task, resident in bank._residents.items() if resident in bank._recall._kept]
    assert {"0", "3"} <= set(kept)
    for task in kept:
        bank.remove(task)
    assert bank._recall.bytes == 0


def test_a_pass_that_ends_after_its_task_was_removed_leaves_nothing():
    recall, owner = Recall(1000), type("Owner", (), {})()
    memory = recall.of([owner])
    memory[0] = (torch.zeros(1, 2), torch.zeros(1, 2))
    recall.drop(owner)
    recall.keep({owner: 0}, memory)
    assert recall.bytes == 0 and recall.of([owner]) == {}


# Threads


@pytest.fixture
def hasty():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("family", ["vit", "black box"])
def test_threads_call_add_and_remove_at_the_same_time(family, hasty, tmp_path):
    backbone = FAMILIES[family]()
    models = served(backbone)
    bank = promptvit.PromptBank(backbone, recall_bytes=10_000)
    for n, (task, model) in enumerate(models.items()):
        bank.add(task, model.save_pretrained(tmp_path / str(n)))  # so that first uses meet too
    images = images_for(backbone, len(models))
    expected = dict(zip(models, separate(images, models.values()), strict=True))
    rows = {task: row for row, task in enumerate(models)}
    done = threading.Event()

    def ask(seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(15):
            chosen = [list(models)[int(n)] for n in torch.randint(len(models), (5,), generator=generator)]
            assert_equal(bank(images[[rows[task] for task in chosen]], chosen), [expected[task] for task in chosen])

    def come_and_go():
        rounds = 0
        while not done.is_set() or not rounds:
            bank.add("guest", models["gapt 5"])
            assert_equal(bank(images[:1], "guest"), separate(images[:1], [models["gapt 5"]]))
            bank.remove("guest")
            rounds += 1

    with ThreadPoolExecutor(5) as pool:
        guest = pool.submit(come_and_go)
        asked = [pool.submit(ask, seed) for seed in range(4)]
        errors = [future.exception() for future in asked]
        done.set()
        assert [*errors, guest.exception()] == [None] * 5
    assert bank.tasks == list(models)
    assert bank._recall.bytes <= 10_000 and "guest" not in bank.tasks
