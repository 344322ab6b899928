"""The service over real connections: right answers to many at once, a clear status for everything else, and it stays up."""

import socket
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from running import METHODS, RAW, encoded, form, picture, running, small_bank

from promptvit.data.images import read_image


@pytest.fixture(scope="module")
def bank():
    return small_bank()


@pytest.fixture(scope="module")
def service(bank):
    with running(bank, max_body=200_000, max_pixels=1_000_000, max_images=4, timeout=3.0) as found:
        yield found


def expected(bank, task: str, image: bytes) -> dict[str, float]:
    shares = bank.predict([read_image(image, "x")], [task]).probabilities[0]
    return dict(zip(bank.classes(task), shares.tolist(), strict=True))


def agrees(row: dict, right: dict[str, float]) -> bool:
    """Whether ``row`` of an answer holds the most probable classes, the best first."""
    best = sorted(right.values(), reverse=True)[: len(row["top"])]
    return all(
        abs(right.get(one["class"], 2.0) - one["probability"]) < 1e-5 and abs(share - one["probability"]) < 1e-5
        for one, share in zip(row["top"], best, strict=True)
    )


def test_many_clients_and_tasks_get_their_own_answers(bank):
    cases = [(task, picture(seed)) for seed in range(12) for task in METHODS]
    right = [expected(bank, *case) for case in cases]
    with running(bank, max_batch=8, max_latency_ms=20) as service:
        with ThreadPoolExecutor(16) as clients:
            answers = list(clients.map(lambda case: service.predict(*case), cases))
        sizes = service.ask("/metrics").body.decode()
    assert [answer.status for answer in answers] == [200] * len(cases)
    for (task, _), answer, shares in zip(cases, answers, right, strict=True):
        assert answer.json["task"] == task and agrees(answer.json["predictions"][0], shares)
    assert f"promptvit_batch_images_sum {len(cases)}.0" in sizes
    batches = next(line for line in sizes.splitlines() if line.startswith("promptvit_batch_images_count"))
    assert float(batches.split()[1]) < len(cases), "requests shared batches"


def test_one_request_with_several_images(service, bank):
    images = [picture(seed, kind=kind) for seed, kind in enumerate(("PNG", "JPEG", "WEBP"))]
    answer = service.ask("/v1/tasks/gated/predict?top_k=2", *form(*images))
    assert answer.status == 200 and len(answer.json["predictions"]) == 3
    for row, image in zip(answer.json["predictions"], images, strict=True):
        assert len(row["top"]) == 2 and agrees(row, expected(bank, "gated", image))


@pytest.mark.parametrize("kind", ["image/png", "image/whatever", "application/octet-stream"])
def test_a_raw_body_is_one_image_whatever_kind_it_is_called(service, kind):
    assert service.ask("/v1/tasks/probe/predict", picture(), {"Content-Type": kind}).status == 200


def test_tasks_and_health(service, bank):
    assert service.ask("/healthz").json == {"status": "ok", "tasks": len(METHODS)}
    rows = service.ask("/v1/tasks").json["tasks"]
    assert rows == [{"name": name, "num_classes": len(bank.classes(name))} for name in sorted(METHODS)]


@pytest.mark.parametrize("task", METHODS)
def test_attention_says_where_the_model_looked(service, task):
    answer = service.ask(f"/v1/tasks/{task}/attention", picture(size=(80, 40)), RAW).json
    weights = torch.tensor(answer["maps"][0]["weights"])
    assert answer["asked_by"] == ("patches" if task == "probe" else "patches and prompts")
    assert weights.shape == (4, 4) and (weights >= 0).all() and 0.1 < weights.sum() <= 1.0001
    left, top, right, bottom = answer["maps"][0]["box"]
    assert abs((right - left) - 2 * 0.875 / 4) < 0.02 and abs((bottom - top) - 0.875) < 0.02, "the centre, of twice the width"


def bomb() -> bytes:
    """A valid PNG of a kilobyte that is 20,000 x 20,000 pixels once unpacked."""
    header = bytes.fromhex("0000000d49484452") + (20_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    body = b"IDAT" + zlib.compress(bytes(20_000 * 2501 // 100))
    chunk = len(body[4:]).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + header + zlib.crc32(header[4:]).to_bytes(4, "big") + chunk


BAD = {
    "text": (b"not an image", RAW, 422, "not an image"),
    "empty": (b"", RAW, 422, "empty"),
    "truncated": (picture(kind="JPEG")[:700], RAW, 422, "cannot be decoded"),
    "truncated PNG": (picture()[:900], RAW, 422, "cannot be decoded"),
    "executable format": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", RAW, 422, "not an image"),
    "bomb": (bomb(), RAW, 413, "too many pixels"),
    "100 megapixels": (encoded(Image.new("1", (10_000, 10_000))), RAW, 413, "10000 x 10000"),
    "strip": (picture(size=(2000, 1)), RAW, 422, "times the other"),
    "json": (b"{}", {"Content-Type": "application/json"}, 415, "application/json"),
    "no content type": (picture(), {}, 415, "content type ''"),
    "large": (bytes(200_001), RAW, 413, "200,000 bytes"),
    "large form": (*form(bytes(200_001)), 413, "200,000 bytes"),
    "many images": (*form(*[picture()] * 5), 413, "4"),
    "no file in the form": (*form(), 400, "no file"),
    "no boundary": (b"x", {"Content-Type": "multipart/form-data"}, 400, "boundary"),
    "broken form": (b"--edge\r\nnonsense", {"Content-Type": "multipart/form-data; boundary=edge"}, 400, "form"),
    "one bad of two": (*form(picture(), b"bad"), 422, "image 2"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("what", ["predict", "attention"])
def test_what_cannot_be_used_is_refused_in_one_line(service, case, what):
    body, headers, status, words = BAD[case]
    answer = service.ask(f"/v1/tasks/deep/{what}", body, headers)
    assert answer.status == status, answer
    assert words in answer.json["detail"] and "\n" not in answer.json["detail"]
    assert service.alive()


@pytest.mark.parametrize("task", ["nope", "..%2F..%2Fetc%2Fpasswd", "../../healthz", "%00", "a" * 5000, "%E2%80%AE", "deep/"])
def test_an_unknown_or_path_like_task_is_not_found(service, task):
    answer = service.predict(task, picture())
    assert answer.status in (404, 405) and len(answer.body) < 300
    assert service.alive()


@pytest.mark.parametrize("query", ["top_k=0", "top_k=x", "top_k=-1", "top_k=1e9"])
def test_a_bad_parameter_is_named(service, query):
    answer = service.predict("deep", picture(), f"?{query}")
    assert answer.status == 422 and answer.json["detail"].startswith("top_k: ")


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.one_of(st.binary(max_size=300), st.builds(lambda cut, junk: picture()[:cut] + junk, st.integers(8, 400), st.binary(max_size=40))))
def test_no_bytes_bring_it_down(service, content):
    assert service.predict("deep", content).status in (200, 422, 413)


class Slow:
    """A client that sends what it is told to, when it is told to."""

    def __init__(self, service, head: bytes):
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=30)
        self.socket.sendall(head)

    def answer(self) -> bytes:
        with self.socket:
            return b"".join(iter(lambda: self.socket.recv(65536), b""))


HEAD = b"POST /v1/tasks/deep/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


def test_slow_clients_are_sent_away(bank):
    with running(bank, timeout=0.5) as service:
        slow = [Slow(service, head) for head in (b"", b"POST /v1", HEAD, HEAD + b"Content-Length: 500\r\n\r\nabc")]
        assert service.predict("deep", picture()).status == 200, "others are served meanwhile"
        for client in slow:
            assert b" 408 " in client.answer().split(b"\r\n")[0]


def test_a_body_that_drips_on_after_its_refusal_is_cut_off(bank):
    with running(bank, timeout=0.5) as service:
        client = Slow(service, HEAD.replace(b"deep", b"nope") + b"Content-Length: 1000\r\n\r\n")
        started = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < started + 30:
                client.socket.sendall(b"x")
                time.sleep(0.05)
        client.socket.close()


class Held:
    """A bank that answers only once it is let go."""

    def __init__(self, bank):
        self.bank, self.go, self.started = bank, threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self.bank, name)

    def predict(self, images, tasks):
        self.started.set()
        assert self.go.wait(30)
        return self.bank.predict(images, tasks)


def waiting(service) -> float:
    lines = service.ask("/metrics").body.decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("promptvit_queue_images ")))


def until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_full_queue_refuses_and_says_when_to_come_back(bank):
    held = Held(bank)
    with running(held, max_batch=1, max_queue=2, max_images=2) as service, ThreadPoolExecutor(3) as clients:
        first = [clients.submit(service.predict, "deep", picture())]
        assert held.started.wait(30)
        first += [clients.submit(service.predict, "deep", picture(seed)) for seed in (1, 2)]
        until(lambda: waiting(service) == 2)
        refused = service.predict("deep", picture(3))
        assert refused.status == 503 and refused.headers["retry-after"] == "1" and "2 images" in refused.json["detail"]
        assert service.ask("/healthz").status == 200
        held.go.set()
        assert [answer.result().status for answer in first] == [200] * 3
        assert service.predict("deep", picture(3)).status == 200


def test_an_answer_that_takes_too_long_is_given_up(bank):
    held = Held(bank)
    with running(held, timeout=0.3) as service:
        late = service.predict("deep", picture())
        assert late.status == 503 and "0.3 s" in late.json["detail"]
        held.go.set()
        until(lambda: service.predict("deep", picture()).status == 200)


def test_too_many_requests_at_once(bank):
    with running(bank, max_requests=1) as service:
        slow = Slow(service, HEAD + b"Content-Length: 500\r\n\r\nabc")
        until(lambda: service.predict("deep", picture()).status == 503)
        slow.socket.close()
        until(lambda: service.predict("deep", picture()).status == 200)


def test_a_failing_task_does_not_fail_its_neighbours(bank):
    class Damaged(Held):
        def predict(self, images, tasks):
            if "deep" in tasks:
                raise ValueError("damaged")
            return self.bank.predict(images, tasks)

    with running(Damaged(bank), max_latency_ms=300) as service, ThreadPoolExecutor(2) as clients:
        bad, good = (clients.submit(service.predict, task, picture()) for task in ("deep", "gated"))
        assert bad.result().status == 500 and "damaged" not in bad.result().json["detail"]
        assert good.result().status == 200


def test_it_finishes_what_it_accepted_and_takes_nothing_new(bank):
    held = Held(bank)
    with running(held, max_batch=1) as service, ThreadPoolExecutor(3) as clients:
        accepted = [clients.submit(service.predict, "deep", picture(seed)) for seed in range(3)]
        until(lambda: waiting(service) == 2)
        service.server.should_exit = True  # what SIGTERM sets

        def refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", service.port), timeout=5).close()
            except ConnectionRefusedError:
                return True
            return False

        until(refused)
        held.go.set()
        assert [answer.result().status for answer in accepted] == [200] * 3


def test_read_image_is_open_image(tmp_path):
    from promptvit.data.images import open_image

    (tmp_path / "x.png").write_bytes(picture())
    assert read_image(picture(), "x").tobytes() == open_image(tmp_path / "x.png").tobytes()
    assert isinstance(read_image(picture(), "x"), Image.Image)
