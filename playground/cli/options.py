"""What the commands share: their options, the variants and questions that these choose, progress on the terminal."""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from playground.comparing import run_settings
from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput, cannot_write
from playground.measuring import packs, parity, question_sets, result_documents, results, suite_source
from playground.measuring.result_documents import ResultDocument
from playground.measuring.statistics import Interval
from playground.models.catalog import Catalog
from playground.quantizing import scan_results
from playground.quantizing.make_variant import CheckedVariant
from playground.support import atomic
from playground.values import durations
from playground.values.files import Variant
from playground.values.request import ImagePlace, PromptForm
from playground.wiring import Parts

_Result = TypeVar(
    "_Result",
    results.Measurement,
    scan_results.Sensitivity,
    CheckedVariant,
    question_sets.QuestionSet,
    packs.Pack,
    parity.Parity,
)
DEFAULT_MAX_TOKENS = 64

# Each of these three may be repeated, and each value may be several, separated by commas (`listed`).
Names = Annotated[
    list[str] | None,
    typer.Option("--variants", help="Quantizations, labels or ids. Default: the preset's. Repeatable."),
]
Projectors = Annotated[
    list[str] | None,
    typer.Option("--projector", help="Projector quantizations (F16,Q4_0), or with --model mmproj files. Repeatable."),
]
Models = Annotated[list[str] | None, typer.Option("--model", help="GGUF files of language models. Repeatable.")]
Questions = Annotated[
    Path | None,
    typer.Option("--items", help="A folder or zip with images and an items.jsonl or .csv. Default: the embedded set."),
]
Level = Annotated[str, typer.Option(help="Of the embedded set: easy, hard, or both (empty).")]
Count = Annotated[int, typer.Option("-n", help="Questions, taken evenly from the set.")]
KvTypes = Annotated[
    list[str] | None,
    typer.Option("--kv-type", help="Types of the KV cache, one variant each: f16,q8_0,q4_0. Repeatable."),
]
ImageTokens = Annotated[
    list[str] | None,
    typer.Option("--image-tokens", help="Tokens of each image, one variant each: 256,1024. Repeatable."),
]
MaxTokens = Annotated[int, typer.Option(help="Length of an answer, at most.")]
SuiteMaxTokens = Annotated[
    int | None, typer.Option(help="Length of an answer, at most. Default: what the suite says, else 64.")
]
ReasoningTokens = Annotated[
    int | None,
    typer.Option(min=0, help="Close the reasoning after so many tokens; the answer begins. 0: none."),
]
SystemMessage = Annotated[str | None, typer.Option(help="The system message.")]
TemplateVariables = Annotated[
    str | None, typer.Option(help="""A JSON object for the chat template: '{"enable_thinking": false}'.""")
]
ChatTemplate = Annotated[str | None, typer.Option(help="Jinja text, or a llama.cpp template's name.")]
Place = Annotated[ImagePlace | None, typer.Option(help="Before or behind the prompt, if it does not say <image>.")]
SuiteName = Annotated[
    str,
    typer.Option(
        "--suite",
        help="Questions of a dataset on the Hub: a suite (chartqa), a suite's .toml, or owner/name[:config][:split].",
    ),
]
Seed = Annotated[int, typer.Option(help="Which sample of the suite.")]
ContextSize = Annotated[
    int | None, typer.Option("--ctx-size", help="Context size, tokens. Default: what each question needs.")
]
EndpointNames = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint", help="The name of a server elsewhere (setting endpoints), which answers as well. Repeatable."
    ),
]
Look = Annotated[
    bool,
    typer.Option("--look", help="Also ask with blank, shuffled and other images."),
]
PackFile = Annotated[
    Path | None,
    typer.Option(
        "--pack",
        help="A reference pack, in place of a reference. All its questions are asked, so -n and --level do nothing; "
        "--items or --suite has its images.",
    ),
]
ResultsFile = Annotated[
    Path | None,
    typer.Option("--results", help="Write a results document (.json), to share: numbers, hashes, settings."),
]
Uploader = Annotated[str, typer.Option(help="Your name in the results document. Default: none.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantOptions:
    """Which variants a command measures."""

    variants: Names = None
    projector: Projectors = None
    model: Models = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisOptions:
    """Settings that each variant is measured with, one after another."""

    kv_type: KvTypes = None
    image_tokens: ImageTokens = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOptions:
    """What the variants are asked, and how."""

    items: Questions = None
    level: Level = "hard"
    n: Count = question_sets.DEFAULT_QUESTIONS
    suite: SuiteName = ""
    seed: Seed = 0
    max_tokens: SuiteMaxTokens = None
    reasoning_tokens: ReasoningTokens = None
    system: SystemMessage = None
    template_variables: TemplateVariables = None
    image_place: Place = None
    chat_template: ChatTemplate = None
    n_ctx: ContextSize = None

    def limits(self, plan: results.MeasurementPlan) -> results.MeasurementPlan:
        """The plan with the person's own limit of an answer, else the suite's. Raises BadInput."""
        tokens = self.max_tokens
        if tokens is None:
            known = suite_source.known_suite(self.suite) if self.suite else None
            tokens = known.max_tokens if known else DEFAULT_MAX_TOKENS
        return msgspec.structs.replace(plan, max_tokens=tokens, reasoning_tokens=self.reasoning_tokens)

    @property
    def form(self) -> PromptForm:
        """Raises BadInput."""
        given: dict[str, Any] = {
            "system": self.system,
            "template_variables": json_object("--template-variables", self.template_variables),
            "image_place": self.image_place,
            "chat_template": self.chat_template,
        }
        return run_settings.read_settings(given).prompt_form()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultsOptions:
    """Where the results document goes, and whose it is."""

    results: ResultsFile = None
    uploader: Uploader = ""

    def check(self) -> None:
        """Before minutes are spent. Raises BadInput."""
        if self.results is not None:
            check_folder_of(self.results)
        elif self.uploader:
            raise BadInput("--uploader is a name in the results document: give --results FILE too.")

    def write(self, made: Callable[[], ResultDocument]) -> None:
        """If a file is wanted. Raises BadInput."""
        if self.results is not None:
            result_documents.write(self.results, made())
            say(f"{self.results} written.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FewQuestions(QuestionOptions):
    """The same for a model that is slow: few questions, of every level."""

    level: Level = ""
    n: Count = 8


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A parameter that is a dataclass of options becomes one option for each field, where Typer reads the signature."""
    signature = inspect.signature(command, eval_str=True)
    annotations = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    groups = {name: kind for name, kind in annotations.items() if isinstance(kind, type) and is_dataclass(kind)}
    options: dict[str, inspect.Parameter] = {}
    for name, parameter in signature.parameters.items():
        if name in groups:
            options |= inspect.signature(groups[name], eval_str=True).parameters
        else:
            options[name] = parameter

    @functools.wraps(command)
    def run(**values: Any) -> None:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**made, **values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = signature.replace(parameters=[p.replace(kind=keyword) for p in options.values()])  # type: ignore[attr-defined]
    run.__annotations__ = {name: p.annotation for name, p in options.items()}
    return run


def axes_of(options: AxisOptions) -> RunSettings:
    """Raises BadInput."""
    try:
        tokens = [int(value) for value in listed(options.image_tokens)]
    except ValueError:
        raise BadInput("--image-tokens has to be whole numbers, such as 256,1024.") from None
    kinds = [value.lower() for value in listed(options.kv_type)]
    return run_settings.read_settings({"kv_types": kinds or None, "image_tokens": tokens or None})


def questions_of(parts: Parts, options: QuestionOptions) -> question_sets.QuestionSet:
    """The suite's questions, else the person's own, else the embedded ones. Shows what n questions can say."""
    if options.suite:
        if options.items:
            raise BadInput("Give --suite or --items, not both.")
        choice = suite_source.SuiteChoice(options.suite, options.n, options.seed)
        sample = followed(suite_source.draw(parts.hub, choice, parts.samples), question_sets.QuestionSet)
        if sample.sample is not None:
            say(f"{sample.sample.words}. {suite_source.what_it_shows(len(sample.items))}")
        return sample
    if not 0 < options.n <= question_sets.MAX_ITEMS:
        raise BadInput(f"-n has to be between 1 and {question_sets.MAX_ITEMS}.")
    if options.items:
        return question_sets.read_questions(options.items).first(options.n)
    return question_sets.embedded(parts.evaluation, level=options.level).first(options.n)


def followed(updates: Iterator[results.Progress | _Result], kind: type[_Result]) -> _Result:
    """Shows the progress on a terminal; returns the result, which is the last update."""
    result: _Result | None = None
    for update in updates:
        if isinstance(update, kind):
            result = update
        elif isinstance(update, results.Progress):
            left = f", {durations.about(update.seconds_left)} left" if update.seconds_left is not None else ""
            line(f"{update.done} of {update.total}{left}: {update.what}")
    line("")
    assert result is not None
    return result


def listed(values: Sequence[str] | None) -> list[str]:
    """All values of an option that may be repeated and may hold commas. A file's own name may hold commas too."""
    parts = (part for value in values or () for part in ([value] if os.path.isfile(value) else value.split(",")))
    return [part.strip() for part in parts if part.strip()]


def choose(parts: Parts, options: VariantOptions) -> tuple[Variant, ...]:
    """The variants that --model, --variants and --projector name. Without any of them: what the preset ticks."""
    files, wanted, halves = listed(options.model), listed(options.variants), listed(options.projector)
    if not files:
        return derived(parts).choose(wanted or parts.catalog.presets[0].ticked, halves)
    pairs = open_pairs(parts, files, halves)
    if not wanted:
        return pairs
    return tuple(variant for variant in parts.catalog.choose(wanted) if variant in pairs)


def open_pairs(parts: Parts, models: Sequence[str], projectors: Sequence[str]) -> tuple[Variant, ...]:
    """Every language model with every projector, each pair once."""
    if not projectors:
        raise BadInput("Give both halves of a pair: --model a.gguf --projector b.gguf.")
    opened = {parts.catalog.open_pair(Path(model), Path(half)).id for model in models for half in projectors}
    # As the catalog has them now: a more precise pair that was opened later takes over as the family's reference.
    return tuple(variant for variant in parts.catalog.variants if variant.id in opened)


def derived(parts: Parts) -> Catalog:
    """The catalog with the embedded model's quantizations made, and its problems shown."""
    parts.catalog.derive(parts.quantize, say)
    for problem in parts.catalog.problems:
        say(problem)
    return parts.catalog


def text_or_file(given: str | None) -> str | None:
    """The text itself, or that of the file in @FILE. Raises BadInput."""
    if given is None or not given.startswith("@"):
        return given
    path = Path(given[1:])
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from None


def json_object(option: str, given: str | None) -> dict[str, Any] | None:
    """Raises BadInput."""
    if given is None:
        return None
    try:
        value = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{option} is invalid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise BadInput(f'{option} has to be a JSON object, such as {{"enable_thinking": false}}.')
    return value


def bytes_of(text: str) -> int:
    """Raises BadInput. Decimal units, as the Hub shows files."""
    match = re.fullmatch(r"([\d.]+) *([KMGT]?)B?", text.strip(), re.IGNORECASE)
    try:
        if match is None:
            raise ValueError
        return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))
    except (ValueError, OverflowError):
        raise BadInput(f"Invalid size '{text[:40]}'; write 5MB or 1.2GB.") from None


def range_of(interval: Interval, form: str) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"{interval.low:{form}} – {interval.high:{form}}"


def line(text: str) -> None:
    """Replace the line that shows the progress; on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")


def say(text: str) -> None:
    typer.echo(text, err=True)


def say_problems(problems: Sequence[str]) -> None:
    for problem in problems[:20]:
        say(problem)


def check_folder(path: Path) -> None:
    """Makes the folder. Raises BadInput or NoRoom if nothing can be written in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise cannot_write(path, error) from None


def write_file(path: Path, data: bytes) -> None:
    """Replaces an older file as a whole. Raises BadInput or NoRoom; the older file is then as it was."""
    check_folder_of(path)
    try:
        atomic.write(path.resolve(), data)
    except OSError as error:
        raise cannot_write(path, error) from None


def check_new(path: Path) -> None:
    """Raises BadInput if the file cannot be a new one."""
    check_folder_of(path)
    if path.exists():
        raise BadInput(f"{path} exists. Choose another name.")


def check_folder_of(path: Path) -> None:
    """Raises BadInput if there is no folder to write the file in."""
    if not path.parent.is_dir():
        raise BadInput(f"There is no folder {path.parent} to write {path.name} in.")
