"""Files that commands write: whole, or as they were."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from playground.cli.options import write_file
from playground.errors import BadInput, NoRoom
from testkit.full_disk import full_disk, needs_linux

COMMANDS = sorted((Path(__file__).parents[2] / "playground" / "cli").glob("*.py"))


@needs_linux
def test_file_when_the_disk_is_full_then_the_older_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(b"older")
    with full_disk(), pytest.raises(NoRoom, match=r"card\.json cannot be written: the disk is full"):
        write_file(path, b"newer")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("card.json", b"older")]
    write_file(path, b"newer")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("card.json", b"newer")]


def test_file_when_its_folder_is_missing_then_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"There is no folder .*gone to write card\.json in"):
        write_file(tmp_path / "gone" / "card.json", b"new")
    assert list(tmp_path.iterdir()) == []


def test_file_when_a_link_then_what_it_leads_to_is_written(tmp_path: Path) -> None:
    """A device would be gone if it were replaced."""
    (tmp_path / "target.json").write_bytes(b"older")
    for target in ("/dev/null", tmp_path / "target.json"):
        (tmp_path / "link.json").unlink(missing_ok=True)
        (tmp_path / "link.json").symlink_to(target)
        write_file(tmp_path / "link.json", b"newer")
        assert (tmp_path / "link.json").readlink() == Path(target)
    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "target.json").read_bytes() == b"newer"


def test_commands_when_they_write_results_then_by_that_function() -> None:
    names = {
        command.stem: {
            node.attr for node in ast.walk(ast.parse(command.read_text())) if isinstance(node, ast.Attribute)
        }
        for command in COMMANDS
    }
    assert {"gate", "measure", "pack", "quantize", "suites"} <= set(names)
    assert [name for name, used in names.items() if used & {"write_text", "write_bytes", "ElementTree"}] == []
