"""Classes, files, methods and tasks named as markup: no page lets them act, and none reaches for anything outside itself."""

import pytest
from experiments.made_up import run
from helpers import noise_images, tiny_backbone
from PIL import Image
from serving.chromium import PROGRAM, browser
from serving.running import picture, running, small_backbone, small_model

import promptvit
from promptvit.experiments.insight import analyze
from promptvit.experiments.report import make_report, write_report

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")
MARKUP = ("<script>window.bad=1<", "<img src=x onerror=window.bad=1>", "\"'><svg onload=window.bad=1>", "{{bad}} $x^{$ &lt;b&gt;")
CLOSED = "</script></style></textarea><script>window.bad=1</script>"  # no name of a folder, for it holds slashes


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(chromium):
    chromium.complaints.clear()
    yield chromium
    assert chromium.value("window.bad") is None, "a name ran as a script"
    assert [line for line in chromium.complaints if "422" not in line] == []


def sealed(page, path) -> str:
    """The text of a page of ours that was opened from a file: it needs nothing else."""
    page.open(path.as_uri())
    page.until("document.readyState === 'complete' && document.querySelector('h1')")
    assert page.value("performance.getEntriesByType('resource').filter(one => !one.name.startsWith('data:')).length") == 0
    assert page.value("document.querySelectorAll('iframe, object, embed, link, base, form').length") == 0
    reached = "[...document.querySelectorAll('[src], [href], [data], [action]')].flatMap(one => [...one.attributes].map(a => a.value))"
    assert page.value(f"{reached}.some(value => /^\\s*[a-z]*:?[/][/]|^file:|^https?:/i.test(value))") is False
    return page.value("document.body.innerText")


def test_a_name_would_act_if_it_were_not_escaped(chromium, tmp_path):
    (tmp_path / "bad.html").write_text(f"<h1>x</h1>{MARKUP[1]}")
    chromium.open((tmp_path / "bad.html").as_uri())
    chromium.until("window.bad === 1")


def test_the_report(page, tmp_path):
    names = (*MARKUP, CLOSED)
    for i, name in enumerate(names):
        for task in ("digits", f"{name} data"):
            run(tmp_path / "runs", task, 0.1 * i, method=name, backbone=names[0], settings={"augment": name, "normalization": name})
    broken = tmp_path / "runs" / MARKUP[1]
    broken.mkdir()
    (broken / "result.json").write_text("{")
    path = write_report(make_report([tmp_path / "runs"]), tmp_path, ["html"])[0]
    text = sealed(page, path)
    assert all(name in text for name in names)
    assert page.value("document.scripts.length") == 1 and page.value("document.images.length") == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on classes and files that are named as markup."""
    folder = tmp_path_factory.mktemp("runs")
    places = [f"{name}/{i}{MARKUP[(label + i) % 4]}.png" for label, name in enumerate(MARKUP) for i in range(10)]
    noise_images(folder / "data", dict.fromkeys(places, 255))
    odd = folder / "data" / MARKUP[0] / b"\xff\xfe.png".decode(errors="surrogateescape")
    Image.new("RGB", (32, 32)).save(odd)
    out = folder / MARKUP[1]
    promptvit.train(
        backbone=tiny_backbone(folder / "backbone"), method="linear", data="folder", data_root=str(folder / "data"), epochs=1, out=str(out)
    )
    return out


def test_the_analysis(page, trained, tmp_path):
    analyze([str(trained)], tmp_path, split="train", images=64, examples=1)
    text = sealed(page, tmp_path / "index.html")
    assert sum(name in text for name in MARKUP) >= 2, "in the tables of the hardest classes and of mistakes"
    assert page.value("document.scripts.length") == 0
    assert page.value("[...document.images].every(image => image.src.startsWith('data:image/png'))")


def test_the_service(page, tmp_path):
    backbone = small_backbone()
    bank = promptvit.PromptBank(backbone)
    model = small_model(backbone, "linear", 3)
    model.classes = [MARKUP[1], CLOSED, MARKUP[2]]
    bank.add(MARKUP[0], model)
    file = tmp_path / f"{MARKUP[1]}.png"
    file.write_bytes(picture(1, (60, 40)))
    with running(bank) as service:
        page.open(f"http://127.0.0.1:{service.port}/")
        page.until("document.querySelectorAll('#task-list input').length === 1")
        page.drop(file)
        page.until("document.querySelectorAll('article li').length === 3")
        text = page.value("document.body.innerText")
        assert all(name in text for name in (*model.classes, file.name, MARKUP[0]))
        assert page.value("document.images.length") == 0 and page.value("document.scripts.length") == 1
        address = f"http://127.0.0.1:{service.port}/"
        assert page.value(
            f"performance.getEntriesByType('resource').every(one => /^(blob:|data:)/.test(one.name) || one.name.startsWith('{address}'))"
        )
