"""A measurement's records on another machine: copied once, or left where they were written."""

from __future__ import annotations

from pathlib import Path

import pytest

from playground.cluster.kept_files import KeptFiles
from playground.errors import MachineLost


class There:
    """The other machine: what was copied there, and what was deleted."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.deleted: list[str] = []
        self.is_lost = False
        self.files = KeptFiles(self._send, self.deleted.append)

    def _send(self, ours: str) -> str:
        if self.is_lost:  # as Machine.call does
            self.files.lost()
            raise MachineLost.of("there", "it was switched off")
        self.sent.append(Path(ours).read_text())
        return f"/there/{len(self.sent)}"


@pytest.fixture
def there() -> There:
    return There()


def test_file_when_it_is_there_already_then_it_is_not_copied_again(there: There, tmp_path: Path) -> None:
    record = tmp_path / "record"
    record.write_text("first")
    assert [there.files.there(str(record)) for _ in range(3)] == ["/there/1"] * 3
    record.write_text("another one")
    assert there.files.there(str(record)) == "/there/2"
    assert (there.sent, there.deleted) == (["first", "another one"], ["/there/1"])


@pytest.mark.parametrize("stays", [True, False])
def test_file_when_it_was_written_there_then_it_is_not_copied_there(
    there: There, tmp_path: Path, *, stays: bool
) -> None:
    record = tmp_path / "record"
    if not stays:
        record.write_text("fetched")
    there.files.written("/there/own", str(record), stays=stays)
    assert record.read_text() == ("" if stays else "fetched")
    assert there.files.there(str(record)) == "/there/own"
    assert there.sent == []


def test_file_when_deleted_here_then_deleted_there_too(there: There, tmp_path: Path) -> None:
    record = tmp_path / "record"
    there.files.written("/there/own", str(record), stays=True)
    there.files.tidy()
    assert there.deleted == []
    record.unlink()
    there.files.tidy()
    assert there.deleted == ["/there/own"]


def test_files_when_the_machine_is_lost_then_nothing_here_stands_for_them(there: There, tmp_path: Path) -> None:
    own, fetched, written_since = (tmp_path / name for name in ("own", "fetched", "since"))
    fetched.write_text("fetched")
    there.files.written("/there/own", str(own), stays=True)
    there.files.written("/there/fetched", str(fetched), stays=False)
    there.files.written("/there/since", str(written_since), stays=True)
    written_since.write_text("measured elsewhere")
    there.files.lost()
    assert (own.exists(), fetched.read_text(), written_since.read_text()) == (False, "fetched", "measured elsewhere")


def test_files_when_the_machine_is_lost_while_one_is_copied_there_then_that_is_raised(
    there: There, tmp_path: Path
) -> None:
    own, record = tmp_path / "own", tmp_path / "record"
    record.write_text("reference")
    there.files.written("/there/own", str(own), stays=True)
    there.is_lost = True
    with pytest.raises(MachineLost):
        there.files.there(str(record))
    assert not own.exists()
    assert record.exists()


def test_file_when_its_machine_was_lost_before_its_reply_was_read_then_nothing_here_stands_for_it(
    there: There, tmp_path: Path
) -> None:
    there.files.lost()
    there.files.written("/there/own", str(tmp_path / "own"), stays=True)
    assert not (tmp_path / "own").exists()
