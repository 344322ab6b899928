"""Adapter folders: both files damaged, and configs that want to be believed."""

import hashlib
import json
import shutil
import struct
from pathlib import Path
from random import Random

from mutation import altered, damaged, json_bytes, junk
from PIL import Image
from small import adapter, backbone
from watching import Case

import promptvit
from promptvit.adapter import CONFIG, WEIGHTS

METHODS = ("vpt-deep", "lspt", "gapt", "linear", "lora", "vpt-shallow")


def _use(folder: Path) -> None:
    """Load it and let it answer: what was accepted must not be a trap."""
    model = promptvit.PromptedModel.from_pretrained(folder, backbone=backbone())
    model.predict(Image.new("RGB", (24, 16)))


def _kept(folder: Path) -> list[tuple[dict, bytes]]:
    """Configs and weights of sound adapters."""
    found = []
    for method in METHODS:
        saved = adapter(folder / method, method, **({} if method in ("linear", "lora") else {"num_prompts": 2}))
        found.append((json.loads((saved / CONFIG).read_text(encoding="utf-8")), (saved / WEIGHTS).read_bytes()))
        shutil.rmtree(saved)
    return found


def configs(folder: Path, outside: Path):
    sound = _kept(folder)

    def draw(rng: Random) -> Case:
        config, weights = rng.choice(sound)
        text = json_bytes(altered(config, rng), rng)
        (folder / CONFIG).write_bytes(text)
        (folder / WEIGHTS).write_bytes(weights)
        return Case(lambda: _use(folder), (str(folder), "backbone: "), repr(text[:300]))

    return draw


def weights(folder: Path, outside: Path):
    sound = _kept(folder)

    def draw(rng: Random) -> Case:
        config, content = rng.choice(sound)
        content = rng.choice((_bytes, _header, _lengths))(content, rng)
        (folder / WEIGHTS).write_bytes(content)
        forged = config | {"weights_sha256": hashlib.sha256(content).hexdigest()} if rng.random() < 0.9 else config
        (folder / CONFIG).write_text(json.dumps(forged), encoding="utf-8")
        return Case(lambda: _use(folder), (str(folder),), repr(content[:200]))

    return draw


def references(folder: Path, outside: Path):
    """An adapter that says itself which backbone to load: a public name, or something that is none."""
    model = promptvit.create_model(promptvit.load_backbone("test_vit", pretrained=False, image_size=32), "linear", 2)
    saved = model.save_pretrained(folder)
    sound = json.loads((saved / CONFIG).read_text(encoding="utf-8"))
    names = (
        str(outside),
        str(outside / "canary.pth"),
        "../outside/canary.pth",
        "~",
        "/",
        "file:///etc/passwd",
        "local-dir:" + str(outside),
        "hf:../outside",
        "hf:nobody/nothing",
        "timm:test_vit",
        "mae-tiny",
        "test_vit2",
        "vit_giant_patch14_clip_224.x",
        "\0",
    )
    arch = (
        {"checkpoint_path": str(outside / "canary.pth")},
        {"pretrained_cfg_overlay": {"file": str(outside / "canary.pth")}},
        "test_vit",
        {"depth": 10**9},
        {"embed_dim": 10**7},
        None,
    )

    def draw(rng: Random) -> Case:
        config = json.loads(json.dumps(sound))
        load = config["backbone"]["load"]
        key = rng.choice(list(load))
        load[key] = rng.choice(
            {"name_or_path": names, "arch": arch, "image_size": (16, 33, 10**6, [32, 10**5], 0, -32)}.get(key, (junk(rng),))
        )
        if rng.random() < 0.2:
            load = config["backbone"]["load"] = altered(load, rng)
        (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        return Case(lambda: promptvit.PromptedModel.from_pretrained(folder), (str(folder), "backbone: "), json.dumps(load)[:300])

    return draw


def _bytes(content: bytes, rng: Random) -> bytes:
    return damaged(content, rng)


def _lengths(content: bytes, rng: Random) -> bytes:
    """Another length of the header."""
    length = rng.choice(
        (0, 1, 7, 2**10, 2**31, 2**32, 2**63, 2**64 - 1, len(content), len(content) - 8, len(content) - 7, rng.randrange(999))
    )
    return struct.pack("<Q", length) + content[8:]


def _header(content: bytes, rng: Random) -> bytes:
    """Another header of the right length."""
    size = struct.unpack("<Q", content[:8])[0]
    text = json_bytes(altered(json.loads(content[8 : 8 + size]), rng), rng)
    return struct.pack("<Q", len(text)) + text + content[8 + size :]
