"""Downloads from a server on this machine: resumed, checked, unpacked; and everything that may go wrong on the way."""

import errno
import hashlib
import inspect
import io
import random
import re
import stat
import tarfile
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torchvision
from torchvision_copies import build

from promptvit.cli import main
from promptvit.data import list_datasets, load_dataset, torchvision_sets
from promptvit.data.fetch import download, sources
from promptvit.data.fetch.get import get
from promptvit.data.fetch.sources import Download, Source

CONTENT = bytes(range(256)) * 4000  # a megabyte


class Server(ThreadingHTTPServer):
    """Serves ``files`` with Range; ``script`` says what goes wrong with the next answers.

    ``int``: that many bytes, then the connection drops; ``(status,)``: only that status; ``"whole"``: 200 whatever the Range.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.script, self.ranges = {}, [], []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        fault = self.server.script.pop(0) if self.server.script else None
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        content = self.server.files.get(self.path)
        if content is None or isinstance(fault, tuple):
            self.send_response(fault[0] if fault else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and fault != "whole" else 0
        if start >= len(content) > 0 and asked:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + fault] if isinstance(fault, int) else content[start:])
        if isinstance(fault, int):
            self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Server()
    thread = Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def digest(content, algorithm="sha256"):
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def fetched(server, target, checksum=None, **options):
    server.files.setdefault("/set.bin", CONTENT)
    seen = []
    known = digest(CONTENT) if checksum is None else checksum
    download.fetch([f"{server.address}/set.bin"], target, known, lambda done, total: seen.append((done, total)), **options)
    return seen


def tar(members):
    """A gzipped tar of names and contents; a content that is a TarInfo goes in as it is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def offer(server, monkeypatch, *files, name="fgvc/cub", note="", checksum=digest):
    """Make ``name`` consist of these (file name, folder, content)."""
    downloads = []
    for file, into, content in files:
        server.files[f"/{file}"] = content
        downloads.append(Download(file, into, checksum(content) if checksum else "", (f"{server.address}/{file}",)))
    monkeypatch.setitem(sources.SOURCES, name, Source(tuple(downloads), note))


def refusal(call):
    with pytest.raises(ValueError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def listing(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_a_download(server, tmp_path, algorithm):
    seen = fetched(server, tmp_path / "new" / "set.bin", digest(CONTENT, algorithm))
    assert (tmp_path / "new" / "set.bin").read_bytes() == CONTENT and listing(tmp_path) == ["new/set.bin"]
    assert seen == sorted(seen) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert server.ranges == [None]


def test_a_dropped_connection_is_resumed(server, tmp_path):
    server.script = [300_000, (503,), 100_000, None]
    fetched(server, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-", "bytes=300000-", "bytes=400000-"]


def test_a_later_call_goes_on_with_what_is_there(server, tmp_path):
    server.script = [300_000] + [(500,)] * download.TRIES
    message = refusal(lambda: fetched(server, tmp_path / "set.bin"))
    assert "HTTP 500" in message and "300,000 bytes are kept" in message and "--mirror" in message
    assert listing(tmp_path) == ["set.bin.part"]
    server.ranges.clear()
    fetched(server, tmp_path / "set.bin")
    assert server.ranges == ["bytes=300000-"] and (tmp_path / "set.bin").read_bytes() == CONTENT
    assert listing(tmp_path) == ["set.bin"]


def test_a_part_that_is_whole_already(server, tmp_path):
    (tmp_path / "set.bin.part").write_bytes(CONTENT)
    fetched(server, tmp_path / "set.bin")
    assert server.ranges == [f"bytes={len(CONTENT)}-"] and (tmp_path / "set.bin").read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_started_over(server, tmp_path):
    (tmp_path / "set.bin.part").write_bytes(CONTENT + b"more")
    fetched(server, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


def test_a_server_without_ranges(server, tmp_path):
    server.script = [300_000, "whole"]
    fetched(server, tmp_path / "set.bin")
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


def test_what_is_there_is_verified_and_kept(server, tmp_path):
    (tmp_path / "set.bin").write_bytes(CONTENT)
    assert fetched(server, tmp_path / "set.bin") == [] and server.ranges == []


@pytest.mark.parametrize("there", [True, False])
def test_a_wrong_checksum(server, tmp_path, there):
    if there:
        (tmp_path / "set.bin").write_bytes(CONTENT)
    message = refusal(lambda: fetched(server, tmp_path / "set.bin", digest(b"other")))
    assert "wrong checksum" in message and digest(CONTENT).partition(":")[2] in message and "set.bin.bad" in message
    assert listing(tmp_path) == ["set.bin.bad"]


def test_the_next_address_is_tried(server, tmp_path):
    server.files["/set.bin"] = CONTENT
    urls = [f"{server.address}/gone/set.bin", f"{server.address}/set.bin"]
    download.fetch(urls, tmp_path / "set.bin", digest(CONTENT), lambda *_: None)
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    message = refusal(lambda: download.fetch(urls[:1], tmp_path / "other", "", lambda *_: None))
    assert f"{urls[0]}: HTTP 404" in message and len(server.ranges) == 3, "a 404 is not tried again"
    assert listing(tmp_path) == ["set.bin"]


def test_nobody_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    gone = Server()
    gone.server_close()
    assert gone.address in refusal(lambda: download.fetch([f"{gone.address}/x"], tmp_path / "x", "", lambda *_: None))


def test_no_room(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(download.shutil, "disk_usage", lambda _: namedtuple("Usage", "total used free")(10, 5, 5))
        message = refusal(lambda: fetched(server, tmp_path / "set.bin"))
        assert "GiB are needed" in message and "are free" in message

    def nothing_left(part, needed):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_check_space", nothing_left)
    assert "disk is full" in refusal(lambda: fetched(server, tmp_path / "set.bin"))


def test_only_http(tmp_path):
    assert "http" in refusal(lambda: get("fgvc/cub", tmp_path, mirror="file:///etc/passwd", say=lambda _: None))


@pytest.mark.parametrize(("file", "pack"), [("set.tgz", tar), ("set.tar.gz", tar), ("set.zip", zipped)])
def test_get_downloads_verifies_and_unpacks(server, tmp_path, monkeypatch, file, pack):
    content = pack({"top/images/1.jpg": b"one", "top/list.txt": b"two"})
    offer(server, monkeypatch, (file, "inner", content), ("labels.mat", "inner", b"labels"), note="mind the step")
    said = []
    get("fgvc/cub", tmp_path / "root", say=said.append)
    folder = tmp_path / "root" / "inner"
    assert listing(folder) == [f".{file}.done", "labels.mat", "top/images/1.jpg", "top/list.txt"]
    assert (folder / "top" / "images" / "1.jpg").read_bytes() == b"one" and (folder / "labels.mat").read_bytes() == b"labels"
    assert said[0] == "note: mind the step" and f"{file}: sha256 as published" in said
    asked = len(server.ranges)
    get("fgvc/cub", tmp_path / "root", say=said.append)
    assert len(server.ranges) == asked and "was unpacked" in said[-3], "nothing is downloaded twice"


def test_archives_are_merged_into_one_folder(server, tmp_path, monkeypatch):
    parts = [("a.zip", "", zipped({"set/train/1": b"1"})), ("b.zip", "", zipped({"set/test/2": b"2", "set/train/3": b"3"}))]
    offer(server, monkeypatch, *parts)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").write_bytes(b"mine")
    get("fgvc/cub", tmp_path, say=lambda _: None)
    assert [name for name in listing(tmp_path) if not name.startswith(".")] == ["set/mine", "set/test/2", "set/train/1", "set/train/3"]


def test_without_a_checksum_it_says_unverified(server, tmp_path, monkeypatch):
    offer(server, monkeypatch, ("set.zip", "", zipped({"x": b"x"})), checksum=None)
    said = []
    get("fgvc/cub", tmp_path, say=said.append)
    assert "set.zip: unverified: no checksum of it is published" in said and (tmp_path / "x").read_bytes() == b"x"


def link(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def zip_link():
    info = zipfile.ZipInfo("x")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zipped({info: "/etc/passwd"})


def damaged(content):
    return content[: len(content) // 2]


def flipped():
    content = bytearray(zipped({"x": random.Random(0).randbytes(1000)}))
    content[500] ^= 255
    return bytes(content)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.tgz", tar({"good": b"1", "../evil": b"2"})),
        ("a.tgz", tar({"good": b"1", "in/../../evil": b"2"})),
        ("a.tgz", tar({"good": b"1", "out": link("out", ".."), "out/evil": b"2"})),
        ("a.tgz", tar({"good": b"1", "out": link("out", "/etc")})),
        ("a.zip", zipped({"good": b"1", "../evil": b"2"})),
        ("a.zip", zipped({"good": b"1", "/evil": b"2"})),
        ("a.zip", zipped({"good": b"1", "in\\..\\..\\evil": b"2"})),
        ("a.zip", zipped({"good": b"1", "C:/evil": b"2"})),
        ("a.zip", zip_link()),
        ("a.zip", damaged(zipped({"good": b"1" * 999}))),
        ("a.zip", flipped()),
        ("a.zip", b"<html>please log in</html>"),
        ("a.tgz", b"<html>please log in</html>"),
        ("a.tgz", damaged(tar({"good": bytes(range(256)) * 99}))),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",  # archives hold times; ids must not
)
def test_a_hostile_or_damaged_archive_leaves_nothing(server, tmp_path, monkeypatch, file, content):
    offer(server, monkeypatch, (file, "in", content))
    message = refusal(lambda: get("fgvc/cub", tmp_path / "root", say=lambda _: None))
    assert file in message and "set aside" in message and "nothing was unpacked" in message
    assert listing(tmp_path) == [f"root/in/{file}.bad"]


def test_an_absolute_tar_member_stays_inside(server, tmp_path, monkeypatch):
    offer(server, monkeypatch, ("a.tgz", "", tar({f"{tmp_path}/evil": b"2"})))
    get("fgvc/cub", tmp_path / "root", say=lambda _: None)
    assert not (tmp_path / "evil").exists() and (tmp_path / "root" / str(tmp_path)[1:] / "evil").exists()


def test_a_mirror_is_a_folder_or_the_file_itself(server, tmp_path, monkeypatch):
    content = zipped({"x": b"x"})
    gone = Download("set.zip", "", digest(content), ("http://127.0.0.1:9/set.zip",))
    monkeypatch.setitem(sources.SOURCES, "fgvc/cub", Source((gone,)))
    server.files = {"/copies/set.zip": content, "/copies/set.zip?download=true": content}
    for i, mirror in enumerate(("/copies", "/copies/", "/copies/set.zip", "/copies/set.zip?download=true")):
        get("fgvc/cub", tmp_path / str(i), mirror=server.address + mirror, say=lambda _: None)
        assert (tmp_path / str(i) / "x").read_bytes() == b"x"


def test_a_set_behind_a_form(server, tmp_path, monkeypatch):
    content = tar({"nabirds/images/1.jpg": b"1"})
    known = Download("nabirds.tar.gz", "", digest(content, "md5"))
    note = sources.SOURCES["fgvc/nabirds"].note
    monkeypatch.setitem(sources.SOURCES, "fgvc/nabirds", Source((known,), note))
    message = refusal(lambda: get("fgvc/nabirds", tmp_path, say=lambda _: None))
    assert "https://dl.allaboutbirds.org/nabirds" in message and "nabirds.tar.gz" in message and str(tmp_path) in message
    (tmp_path / "nabirds.tar.gz").write_bytes(content)
    get("fgvc/nabirds", tmp_path, say=lambda _: None)
    assert (tmp_path / "nabirds" / "images" / "1.jpg").exists() and server.ranges == []
    get("fgvc/nabirds", tmp_path, say=lambda _: None)


def test_names(tmp_path):
    assert "did you mean fgvc/cub" in refusal(lambda: get("fgvc/cup", tmp_path))
    assert "needs no download" in refusal(lambda: get("digits", tmp_path))
    assert "needs no download" in refusal(lambda: get("proc/birds", tmp_path))
    assert "your own images" in refusal(lambda: get("folder", tmp_path))
    assert "leave the option out" in refusal(lambda: get("torchvision/mnist", tmp_path, mirror="http://x"))
    assert not any(tmp_path.iterdir())
    assert sources.find("vtab/cifar") is sources.find("vtab") and not sources.find("vtab").downloads[0].checksum
    for name in sources.names():
        source = sources.find(name)
        assert source is None or source.note or all(entry.urls for entry in source.downloads)
    known = [name for name in list_datasets() if name.partition("/")[0] in ("hta", "torchvision")]
    assert set(known) <= set(sources.names()), "every set that torchvision reads can be asked for"


def test_addresses_and_checksums_are_those_that_torchvision_publishes():
    for name, source in sources.SOURCES.items():
        if name.partition("/")[0] not in ("hta", "torchvision") or name == "torchvision/stanfordcars":
            continue
        kind = getattr(torchvision.datasets, torchvision_sets.SETS[name.partition("/")[2]].kind)
        code = inspect.getsource(inspect.getmodule(kind))
        for entry in source.downloads:
            assert entry.checksum.removeprefix("md5:") in code and entry.file in code
            assert entry.urls[0] in code or entry.urls[0].removesuffix(entry.file) in code


def test_checksums_are_well_formed():
    lengths = {"md5": 32, "sha1": 40, "sha256": 64}
    for source in [*sources.SOURCES.values(), sources.find("vtab")]:
        for entry in source.downloads:
            algorithm, _, hexed = entry.checksum.partition(":")
            assert not entry.checksum or re.fullmatch(f"[0-9a-f]{{{lengths[algorithm]}}}", hexed)


def test_what_torchvision_downloads_itself(tmp_path, monkeypatch):
    from torchvision import datasets

    def downloads(self):
        build("mnist", tmp_path, monkeypatch)

    monkeypatch.setattr(datasets.MNIST, "download", lambda self: None if self._check_exists() else downloads(self))
    get("torchvision/mnist", tmp_path, say=lambda _: None)
    assert len(load_dataset("torchvision/mnist", root=tmp_path).classes) == 10
    monkeypatch.setattr(datasets.KMNIST, "download", lambda self: (_ for _ in ()).throw(OSError("no route")))
    assert "OSError: no route" in refusal(lambda: get("torchvision/kmnist", tmp_path, say=lambda _: None))


@pytest.mark.parametrize("short", ["cifar10", "dtd", "food101", "gtsrb", "svhn", "flowers102", "oxfordiiitpet", "stl10"])
def test_what_get_unpacks_is_what_the_reader_reads(server, tmp_path, monkeypatch, short):
    """The archive holds what torchvision's own would, seen from the folder that it is unpacked in."""
    copy = build(short, tmp_path / "copy", monkeypatch)
    files, parts = {path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()}, []
    entries = sources.SOURCES[f"torchvision/{short}"].downloads
    for i, entry in enumerate(entries):
        inside = {name.removeprefix(f"{entry.into}/") if entry.into else name: content for name, content in files.items()}
        if not entry.file.endswith((".gz", ".tgz", ".zip")):
            content = inside[entry.file]
        else:
            single = {other.file for other in entries}
            members = {name: content for j, (name, content) in enumerate(sorted(inside.items())) if name not in single}
            archives = sum(other.file.endswith((".gz", ".tgz", ".zip")) for other in entries)
            members = dict(list(members.items())[i::archives])
            content = zipped(members) if entry.file.endswith(".zip") else tar(members)
        parts.append((entry.file, entry.into, content))
    offer(server, monkeypatch, *parts, name=f"torchvision/{short}")
    get(f"torchvision/{short}", tmp_path / "root", say=lambda _: None)
    ours, theirs = (load_dataset(f"torchvision/{short}", root=root) for root in (tmp_path / "root", copy))
    assert [split.identifiers for split in ours.splits.values()] == [split.identifiers for split in theirs.splits.values()]


def test_the_command(server, tmp_path, monkeypatch, capsys):
    offer(server, monkeypatch, ("set.zip", "", zipped({"x": b"x"})))
    main(["data", "get", "fgvc/cub", "--data-root", str(tmp_path)])
    printed = capsys.readouterr()
    assert (tmp_path / "x").exists() and f"promptvit data check fgvc/cub --data-root {tmp_path}" in printed.out and printed.err == ""
    (tmp_path / ".set.zip.done").unlink()
    server.files.clear()
    with pytest.raises(SystemExit) as stopped:
        main(["data", "get", "fgvc/cub", "--data-root", str(tmp_path)])
    printed = capsys.readouterr().err
    assert stopped.value.code == 1 and printed.startswith("error: cannot download") and printed.count("\n") == 1
