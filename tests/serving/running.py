"""A small bank, and the real server around it in a thread of this process."""

import http.client
import io
import json
import socket
import threading
import time
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import promptvit
from promptvit.backbones.families import wrap
from promptvit.preprocessing import Preprocessing
from promptvit.serving.server import build_server
from promptvit.serving.settings import ServiceSettings

METHODS = {"deep": ("vpt-deep", 3), "deep-5": ("vpt-deep", 5), "gated": ("gapt", 4), "long": ("lspt", 2), "probe": ("linear", 7)}
SIZE = 32


def small_backbone(seed: int = 0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VisionTransformer(img_size=SIZE, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    return wrap(model, name="small", preprocessing=Preprocessing(size=(SIZE, SIZE)), is_mae=True)


def small_model(backbone, method: str, classes: int, seed: int = 0):
    """A model whose answers differ clearly from those of another seed."""
    model = promptvit.create_model(
        backbone, method, classes, classes=[f"{method} {i}" for i in range(classes)], num_prompts=2, seed=seed
    )
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(seed))
    return model.eval()


def small_bank(methods=METHODS):
    backbone = small_backbone()
    bank = promptvit.PromptBank(backbone)
    for seed, (task, (method, classes)) in enumerate(methods.items()):
        bank.add(task, small_model(backbone, method, classes, seed))
    return bank


def picture(seed: int = 0, size: tuple[int, int] = (40, 40), kind: str = "PNG", **options: Any) -> bytes:
    """A picture that no other seed gives, as a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), kind, **options)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def form(*files: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and header of a multipart form."""
    parts = [b'--edge\r\nContent-Disposition: form-data; name="images"; filename="x"\r\n\r\n' + file + b"\r\n" for file in files]
    return b"".join(parts) + b"--edge--\r\n", {"Content-Type": "multipart/form-data; boundary=edge"}


RAW = {"Content-Type": "application/octet-stream"}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running(NamedTuple):
    """The address of a running service, and the server behind it."""

    port: int
    server: Any

    def ask(self, path: str, body: Any = None, headers=None, method: str | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, response.read())
        finally:
            connection.close()

    def predict(self, task: str, image: bytes, query: str = "") -> Answer:
        return self.ask(f"/v1/tasks/{task}/predict{query}", image, RAW)

    def alive(self) -> bool:
        return self.ask("/healthz").status == 200 and self.predict(next(iter(METHODS)), picture()).status == 200


@contextmanager
def running(bank, **settings):
    """The service on a free port, until the end of the block; it must end by itself."""
    server = build_server(bank, ServiceSettings(**settings), log_level="critical")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Running(listening.getsockname()[1], server)
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
