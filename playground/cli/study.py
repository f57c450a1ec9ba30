"""`python -m playground study`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from filelock import FileLock, Timeout

from playground.cli.options import AsJson, Uploader, line, say
from playground.errors import BadInput, cannot_write
from playground.measuring.results import Progress
from playground.settings import Settings
from playground.study import study_file, study_report
from playground.study.study_job import StudyJob
from playground.study.study_plan import study_plan
from playground.values import durations
from playground.wiring import open_parts


def study(
    study: Annotated[str, typer.Argument(help="A study's .toml, or the name of one in studies/.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for all that the study makes. Default: the study's name, in this folder."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be downloaded, made and measured.")
    ] = False,
    time: Annotated[
        bool, typer.Option("--time", help="Get the files, measure a few questions, print how long all take, and stop.")
    ] = False,
    uploader: Uploader = "",
    as_json: AsJson = False,
) -> None:
    """Families, quantizations and suites from one file: download, quantize, measure, and write one report. Run it again
    to go on after an interruption. Exit code 1: a part is missing; the report says which one, and why."""
    path = study_file.find_study(study)
    read = study_file.read_study(path)
    folder, target = path.parent, out or Path(f"{path.stem}-study")
    with open_parts(Settings.read(), any_folder=True) as parts:
        plan = study_plan(parts, read, folder, target)
        if dry_run:
            typer.echo(msgspec.json.encode(plan).decode() if as_json else "\n".join(plan.lines))
            return
        for words in plan.lines:
            say(words)
        job = StudyJob(parts, read, folder, target, _news, _progress)
        with _alone(target):
            result = job.run(only_time=time)
            if result is None:
                return
            text = path.read_text(encoding="utf-8")
            command = ["python", "-m", "playground", *sys.argv[1:]]
            files = study_report.write(result, target, study_text=text, command=command, uploader=uploader)
    if as_json:
        documents = [made for _, made in study_report.documents(result, uploader)]
        typer.echo(msgspec.json.encode(documents).decode())
    else:
        typer.echo("\n".join(map(str, files)))
    if result.problems or len(result.finished) < plan.measurements:
        raise typer.Exit(1)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time in a study's folder, which is made. Raises BadInput, NoRoom."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise BadInput(f"Another process runs a study in {folder}.") from None
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        yield
    except KeyboardInterrupt:
        say("Stopped. The same command goes on.")
        raise
    finally:
        line("")
        lock.release()


def _news(words: str) -> None:
    line("")
    say(words)


def _progress(what: str, update: Progress) -> None:
    left = f", {durations.about(update.seconds_left)} left" if update.seconds_left is not None else ""
    line(f"{what}: {update.done} of {update.total}{left}: {update.what}")
