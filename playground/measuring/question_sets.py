"""Sets of questions with accepted answers: the embedded one, or a folder or zip of one's own."""

from __future__ import annotations

import csv
import enum
import hashlib
import io
import itertools
import json
import lzma
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath

import msgspec

from playground.comparing.image_decoder import DECODER
from playground.errors import BadImage, BadInput
from playground.values.request import Image

MAX_ITEMS = 5000
MAX_PROBLEMS = 20  # that are kept of a list
_MAX_ROWS = 50_000  # that are looked at
_MAX_LINE = 1_000_000  # characters
_MAX_TEXT = 200_000  # characters of a question, its accepted answers and its options
_MAX_ANSWERS = 100  # accepted ones: an answer is held against each
_MAX_OPTIONS = 26  # each has a letter
_MAX_SHOWN = 200  # characters of a name in a sentence
_MAX_LIST_BYTES = 2**26
# Enough to show that at most 5 % of the answers change, among eight variants of which none changes any (134).
DEFAULT_QUESTIONS = 150
_MAX_IMAGE_BYTES = 50_000_000
SAMPLE_NAME = "suite.json"  # beside the list of a set that was drawn from a dataset: its SampleRecord
_MAX_SAMPLE_BYTES = 1_000_000
# What reading a damaged zip raises, by the way in which it is packed (KeyError: it has no such file).
_DAMAGE = (
    KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError
)  # fmt: skip


class Rule(enum.StrEnum):
    """How an answer is held against the accepted ones. docs/metrics.md defines each."""

    EXACT = "exact"
    CONTAINS = "contains"
    NUMBER = "number"
    ANLS = "anls"
    IOU = "iou"
    CHOICE = "choice"
    RELAXED = "relaxed"
    VQA = "vqa"
    OCRBENCH = "ocrbench"
    YES_NO = "yes_no"
    IOU_AT_HALF = "iou_at_half"
    JSON = "json"


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    image: str  # a name in the set
    question: str
    answers: tuple[str, ...] = ()  # the accepted ones; without one the item says nothing about accuracy
    rule: Rule = Rule.EXACT
    tolerance: float = 0.0  # of a number, as a share of the accepted one
    category: str = ""
    options: tuple[str, ...] = ()  # the texts of a choice, A first
    image_size: tuple[float, float] | None = None  # of an accepted box in pixels: width, height of that image
    box_scale: tuple[float, float] | None = None  # what an answer's box has for the whole width and height
    y_first: bool | None = None  # an answer's box is written y before x; None: by the answer's form


_KEYS = tuple(name for name in Question.__struct_fields__ if name != "answers")


class SampleRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which rows of a dataset repository a set of questions consists of: enough to draw them again."""

    suite: str
    repo: str
    commit: str
    split: str
    seed: int
    rows: tuple[int, ...]  # places in the split, in the order of the questions
    of: int  # rows of the split
    configuration: str = ""
    licence: str = ""
    left_out: int = 0  # rows that could not be used

    @property
    def words(self) -> str:
        """One phrase that names it."""
        return f"{self.suite}, {len(self.rows)} of {self.of} rows, seed {self.seed}, commit {self.commit[:12]}"


class QuestionSet:
    """Questions and where their images are. `problems`: what was left out, and why."""

    def __init__(
        self,
        name: str,
        items: Iterable[Question],
        source: Path,
        problems: Iterable[str] = (),
        sample: SampleRecord | None = None,
    ) -> None:
        """`sample`: where they come from, if that is a dataset repository."""
        self.name = name
        self.items = tuple(items)
        self.problems = tuple(problems)
        self.sample = sample
        self._source = source

    def image(self, item: Question) -> Image:
        """Raises BadImage."""
        if self._source.suffix != ".zip":
            return DECODER.read(self._inside(item.image))
        try:
            with zipfile.ZipFile(self._source) as archive, archive.open(item.image) as file:
                data = file.read(_MAX_IMAGE_BYTES + 1)
        except _DAMAGE as error:
            raise BadImage(f"{item.image} cannot be read from the zip ({error}).") from None
        if len(data) > _MAX_IMAGE_BYTES:
            raise BadImage(f"{item.image} is larger than {_MAX_IMAGE_BYTES // 1_000_000} MB.")
        return DECODER.read(io.BytesIO(data), name=PurePosixPath(item.image).name)

    def data(self, name: str) -> bytes:
        """The file of an image, of a set in a folder. Raises BadImage, OSError."""
        return self._inside(name).read_bytes()

    def _inside(self, name: str) -> Path:
        try:
            path = (self._source / name).resolve()
        except ValueError:  # a NUL, or half a character
            raise BadImage(f"An image cannot be called {name[:_MAX_SHOWN]!r}.") from None
        if not path.is_relative_to(self._source.resolve()):
            raise BadImage(f"{name} lies outside the set's folder.")
        return path

    def parts(self, n: int) -> tuple[QuestionSet, ...]:
        """n sets that share no picture, each with its share of every kind of question. The first ones may be larger.

        What searches or calibrates with one may be judged by another.
        """
        by_picture: dict[str, list[Question]] = {}
        for item in self.items:
            by_picture.setdefault(self.picture(item), []).append(item)
        held: list[Counter[str]] = [Counter() for _ in range(n)]
        part_of: dict[str, int] = {}
        # Pictures with many questions first; each goes where its kinds are rarest.
        for picture, items in sorted(by_picture.items(), key=lambda entry: -len(entry[1])):
            kinds = [item.category for item in items]
            part = min(range(n), key=lambda k: (sum(held[k][kind] for kind in kinds), held[k].total(), k))
            held[part].update(kinds)
            part_of[picture] = part
        return tuple(
            self.only(
                [k for k, item in enumerate(self.items) if part_of[self.picture(item)] == part],
                self.problems if part == 0 else (),
            )
            for part in range(n)
        )

    def first(self, n: int) -> QuestionSet:
        """n questions: of every kind as many, as far as there are, and about as many pictures as there are."""
        by_kind: dict[str, list[int]] = {}
        for k, item in enumerate(self.items):
            by_kind.setdefault(item.category, []).append(k)
        uses: Counter[str] = Counter()
        chosen: list[int] = []
        while len(chosen) < min(n, len(self.items)):
            for places in by_kind.values():
                if places and len(chosen) < n:
                    k = min(places, key=lambda place: (uses[self.items[place].image], place))
                    places.remove(k)
                    uses[self.items[k].image] += 1
                    chosen.append(k)
        return self.only(sorted(chosen), self.problems)

    def only(self, places: Sequence[int], problems: Iterable[str] = ()) -> QuestionSet:
        """The questions at these places."""
        sample = self.sample
        if sample is not None:
            sample = msgspec.structs.replace(sample, rows=tuple(sample.rows[k] for k in places))
        return QuestionSet(self.name, [self.items[k] for k in places], self._source, problems, sample)

    def with_items(self, items: Iterable[Question], problems: Iterable[str] = ()) -> QuestionSet:
        """Other questions about the images of this set."""
        return QuestionSet(self.name, items, self._source, problems)

    def picture(self, item: Question) -> str:
        """What tells its picture from others: the same file under two names is one picture."""
        return self._pictures.get(item.image, item.image)

    @cached_property
    def _pictures(self) -> dict[str, str]:
        """By name: CRC and size of each image that can be read."""
        if self._source.suffix == ".zip":
            try:
                with zipfile.ZipFile(self._source) as archive:
                    return {entry.filename: f"{entry.CRC:08x}-{entry.file_size}" for entry in archive.infolist()}
            except (OSError, zipfile.BadZipFile):
                return {}
        pictures = {}
        for name in {item.image for item in self.items}:
            try:
                data = (self._source / name).read_bytes()
            except OSError:
                continue
            pictures[name] = f"{zlib.crc32(data):08x}-{len(data)}"
        return pictures


def fingerprints(questions: QuestionSet) -> tuple[str, ...]:
    """Of all questions whose picture can be read."""
    return tuple(name for item in questions.items if (name := fingerprint_of(questions, item)))


def fingerprint_of(questions: QuestionSet, item: Question) -> str:
    """Empty where its picture cannot be read."""
    try:
        return fingerprint(item, questions.image(item))
    except BadImage:
        return ""


def fingerprint(question: Question, image: Image) -> str:
    """Tells a question about a picture from all others, in the metadata of a file that was made with it."""
    return hashlib.sha256(f"{image.sha256}\n{question.question}".encode()).hexdigest()[:16]


def embedded(folder: Path, *, level: str = "") -> QuestionSet:
    """The embedded pair's evaluation questions: `level` easy, hard or both (empty)."""
    items = []
    for line in (folder / "items.jsonl").read_text().splitlines():
        document = json.loads(line)
        if level in ("", document["level"]):
            rule = Rule.IOU if document["category"] == "box" else Rule.EXACT
            items.append(
                Question(
                    document["image"], document["question"], (document["answer"],), rule, 0.0, document["category"]
                )
            )
    return QuestionSet(f"embedded questions{f', {level}' if level else ''}", items, folder)


def read_questions(path: Path) -> QuestionSet:
    """A folder or a zip with images and one items.jsonl or items.csv.

    A line or row has `image` and `question`, and may have `answers` (a list; in CSV separated by |) or `answer`,
    the other fields of Question; `options` are written as `answers` are. An invalid row is left out and reported.
    Raises BadInput if nothing can be used.
    """
    problems: list[str] = []
    left_out = 0
    items: list[Question] = []
    try:
        with _opened_list(path) as (name, lines, images):
            base = PurePosixPath(name).parent
            rows = _json_lines(lines) if name.endswith(".jsonl") else _csv_rows(lines)
            for number, row in enumerate(itertools.islice(rows, _MAX_ROWS), 1):
                try:
                    item = _item(row)
                    inside = (base / item.image).as_posix()
                    known = inside if inside in images else item.image if item.image in images else None
                    if known is None:
                        raise BadInput(f"there is no image {item.image[:_MAX_SHOWN]}")
                    items.append(msgspec.structs.replace(item, image=known))
                except (BadInput, msgspec.ValidationError) as error:
                    left_out += 1
                    if len(problems) < MAX_PROBLEMS:
                        problems.append(f"Question {number} was left out: {error}.")
                if len(items) == MAX_ITEMS:
                    problems.append(f"Only the first {MAX_ITEMS} questions were taken.")
                    break
    except (*_DAMAGE, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path.name} cannot be read as a folder or zip: {error or type(error).__name__}.") from None
    if left_out > MAX_PROBLEMS:
        problems.append(f"{left_out - MAX_PROBLEMS} more questions were left out.")
    if not items:
        raise BadInput(f"No question of {path.name} can be used. {problems[0] if problems else 'The list is empty.'}")
    sample = _sample_of(path)
    if sample is not None and len(sample.rows) != len(items):
        sample = None  # the list was changed
    return QuestionSet(sample.suite if sample else path.stem, items, path, problems, sample)


def _sample_of(path: Path) -> SampleRecord | None:
    try:
        if path.is_dir():
            return None
        with zipfile.ZipFile(path) as archive, archive.open(SAMPLE_NAME) as file:
            return msgspec.json.decode(file.read(_MAX_SAMPLE_BYTES), type=SampleRecord)
    except (*_DAMAGE, msgspec.DecodeError):
        return None


@contextmanager
def _opened_list(path: Path) -> Iterator[tuple[str, Iterator[str], set[str]]]:
    """Name and lines of the only list in a folder or zip, and the names of all files beside it.

    Raises BadInput, and what reading raises.
    """
    with ExitStack() as stack:
        if path.is_dir():
            images = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
            names = [name for name in images if "/" not in name and name.endswith((".jsonl", ".csv"))]
        else:
            archive = stack.enter_context(zipfile.ZipFile(path))
            images = set(archive.namelist())
            names = [n for n in images if n.endswith((".jsonl", ".csv")) and "__MACOSX" not in n]
        if len(names) != 1:
            raise BadInput(
                f"{path.name} has {len(names)} lists of questions; put one .jsonl or .csv file beside the images."
            )
        name = names[0]
        size = (path / name).stat().st_size if path.is_dir() else archive.getinfo(name).file_size
        if size > _MAX_LIST_BYTES:
            raise BadInput(f"{name} is larger than {_MAX_LIST_BYTES // 2**20} MiB.")
        file = stack.enter_context((path / name).open("rb") if path.is_dir() else archive.open(name))
        yield name, _lines(io.TextIOWrapper(file, "utf-8-sig")), images


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """Each line; in place of one that is too long a text that says so, which is then left out."""
    while line := text.readline(_MAX_LINE):
        if len(line) < _MAX_LINE or line.endswith("\n"):
            yield line
            continue
        while len(line := text.readline(_MAX_LINE)) == _MAX_LINE and not line.endswith("\n"):
            pass
        yield '"it is too long"\n'


def _json_lines(lines: Iterable[str]) -> Iterator[object]:
    for line in lines:
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                yield str(error)


def _csv_rows(lines: Iterable[str]) -> Iterator[object]:
    for row in csv.DictReader(lines):
        yield {name: value for name, value in row.items() if name and value not in (None, "")}


def _item(row: object) -> Question:
    if not isinstance(row, dict):
        raise BadInput(f"it is not an object with an image and a question ({str(row)[:_MAX_SHOWN]})")
    document = dict(row)
    answers = document.pop("answers", None) or document.pop("answer", None) or ()
    if isinstance(answers, (str, int, float)):
        answers = str(answers).split("|") if "answers" in row else [str(answers)]
    if isinstance(document.get("options"), str):
        document["options"] = document["options"].split("|")
    known = {name: document[name] for name in _KEYS if name in document}
    item = msgspec.convert(known | {"answers": answers}, Question, strict=False)
    check_question(item)
    return item


def check_question(item: Question) -> None:
    """Raises BadInput for what costs seconds to score, or cannot be scored."""
    if sum(map(len, (item.question, *item.answers, *item.options))) > _MAX_TEXT:
        raise BadInput(f"its text is longer than {_MAX_TEXT:,} characters")
    if len(item.answers) > _MAX_ANSWERS:
        raise BadInput(f"it has more than {_MAX_ANSWERS} accepted answers")
    if len(item.options) > _MAX_OPTIONS:
        raise BadInput(f"it has more than {_MAX_OPTIONS} options")
    if not (item.tolerance >= 0 and math.isfinite(item.tolerance)):
        raise BadInput(f"its tolerance is {item.tolerance}")
    sides = [side for size in (item.image_size, item.box_scale) if size is not None for side in size]
    if not all(side > 0 and math.isfinite(side) for side in sides):
        raise BadInput("its image_size or box_scale has a side that is not above 0")
