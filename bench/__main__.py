"""Prints a table, then one JSON line.

`python -m bench WHAT [--size 168m]`; `--help` lists what there is.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

_WHAT = (
    "engine",
    "defaults",
    "pair",
    "encoder",
    "axes",
    "page",
    "cuts",
    "notebook",
    "lab",
    "batch",
    "prompt",
    "sequences",
    "suites",
    "hub",
    "load",
    "api",
    "templates",
    "projectors",
    "conformance",
    "parity",
    "statistics",
    "attack",
    "app",
    "all",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("what", nargs="?", choices=_WHAT, default="all")
    parser.add_argument("--size", default="168m", choices=("tiny", "168m", "3b"))
    parser.add_argument("--gpu", action="store_true", help="all layers and the projector on the GPU")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    version = importlib.metadata.version("llama-cpp-python")
    parser.add_argument("--tools", type=Path, default=Path(f"build/llama.cpp-{version}/bin"))
    parser.add_argument("--folder", type=Path, help="where the random pair is written; default: a temporary folder")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each half of `load`, and of `cuts`")
    parser.add_argument(
        "--source",
        type=Path,
        help="of `templates`, `projectors`, `conformance` and `parity` (make pairs): llama.cpp's source",
    )
    parser.add_argument(
        "--pairs", type=Path, help="of `encoder`, `axes`, `projectors`, `conformance`, `parity`: a folder of pairs"
    )
    parser.add_argument("--mtmd-cli", type=Path, help="of `conformance`: the program llama-mtmd-cli")
    parser.add_argument("--make", action="store_true", help="of `conformance`: quantize either half, measure the drift")
    parser.add_argument("--peer", type=Path, help="of `templates`, `conformance`, `parity`: a Python with transformers")
    parser.add_argument("--draws", type=int, default=1000, help="of `statistics`: samples for each figure")
    parser.add_argument("--measure", action="store_true", help="of `statistics`: measure the embedded pair anew first")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each input of `attack`")
    parser.add_argument(
        "--only",
        help="of `attack`: one input; of `batch`: one part; of `conformance`, `parity`: pairs, `A,B`",
    )
    parser.add_argument("--server", type=Path, help="of `batch`: the program llama-server, to be compared with")
    parser.add_argument("--questions", type=int, help="of `batch`; default: 100 on a GPU, 16 on a CPU")
    given = parser.parse_args()
    if given.what == "templates" and given.source is None:
        parser.error("templates needs --source, a folder of llama.cpp's source")
    if given.what == "conformance" and given.pairs is None:
        parser.error("conformance needs --pairs, a folder of pairs; with --source they are made there")
    if given.what == "parity" and given.pairs is None:
        parser.error("parity needs --pairs, a folder of pairs and originals; with --source they are made there")
    found: dict[str, object] = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "llama_cpp_python": version,
        "size": given.size,
        "gpu": given.gpu,
    }
    if given.what == "statistics":
        from bench import statistics  # noqa: PLC0415

        if given.measure:
            statistics.measure()
        statistics.main(given.draws)
        return
    if given.what == "templates":
        from bench import templates  # noqa: PLC0415  needs neither llama.cpp nor a model

        print(json.dumps(found | show("templates", templates.measure(given.source, given.peer))))
        return
    if given.what == "projectors":
        from bench import projectors  # noqa: PLC0415

        print(json.dumps(found | show("projectors", projectors.measure(given.source, given.pairs))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        from bench import engine  # noqa: PLC0415  after the arguments were read: it takes a second

        if given.what in ("engine", "defaults", "all"):
            ready = engine.prepare(
                given.size, given.folder or Path(temporary), given.tools, gpu=given.gpu, threads=given.threads
            )
            measures = [engine.five_variants, engine.second_question, engine.decode_speed]
            measures = [] if given.what == "defaults" else measures
            if not given.gpu:
                measures.append(engine.defaults)
            for measure in measures:
                found |= show(measure.__name__, measure(ready))
        if given.what in ("pair", "all"):
            from bench import pair  # noqa: PLC0415

            found |= show("pair", pair.measure(Path(temporary)))
        if given.what == "axes":
            from bench import axes  # noqa: PLC0415

            found |= show("axes", axes.measure(Path(temporary), given.pairs))
        if given.what in ("encoder", "all"):
            from bench import encoder  # noqa: PLC0415

            found |= show("encoder", encoder.measure(Path(temporary), given.pairs))
        if given.what in ("page", "all"):
            from bench import page  # noqa: PLC0415  needs gradio and a browser, which a GPU machine may lack

            found |= show("page", page.measure(Path(temporary)))
        if given.what in ("cuts", "all"):
            from bench import cuts  # noqa: PLC0415

            found |= show("cuts", cuts.measure(Path(temporary), given.minutes))
        if given.what in ("notebook", "all"):
            from bench import notebook  # noqa: PLC0415

            found |= show("notebook", notebook.measure(Path(temporary)))
        if given.what in ("lab", "all"):
            if given.gpu:  # the embedded pair is too small to say anything about a GPU
                from bench import drift  # noqa: PLC0415

                ready = engine.prepare(
                    given.size, given.folder or Path(temporary), given.tools, gpu=True, threads=given.threads
                )
                found |= show("drift", drift.measure(ready))
            else:
                from bench import lab  # noqa: PLC0415

                found |= show("lab", lab.measure(Path(temporary), given.tools))
        if given.what in ("batch", "all"):
            from bench import batch  # noqa: PLC0415

            ready = engine.prepare(
                given.size, given.folder or Path(temporary), given.tools, gpu=given.gpu, threads=given.threads
            )
            n, tokens, n_variants = (100, 60, 5) if given.gpu else (16, 32, 2)
            questions = given.questions or n
            found |= show("batch", batch.measure(ready, questions, tokens, n_variants, given.server, given.only))
        if given.what == "prompt":
            from bench import prompt  # noqa: PLC0415

            ready = engine.prepare(
                given.size, given.folder or Path(temporary), given.tools, gpu=given.gpu, threads=given.threads
            )
            found |= show("prompt", prompt.measure(ready))
        if given.what == "sequences":
            from bench import sequences  # noqa: PLC0415

            ready = engine.prepare(
                given.size, given.folder or Path(temporary), given.tools, gpu=given.gpu, threads=given.threads
            )
            found |= show("sequences", sequences.measure(ready))
        if given.what in ("hub", "all"):
            from bench import hub  # noqa: PLC0415

            found |= show("hub", hub.measure(Path(temporary)))
        if given.what in ("suites", "all"):
            from bench import suites  # noqa: PLC0415

            found |= show("suites", suites.measure(Path(temporary)))
        if given.what in ("load", "all"):
            from bench import load  # noqa: PLC0415

            found |= show("load", load.measure(Path(temporary), given.minutes))
        if given.what == "conformance":
            from bench import conformance  # noqa: PLC0415

            only = given.only.split(",") if given.only else []
            if given.source is not None:
                conformance.build(given.pairs, given.source, given.peer or sys.executable, only)
            results = conformance.measure(
                Path(temporary), given.pairs, given.mtmd_cli, make=given.make, gpu=given.gpu, only=only
            )
            found |= show("conformance", results)
        if given.what == "parity":
            from bench import parity  # noqa: PLC0415

            only = given.only.split(",") if given.only else []
            python = str(given.peer or sys.executable)
            found |= show("parity", parity.measure(Path(temporary), given.pairs, given.source, python, only))
        if given.what in ("api", "all"):
            from bench import api  # noqa: PLC0415

            found |= show("api", api.measure(Path(temporary)))
        if given.what == "attack":  # 15 minutes, and on loopback alone
            from bench import attack  # noqa: PLC0415

            found |= attack.measure(Path(temporary), given.seconds, given.only)
        if given.what == "app":
            from bench import app  # noqa: PLC0415

            found |= show("app", app.measure(given.folder or Path(temporary), given.size, gpu=given.gpu))
    print(json.dumps(found))
    if any(name.endswith("_missed") for name in found):
        sys.exit(1)
    if found.get("failures"):
        raise SystemExit(1)


def show(name: str, numbers: dict[str, float]) -> dict[str, float]:
    print(f"\n{name}")
    for key, value in numbers.items():
        print(f"  {key:44} {value:12.4g}")
    return numbers


if __name__ == "__main__":
    main()
