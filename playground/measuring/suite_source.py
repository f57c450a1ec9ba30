"""From the name of a suite, or of any dataset on the Hub, to a sample of its questions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from playground.errors import BadInput, Offline
from playground.measuring import statistics
from playground.measuring.question_sets import QuestionSet, SampleRecord
from playground.measuring.results import Progress
from playground.measuring.suite_samples import SampleJob, SuiteTable, newest_sample
from playground.measuring.suites import Suite, guessed, read_suite, read_suites

_FILE = ".toml"


class DatasetTable(SuiteTable, Protocol):
    @property
    def split(self) -> str: ...
    @property
    def kinds(self) -> Mapping[str, str]: ...


class DatasetHub(Protocol):
    """Where datasets are (models/hub/client.py)."""

    def dataset(
        self,
        id: str,
        configuration: str = "",
        split: str = "",
        revision: str = "main",
        token: str | None = None,
        stop: Callable[[], bool] = ...,
    ) -> DatasetTable: ...


@dataclass(frozen=True, slots=True)
class SuiteChoice:
    """`name`: of a suite, of its file, or owner/name, owner/name:split, owner/name:config:split."""

    name: str
    n: int
    seed: int = 0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class OpenSuite:
    """A suite, and its rows on the Hub at one commit."""

    suite: Suite
    table: DatasetTable


def open_suite(hub: DatasetHub, choice: SuiteChoice, stop: Callable[[], bool] = lambda: False) -> OpenSuite:
    """Reads the dataset's footers. Raises BadInput, Offline, NotAllowed."""
    suite = known_suite(choice.name)
    if suite is not None:
        table = hub.dataset(suite.repo, suite.configuration, suite.split, suite.revision, choice.token, stop)
        return OpenSuite(suite, table)
    repo, configuration, split = _parts(choice.name)
    table = hub.dataset(repo, configuration, split, token=choice.token, stop=stop)
    return OpenSuite(guessed(repo, configuration, table.split, table.kinds), table)


def known_suite(name: str) -> Suite | None:
    """A suite of suites/ or of a file; None for a dataset's id. Raises BadInput."""
    if name.endswith(_FILE):
        return read_suite(Path(name))
    suites = read_suites()
    if "/" not in name and name not in suites:
        raise BadInput(
            f"There is no suite '{name[:80]}'. There are: {', '.join(suites)}. Any other dataset is written owner/name."
        )
    return suites.get(name)


def name_of(sample: SampleRecord) -> str:
    """The name of a SuiteChoice that draws the sample again. A stranger may have written it: it never names a file of
    this machine. Raises BadInput."""
    named = (id for id, suite in read_suites().items() if suite.name == sample.suite)
    split = [sample.configuration, sample.split] if sample.configuration else [sample.split]
    name = next(named, ":".join([sample.repo, *split]))
    if name.endswith(_FILE):
        raise BadInput(f"'{name[:80]}' is not a dataset.")
    return name


def draw(
    hub: DatasetHub, choice: SuiteChoice, folder: Path, stop: Callable[[], bool] = lambda: False
) -> Iterator[Progress | QuestionSet]:
    """Yields Progress, and at the end the sample; without the Hub, one that was drawn before. Raises as SampleJob."""
    try:
        opened = open_suite(hub, choice, stop)
    except Offline:
        suite = known_suite(choice.name)
        kept = newest_sample(folder, suite or _parts(choice.name)[0], choice.seed, choice.n)
        if kept is None:
            raise
        kept.problems = (*kept.problems, "The Hub cannot be reached: the questions were drawn before.")
        yield kept
        return
    yield from SampleJob(opened.suite, opened.table, choice.n, choice.seed, folder, stop).run()


class Outlook(msgspec.Struct, frozen=True):
    """What a sample would be, before anything of it is fetched."""

    suite: Suite
    commit: str
    licence: str
    rows: int
    questions: int
    seed: int
    row_groups: int  # still to be fetched
    bytes: int
    shows: float | None  # the difference of two accuracies that is shown in 80 % of cases

    @property
    def lines(self) -> list[str]:
        """For a person, without the prompt."""
        suite = self.suite
        columns = msgspec.to_builtins(suite.columns)
        fetched = f"{self.bytes / 1e6:,.1f} MB in {self.row_groups} row groups"
        category = suite.columns.category
        return [
            f"{suite.name}: {suite.repo}, {suite.split}, commit {self.commit[:12]}, {self.rows:,} rows",
            f"licence: {self.licence or 'the repository names none'}",
            "columns: " + ", ".join(f"{role} = {column}" for role, column in columns.items()),
            f"sample: {self.questions:,} rows at random, seed {self.seed}, "
            + (f"each {category} with its share" if category else "from all rows alike"),
            f"to fetch: {fetched}" if self.row_groups else "to fetch: nothing, this sample is on this machine",
            what_it_shows(self.questions),
        ]


def outlook(hub: DatasetHub, choice: SuiteChoice, folder: Path) -> Outlook:
    """Reads the dataset's footers, and its column of categories. Raises as SampleJob."""
    opened = open_suite(hub, choice)
    job = SampleJob(opened.suite, opened.table, choice.n, choice.seed, folder)
    groups, size = job.cost(job.order)
    questions = min(choice.n, opened.table.n_rows)
    return Outlook(
        suite=opened.suite,
        commit=opened.table.commit,
        licence=opened.table.licence or opened.suite.licence,
        rows=opened.table.n_rows,
        questions=questions,
        seed=choice.seed,
        row_groups=groups,
        bytes=size,
        shows=statistics.detectable_difference(questions),
    )


def what_it_shows(n: int) -> str:
    """One sentence: the difference of two accuracies that so many questions show."""
    shown = statistics.detectable_difference(n)
    share = f"{statistics.DISCORDANT:.0%} of the answers"
    if shown is None:
        return (
            f"{n} questions are too few to show a difference of accuracy, where a variant changes whether {share} are "
            "right."
        )
    return (
        f"{n} questions show a difference of {100 * shown:.1f} points in four of five cases, where a variant changes "
        f"whether {share} are right."
    )


def _parts(name: str) -> tuple[str, str, str]:
    """Repository, configuration and split. Raises BadInput."""
    repo, *more = name.removeprefix("https://huggingface.co/").removeprefix("datasets/").split(":")
    if len(more) > 2 or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise BadInput(
            f"'{name[:80]}' is not a dataset. Write owner/name, owner/name:split or owner/name:config:split."
        )
    configuration, split = ("", *more) if len(more) == 1 else more or ("", "")
    return repo, configuration, split
