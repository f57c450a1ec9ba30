"""Images decoded in a child: as in this process, within a time and a memory, and two at a time."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import PIL.Image
import psutil
import pytest

from playground.comparing.image_decoder import ImageDecoder
from playground.comparing.images import read_image
from playground.errors import BadImage, Busy
from testkit.running import SCENE


@pytest.fixture
def decoder() -> Iterator[ImageDecoder]:
    opened = ImageDecoder(time_s=20, memory_bytes=7 * 10**8)
    yield opened
    opened.close()


def encoded(image: PIL.Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return io.BytesIO(file.getvalue())


@pytest.fixture(scope="module")
def bomb() -> io.BytesIO:
    """Some hundred kilobytes; 353 MB of pixels."""
    return encoded(PIL.Image.new("RGBA", (9400, 9400), (9, 9, 9, 9)), "PNG", compress_level=1)


def test_image_when_decoded_in_a_child_then_the_same_as_here(decoder: ImageDecoder, tmp_path: Path) -> None:
    decoder.prepare()
    assert decoder.read(SCENE) == read_image(SCENE)
    photo = encoded(PIL.Image.new("RGB", (4000, 3000), "teal"), "JPEG")
    assert decoder.read(photo, "photo.jpg", max_pixels=1_000_000) == read_image(photo, max_pixels=1_000_000)
    assert decoder.read(SCENE) == read_image(SCENE)
    for broken in (tmp_path, tmp_path / "missing.png"):
        with pytest.raises(BadImage) as in_child:
            decoder.read(broken)
        with pytest.raises(BadImage) as here:
            read_image(broken)
        assert in_child.value.message == here.value.message


def test_image_when_it_takes_too_much_memory_then_refused_and_the_next_one_is_read(
    decoder: ImageDecoder, bomb: io.BytesIO
) -> None:
    with pytest.raises(BadImage, match=r"bomb\.png"):
        decoder.read(bomb, "bomb.png")
    assert decoder.read(SCENE) == read_image(SCENE)


def test_image_when_it_takes_too_long_then_its_child_is_killed_and_the_next_one_is_read(bomb: io.BytesIO) -> None:
    decoder = ImageDecoder(time_s=0)
    with pytest.raises(BadImage, match="too much time or memory"):
        decoder.read(bomb, "slow.png")
    assert decoder.read(SCENE) == read_image(SCENE)
    decoder.close()


def test_images_when_many_come_at_once_then_all_are_read(decoder: ImageDecoder) -> None:
    outcomes: list[bool] = []
    threads = [Thread(target=lambda: outcomes.append(decoder.read(SCENE) == read_image(SCENE))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 8


def test_images_when_one_person_has_many_then_another_persons_is_read_at_once(decoder: ImageDecoder) -> None:
    read: list[str] = []
    threads = [Thread(target=lambda: read.append(decoder.read(SCENE, who="anna").sha256)) for _ in range(7)]
    with decoder._turn("anna"):
        for thread in threads:
            thread.start()
        while len(decoder._turns["anna"]) < 8:
            time.sleep(0.01)
        with pytest.raises(Busy, match="8 of your images"):
            decoder.read(SCENE, who="anna")
        assert decoder.read(SCENE, who="ben") == read_image(SCENE)
        assert read == []
    for thread in threads:
        thread.join()
    assert len(read) == 7
    assert decoder._turns == {}


def test_tiff_when_it_has_thousands_of_pages_then_they_are_not_all_counted(tmp_path: Path) -> None:
    pages = [PIL.Image.new("L", (1, 1))] * 1000
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    assert read_image(tmp_path / "a.tiff").note == "page 1 of more than 100"


def test_decoder_when_it_has_read_an_image_then_its_session_has_a_tenth_of_the_weight(decoder: ImageDecoder) -> None:
    before = set(psutil.Process().children())
    decoder.read(SCENE)
    (child,) = set(psutil.Process().children()) - before
    assert child.nice() == min(19, psutil.Process().nice() + 10)
    weight = Path(f"/proc/{child.pid}/autogroup")
    if weight.exists() and weight.read_text():
        assert weight.read_text().split()[-2:] == ["nice", "10"]
