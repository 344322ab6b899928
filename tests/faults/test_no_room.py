"""A disk that is full, a folder that may not be written: said with its name, nothing spoilt, gone on with later."""

import errno

import pytest
from faults.limits import public_folder, small_disk, unwritable
from faults.targets import AdapterSaving, CacheBuilding, Export, Pretrain, Sweep, Train, prepare

from promptvit import files


@pytest.fixture(scope="module")
def shared():
    with public_folder() as folder:
        prepare(folder)
        yield folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", [Train, Sweep, Pretrain, AdapterSaving])
def test_a_folder_that_may_not_be_written_is_named(shared, kind):
    with public_folder() as place, unwritable(place), pytest.raises(PermissionError, match=str(place)):
        kind(shared).work(place / "new" / "out")


def test_a_run_that_may_not_be_written_any_more_stays_as_it_is(shared):
    target = Train(shared)
    with public_folder() as place:
        target.work(place / "run")
        before = contents(place)
        with unwritable(place), pytest.raises(PermissionError, match=str(place / "run")):
            target.work(place / "run")
        assert contents(place) == before


def test_an_export_that_may_not_be_replaced_stays(shared):
    target = Export(shared, "pt2")
    with public_folder() as place:
        target.begin(place / "out")
        before = contents(place)
        with unwritable(place), pytest.raises(PermissionError, match=r"model\.pt2"):
            target.work(place / "out")
        assert contents(place) == before


def test_without_a_place_for_the_cache_it_goes_on(shared, caplog):
    with public_folder() as place, unwritable(place):
        assert CacheBuilding(shared).work(place)
    assert sum("going on without" in record.message for record in caplog.records) > 0


def test_training_onto_a_full_disk(shared, tmp_path):
    """It stops with the name of the file; with more room it goes on and gives the same numbers."""
    target = Train(shared)
    target.work(tmp_path / "whole")
    for room in (4096, 16384, 40960):
        with small_disk(room) as disk:
            with pytest.raises(OSError, match="No space left|cannot write") as caught:
                target.work(disk / "run")
            assert str(disk / "run") in str(caught.value)
            target.finished(disk / "run")
            assert not [name for name in contents(disk) if name.endswith(files.UNFINISHED)]
            for path in disk.rglob("*"):
                copy = tmp_path / str(room) / path.relative_to(disk / "run") if path != disk / "run" else None
                if copy is not None and path.is_file():
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    copy.write_bytes(path.read_bytes())
        target.work(tmp_path / str(room))
        assert target.outcome(tmp_path / str(room)) == target.outcome(tmp_path / "whole")


def test_no_room_is_said_of_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "a" / "b.bin"
    with pytest.raises(OSError, match=r"No space left on device: '.*b\.bin'") as caught, files.atomic(path):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 576 vs 534") from None
    assert caught.value.errno == errno.ENOSPC and list(path.parent.iterdir()) == []


def test_other_errors_inside_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), files.atomic(tmp_path / "a"):
        (tmp_path / "nowhere").read_bytes()
    with pytest.raises(RuntimeError, match="boom"), files.atomic(tmp_path / "a"):
        raise RuntimeError("boom")
    assert list(tmp_path.iterdir()) == []
