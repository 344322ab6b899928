"""The page in a real browser: drop, paste or choose an image, and read each task's answer. Skipped where there is no Chromium."""

import base64
import io
import json

import numpy as np
import pytest
from chromium import PROGRAM, browser
from PIL import Image
from running import RAW, encoded, picture, running, small_backbone, small_model

import promptvit

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")
METHODS = {"beetles": ("vpt-deep", 4), "été & <b>": ("gapt", 3)}  # a name that has to be quoted


@pytest.fixture(scope="module")
def service():
    backbone = small_backbone()
    bank = promptvit.PromptBank(backbone)
    for seed, (task, (method, classes)) in enumerate(METHODS.items()):
        bank.add(task, small_model(backbone, method, classes, seed))
    with running(bank) as found:
        yield found


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(service, chromium):
    chromium.complaints.clear()
    chromium.look(1200, 900)
    chromium.open(f"http://127.0.0.1:{service.port}/")
    chromium.until("document.querySelectorAll('#task-list input').length === 2 && !document.querySelector('article')")
    yield chromium
    assert chromium.complaints == []


@pytest.fixture
def file(tmp_path):
    (tmp_path / "photo.png").write_bytes(picture(3, (120, 80)))
    return tmp_path / "photo.png"


ROWS = "[...document.querySelectorAll('article')].map(card => [card.querySelector('h3').textContent, " \
    "...[...card.querySelectorAll('li')].map(row => [...row.querySelectorAll('span')].map(part => part.textContent))])"


def shown(service, task: str, image: bytes) -> list:
    """What the page must show of the service's own answer."""
    from urllib.parse import quote

    top = service.ask(f"/v1/tasks/{quote(task)}/predict", image, RAW).json["predictions"][0]["top"]
    return [task, *([row["class"], f"{100 * row['probability']:.1f} %"] for row in top)]


def test_a_dropped_image_is_answered_and_looked_into(page, service, file):
    page.drop(file)
    page.until("document.querySelector('#status').textContent.startsWith('beetles: vpt-deep')")
    assert page.value(ROWS) == [shown(service, "beetles", file.read_bytes())]
    widths = page.value("[...document.querySelectorAll('li i')].map(bar => bar.getBoundingClientRect().width)")
    assert widths == sorted(widths, reverse=True) and widths[0] > 20, "the bars are as long as the probabilities are large"
    plain = np.asarray(Image.open(file).convert("RGB"), dtype=int)
    drawn = canvas(page)
    left, middle = drawn[:, : drawn.shape[1] // 10], drawn[:, drawn.shape[1] // 3 : -drawn.shape[1] // 3]
    assert left.mean() < 0.6 * plain.mean(), "what lies outside of the crop is dark"
    assert (middle[..., 0] - middle[..., 2]).mean() > 10, "the overlay is orange"
    assert "strongest at row" in page.value("document.querySelector('canvas').getAttribute('aria-label')")


def canvas(page) -> np.ndarray:
    data = page.value("document.querySelector('canvas').toDataURL()").partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), dtype=int)


def test_the_overlay_can_be_switched_off(page, file):
    page.drop(file)
    page.until("document.querySelector('figcaption')?.textContent.includes('Orange')")
    page.value("document.querySelector('#overlay').click()")
    page.until("document.querySelector('canvas')?.getAttribute('aria-label') === 'The image'")
    assert abs((canvas(page)[..., 0] - canvas(page)[..., 2]).mean()) < 3, "noise again, without a colour"


def test_a_pasted_image(page, service):
    image = picture(4)
    page.value(f"""(() => {{
        const transfer = new DataTransfer(), bytes = Uint8Array.from({json.dumps(list(image))});
        transfer.items.add(new File([bytes], "pasted.png", {{type: "image/png"}}));
        document.body.dispatchEvent(new ClipboardEvent("paste", {{clipboardData: transfer, bubbles: true}}));
    }})()""")
    page.until("document.querySelector('#status').textContent.startsWith('beetles: ')")
    assert page.value(ROWS) == [shown(service, "beetles", image)]


def test_a_chosen_image_and_tasks_with_the_keyboard_alone(page, service, file):
    node = page.call("DOM.querySelector", nodeId=page.call("DOM.getDocument")["root"]["nodeId"], selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])
    page.until("document.querySelectorAll('article').length === 1")
    seen = []
    while (at := page.value("document.activeElement.value || document.activeElement.id")) != "été & <b>":
        seen.append(at)
        page.press("Tab")
        assert len(seen) < 12, seen
    assert page.value("getComputedStyle(document.activeElement).outlineStyle") == "solid", "where the focus is can be seen"
    page.press(" ", text=" ")
    page.until("document.querySelector('#status').textContent.includes('; été & <b>: gapt')")
    assert page.value(ROWS) == [shown(service, task, file.read_bytes()) for task in METHODS]


def test_what_is_no_image_is_said_and_the_next_one_works(page, tmp_path, file):
    (tmp_path / "notes.txt").write_text("no image")
    page.drop(tmp_path / "notes.txt")
    page.until("document.querySelector('#status.bad')?.textContent.includes('not an image')")
    assert [line for line in page.complaints if "422" not in line] == [], "the browser itself logs refused requests"
    page.complaints.clear()
    page.drop(file)
    page.until("document.querySelectorAll('article').length === 1 && !document.querySelector('#status.bad')")


def test_an_image_that_the_browser_cannot_show(page, tmp_path):
    (tmp_path / "scan.tiff").write_bytes(encoded(Image.open(io.BytesIO(picture(5))), "TIFF"))
    page.drop(tmp_path / "scan.tiff")
    page.until("document.querySelector('figcaption')?.textContent.includes('cannot show')")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_draws_within_its_width(page, tmp_path, file, width, scheme):
    page.look(width, 900, scheme)
    page.value("document.querySelector('#all').click()")
    page.drop(file)
    page.until("document.querySelectorAll('article').length === 2 && !document.querySelector('#status').textContent.includes('Working')")
    assert page.value("document.documentElement.scrollWidth") <= width
    screenshot = page.screenshot()
    (tmp_path / "page.png").write_bytes(screenshot)
    pixels = np.asarray(Image.open(io.BytesIO(screenshot)).convert("L"))
    assert (pixels.max() - pixels.min() > 150) and (np.median(pixels) > 128) == (scheme == "light")
