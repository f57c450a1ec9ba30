"""The file of a study: which families, quantizations and questions. Pure, but for reading the file."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from playground.comparing import run_settings
from playground.errors import BadInput
from playground.measuring import statistics, suite_source
from playground.measuring.question_sets import DEFAULT_QUESTIONS, MAX_ITEMS
from playground.measuring.suites import Suite
from playground.models.gguf import file_names
from playground.models.presets import Preset, read_presets
from playground.support.shipped import shipped_folder
from playground.values.overrides import CacheType

SOURCE = "source"  # the most precise file of a half
EMBEDDED = "embedded"
_LEVELS = ("", "easy", "hard")
_MOST_FAMILIES, _MOST_VARIANTS = 50, 64

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Names = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
What = Literal["drift", "accuracy", "look", "speed"]


class StudyFamily(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One model family: a preset, a repository of the Hub, or files on this machine."""

    preset: str = ""
    repo: str = ""
    revision: str = "main"
    projector_repo: str = ""  # where the projectors lie if not beside the language models
    model: str | tuple[str, ...] = ()  # files, relative to the study's
    projector: str | tuple[str, ...] = ()
    name: str = ""
    chat_template: str | None = None
    models: _Names | None = None  # in place of the study's
    projectors: _Names | None = None

    @property
    def model_files(self) -> tuple[str, ...]:
        return (self.model,) if isinstance(self.model, str) else self.model

    @property
    def projector_files(self) -> tuple[str, ...]:
        return (self.projector,) if isinstance(self.projector, str) else self.projector

    @property
    def title(self) -> str:
        """How the report calls it."""
        if self.name or not self.preset:
            stem = Path(self.model_files[0]).stem if self.model_files else ""
            return self.name or self.repo or file_names.QUANTIZATION.sub("", stem) or stem
        return preset_of(self).name


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    families: Annotated[tuple[StudyFamily, ...], msgspec.Meta(min_length=1, max_length=_MOST_FAMILIES)]
    about: str = ""
    # Quantizations of each half; the first one is the reference.
    models: _Names = (SOURCE,)
    projectors: _Names = (SOURCE,)
    pairs: Literal["grid", "halves"] = "grid"  # halves: each half is quantized alone
    quantize: Literal["missing", "all", "none"] = "missing"  # which files are made here
    kv_types: tuple[CacheType, ...] = ()
    image_tokens: tuple[_Positive, ...] = ()
    suites: _Names = (EMBEDDED,)
    questions: Annotated[int, msgspec.Meta(ge=1, le=MAX_ITEMS)] | None = None  # of each suite
    difference: Annotated[float, msgspec.Meta(gt=0, le=50)] | None = None  # points that the questions should show
    seed: int = 0
    measure: Annotated[tuple[What, ...], msgspec.Meta(min_length=1)] = ("drift", "accuracy", "look", "speed")
    max_tokens: _Positive | None = None  # None: the suite's
    reasoning_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    n_ctx: _Positive | None = None
    system: str | None = None
    template_variables: dict[str, Any] = {}

    @property
    def n_questions(self) -> int:
        """Of each suite, if it has so many."""
        if self.questions is not None:
            return self.questions
        if self.difference is None:
            return DEFAULT_QUESTIONS
        return min(MAX_ITEMS, statistics.questions_for_difference(self.difference / 100) or MAX_ITEMS)

    def quantizations(self, family: StudyFamily) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of a family's language models and projectors."""
        return family.models or self.models, family.projectors or self.projectors

    def pair_places(self, family: StudyFamily) -> list[tuple[int, int]]:
        """Which language model stands with which projector; the reference first."""
        models, projectors = self.quantizations(family)
        places = [(m, p) for m in range(len(models)) for p in range(len(projectors))]
        return [(m, p) for m, p in places if self.pairs == "grid" or m == 0 or p == 0]

    def n_variants(self, family: StudyFamily) -> int:
        return len(self.pair_places(family)) * max(1, len(self.kv_types)) * max(1, len(self.image_tokens))


def studies_folder() -> Path:
    return shipped_folder("studies")


def find_study(name: str) -> Path:
    """A file, or one of studies/ by its name. Raises BadInput."""
    path = Path(name)
    if path.is_file():
        return path
    known = {shipped.stem: shipped for shipped in sorted(studies_folder().glob("*.toml"))}
    shipped = known.get(name.removesuffix(".toml"))
    if shipped is None:
        raise BadInput(f"There is no study {name[:200]}. Give a file, or one of: {', '.join(known)}.")
    return shipped


def read_study(path: Path) -> Study:
    """Raises BadInput naming the file, the line and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from None
    try:
        return parse(text, path.parent)
    except BadInput as error:
        raise BadInput(f"{path.name}, {error.message}") from None


def parse(text: str, folder: Path = Path()) -> Study:
    """`folder`: of the study's file. Raises BadInput naming the line."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"\(at line (\d+)[^)]*\)", str(error))
        reason = str(error).partition(" (at ")[0]
        raise BadInput(f"line {line[1] if line else len(text.splitlines())}: {reason}.") from None
    try:
        study = msgspec.convert(document, Study)
    except msgspec.ValidationError as error:
        raise _refused(text, str(error)) from None
    for path, problem in _problems(study, folder):
        raise BadInput(f"line {line_of(text, path)}: {problem}")
    return study


_KEYS = {"": Study.__struct_fields__, "families": StudyFamily.__struct_fields__}


def _refused(text: str, problem: str) -> BadInput:
    """msgspec's problem, in words and with its line."""
    words, _, at = problem.partition(" - at ")
    path = at.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.search(r"unknown field `(.*)`", words)
    missing = re.search(r"missing required field `(.*)`", words)
    if unknown:
        key = unknown[1]
        known = _KEYS[re.sub(r"\[.*", "", path)]
        near = difflib.get_close_matches(key, known, 1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(known)}."
        return BadInput(f"line {line_of(text, f'{path}.{key}'.lstrip('.'))}: unknown key '{key}'. {hint}")
    if missing:
        return BadInput(f"line {line_of(text, path)}: the key '{missing[1]}' is missing.")
    key = re.sub(r"\[(\d+|\.\.\.)\]$", "", path)
    return BadInput(f"line {line_of(text, path)}: invalid value of '{key}': {words[:1].lower()}{words[1:]}.")


_HEADER = re.compile(r"\s*\[{1,2}\s*([\w.\"'-]+)\s*\]{1,2}\s*(#.*)?$")


def line_of(text: str, path: str) -> int:
    """The line of a key, such as families[1].models[0]; of the table where the key has no line of its own."""
    steps = re.findall(r"([\w-]+)(?:\[(\d+)\])?", path)
    if not steps:
        return 1
    (table, place), key = steps[0], steps[1][0] if len(steps) > 1 else ""
    if not key and table not in _KEYS:  # a key of the study itself
        table, place, key = "", "", table
    inside, seen, header = table == "", -1, 1
    for number, line in enumerate(text.splitlines(), 1):
        if head := _HEADER.match(line):
            seen += head[1] == table
            inside = bool(table) and head[1] == table and (not place or seen == int(place))
            if inside or (not table and head[1] == key and seen == -1):
                header = number
                if not table:
                    return number
        elif inside and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
        elif table and re.match(rf"\s*{re.escape(table)}\s*=", line):
            header = number
    return header


def _problems(study: Study, folder: Path) -> Sequence[tuple[str, str]]:
    """What no type can say, each with its path."""
    problems: list[tuple[str, str]] = []
    if not study.name.strip():
        problems.append(("name", "the name is empty."))
    if study.questions is not None and study.difference is not None:
        problems.append(("difference", "give 'questions' or 'difference', not both."))
    problems += _of_suites(study, folder)
    problems += _of_settings(study)
    for key in ("models", "projectors", "kv_types", "image_tokens", "suites", "measure"):
        problems += _twice(key, getattr(study, key))
    problems += [*_of_quantizations("models", study.models), *_of_quantizations("projectors", study.projectors)]
    titles: list[str] = []
    for n, family in enumerate(study.families):
        at = f"families[{n}]"
        problems += [(f"{at}.{key}" if key else at, problem) for key, problem in _of_family(family)]
        if not problems:
            if family.title in titles:
                problems.append((at, f"two families are called '{family.title}'. Give one a 'name'."))
            titles.append(family.title)
            if study.n_variants(family) > _MOST_VARIANTS:
                words = f"{study.n_variants(family)} variants; at most {_MOST_VARIANTS} can be measured together."
                problems.append((at, f"{family.title} has {words}"))
            if study.n_variants(family) < 2:
                problems.append((at, f"{family.title} has one variant: there is nothing to compare it with."))
    return problems


def _of_settings(study: Study) -> list[tuple[str, str]]:
    """The checks that every run's settings pass."""
    problems = []
    for key in ("kv_types", "image_tokens", "system", "template_variables", "max_tokens", "n_ctx"):
        if value := getattr(study, key):
            try:
                run_settings.read_settings({key: value})
            except BadInput as error:
                problems.append((key, error.message))
    return problems


def _of_family(family: StudyFamily) -> list[tuple[str, str]]:
    kinds = [key for key in ("preset", "repo", "model") if getattr(family, key)]
    if len(kinds) != 1:
        given = f"it has {' and '.join(kinds)}" if kinds else "it has none"
        return [("", f"a family needs one of 'preset', 'repo', or 'model' with 'projector'; {given}.")]
    problems = []
    if family.preset and family.preset not in (known := [preset.family for preset in read_presets()]):
        near = difflib.get_close_matches(family.preset, known, 3)
        hint = f"Similar: {', '.join(near)}." if near else "`python -m playground presets` lists them."
        problems.append(("preset", f"unknown preset '{family.preset[:80]}'. {hint}"))
    if family.repo and not re.fullmatch(r"[\w.-]+/[\w.-]+", family.repo):
        problems.append(("repo", f"'{family.repo[:80]}' is not a repository: write owner/name."))
    if family.model and not family.projector:
        problems.append(("model", "give 'projector' too: the files of its projector."))
    if family.projector and not family.model:
        problems.append(("projector", "give 'model' too: the files of its language model."))
    for key in ("models", "projectors"):
        names = getattr(family, key) or ()
        problems += [*_of_quantizations(key, names), *_twice(key, names)]
    return problems


def _of_quantizations(key: str, names: Sequence[str]) -> list[tuple[str, str]]:
    return [
        (key, f"'{name[:40]}' is not a quantization: write one as llama.cpp does, such as Q4_K_M, or 'source'.")
        for name in names
        if name != SOURCE and (file_names.quantization(f"model-{name}.gguf") or "").upper() != name.upper()
    ]


def _of_suites(study: Study, folder: Path) -> list[tuple[str, str]]:
    suites, problems = [], []
    for name in study.suites:
        kind, _, level = name.partition(":")
        if kind == EMBEDDED:
            if level not in _LEVELS:
                problems.append(("suites", f"unknown level '{level[:40]}' of the embedded questions: easy or hard."))
        elif is_own(name):
            if not (folder / name).exists():
                problems.append(("suites", f"there is no folder or zip {name[:200]}."))
        else:
            try:
                suites.append(suite_source.known_suite(suite_name(name, folder)))
            except BadInput as error:
                problems.append(("suites", error.message))
    return problems or _of_difference(study, [suite for suite in suites if suite is not None and suite.size])


def _of_difference(study: Study, suites: Sequence[Suite]) -> list[tuple[str, str]]:
    """`suites`: whose size is known."""
    if study.difference is None:
        return []
    needed = statistics.questions_for_difference(study.difference / 100)
    smallest = min(suites, key=lambda suite: suite.size or 0, default=None)
    if needed is None or needed > MAX_ITEMS:
        shown = statistics.detectable_difference(MAX_ITEMS) or 0.0
        most = f"at most {MAX_ITEMS:,} are asked, which show {100 * shown:.1f}."
        wanted = "more than 100,000" if needed is None else f"{needed:,}"
        return [("difference", f"{study.difference:g} points take {wanted} questions of each suite; {most}")]
    if smallest is not None and needed > (smallest.size or 0):
        small = statistics.detectable_difference(smallest.size or 0)
        shows = f"which show {100 * small:.1f} points" if small is not None else "which show no difference"
        has = f"{smallest.name} has {smallest.size:,}, {shows}."
        return [("difference", f"{study.difference:g} points take {needed:,} questions; {has}")]
    return []


def is_own(suite: str) -> bool:
    """Whether it is a folder or a zip of one's own questions."""
    return suite.endswith((".zip", "/")) or suite.startswith(("./", "../", "/"))


def suite_name(name: str, folder: Path) -> str:
    """As suite_source wants it: a suite's own file lies relative to the study's."""
    return str(folder / name) if name.endswith(".toml") else name


def _twice(key: str, values: Sequence[object]) -> list[tuple[str, str]]:
    twice = [str(value) for n, value in enumerate(values) if value in values[:n]]
    return [(key, f"'{twice[0][:40]}' stands twice.")] if twice else []


def preset_of(family: StudyFamily) -> Preset:
    return next(preset for preset in read_presets() if preset.family == family.preset)
