"""Which checkpoints a run can go on from."""

import pytest

from autoreg_trainers.checkpoints import (
    COMPLETE_FILE,
    drop_checkpoints,
    last_checkpoint,
    mark_complete,
)


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of the steps 2 and 10, whole, and of 12, which was cut off."""
    for step in (2, 10, 12):
        (tmp_path / f"checkpoint-{step}" / "part").mkdir(parents=True)
        for name in ("optimizer.pt", "part/weights"):
            (tmp_path / f"checkpoint-{step}" / name).write_bytes(b"numbers")
        if step != 12:
            mark_complete(tmp_path / f"checkpoint-{step}")
    return tmp_path


def test_the_last_is_that_of_most_steps(folder):
    assert last_checkpoint(folder) == folder / "checkpoint-10"
    assert last_checkpoint(folder / "nowhere") is None


@pytest.mark.parametrize("name", ["optimizer.pt", "part/weights", COMPLETE_FILE])
@pytest.mark.parametrize("content", [None, b"num"])
def test_one_that_lacks_something_is_passed_over_and_named(folder, caplog, name, content):
    file = folder / "checkpoint-10" / name
    file.unlink() if content is None else file.write_bytes(content)
    assert last_checkpoint(folder) == folder / "checkpoint-2"
    if file.name != COMPLETE_FILE or content is not None:
        assert f"{folder / 'checkpoint-10'} is damaged" in caplog.text
    drop_checkpoints(folder, keep=1)
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]


def test_one_of_an_older_version_counts(folder):
    (folder / "checkpoint-10" / COMPLETE_FILE).write_bytes(b"")
    assert last_checkpoint(folder) == folder / "checkpoint-10"


def test_a_copy_under_another_name_is_left_alone(folder):
    (folder / "checkpoint-2").rename(folder / "checkpoint-20-copy")
    assert last_checkpoint(folder) == folder / "checkpoint-10"
    drop_checkpoints(folder, keep=1)
    assert {path.name for path in folder.iterdir()} == {"checkpoint-10", "checkpoint-20-copy"}
