"""Which pages of a document are read: by numbers, by a file's name, and by default the first ones."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest

from playground.comparing.image_decoder import DECODER
from playground.comparing.pages import read_numbers, split_name, words
from playground.errors import BadImage, BadInput


@pytest.mark.parametrize(
    ("text", "numbers", "listed"),
    [
        ("3", (3,), "3"),
        ("2,5-7", (2, 5, 6, 7), "2, 5-7"),
        (" 7 , 1 – 2 ", (7, 1, 2), "7, 1-2"),
        ("4,4,3-4", (4, 3), "4, 3"),
        ("1-8", tuple(range(1, 9)), "1-8"),
    ],
)
def test_numbers_when_written_as_people_do_then_read_in_their_order(
    text: str, numbers: tuple[int, ...], listed: str
) -> None:
    assert read_numbers(text) == numbers
    assert words(numbers) == listed
    assert read_numbers(listed) == numbers


@pytest.mark.parametrize("text", ["", "a", "0", "3-2", "1,", "1-9", "1-999999", "-1", "1" * 7, "1,2,3,4,5,6,7,8,9"])
def test_numbers_when_invalid_or_too_many_then_refused(text: str) -> None:
    with pytest.raises(BadInput):
        read_numbers(text)


def test_name_when_it_ends_in_pages_then_they_are_read_unless_a_file_is_called_so(tmp_path: Path) -> None:
    name = str(tmp_path / "a.pdf")
    assert split_name(f"{name}#page=3") == (name, (3,))
    assert split_name(f"{name}#pages=2,4") == (name, (2, 4))
    assert split_name(name) == (name, None)
    (tmp_path / "a.pdf#page=3").touch()
    assert split_name(f"{name}#page=3") == (f"{name}#page=3", None)


@pytest.mark.parametrize("kind", ["pdf", "tiff"])
def test_document_when_pages_are_wanted_then_these_and_its_length_is_told(tmp_path: Path, kind: str) -> None:
    sheets = [PIL.Image.new("RGB", (20 + n, 10), (20 * n, 0, 0)) for n in range(10)]
    path = tmp_path / f"a.{kind}"
    sheets[0].save(path, save_all=True, append_images=sheets[1:])
    first = DECODER.read_pages(path)
    assert (first.numbers, first.pages, len(first.images)) == (tuple(range(1, 9)), 10, 8)
    chosen = DECODER.read_pages(path, (10, 2))
    assert (chosen.numbers, chosen.pages) == ((10, 2), 10)
    assert all(f"page {n} of 10" in str(image.note) for n, image in zip((10, 2), chosen.images, strict=True))
    assert chosen.images[1].sha256 == first.images[1].sha256
    with pytest.raises(BadImage, match=rf"a\.{kind} has 10 pages: there is no page 11"):
        DECODER.read_pages(path, (11,))


def test_picture_when_its_second_page_is_wanted_then_it_has_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PIL.Image.new("RGB", (9, 9)).save(path)
    assert DECODER.read_pages(path, (1,)).pages == 1
    with pytest.raises(BadImage, match="has 1 page: there is no page 2"):
        DECODER.read_pages(path, (2,))
