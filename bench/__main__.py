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
    "cluster",
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
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of each input of `attack`, of the long part of `cluster`"
    )
    parser.add_argument(
        "--only",
        help="of `attack`: inputs, `A,B`; of `batch`: one part; of `conformance`, `parity`: pairs, `A,B`",
    )
    parser.add_argument("--server", type=Path, help="of `batch`: the program llama-server, to be compared with")
    parser.add_argument(
        "--questions", type=int, help="of `batch` (default: 100 on a GPU, 16 on a CPU) and `cluster --gpu` (100)"
    )
    arguments = parser.parse_args()
    if arguments.what == "templates" and arguments.source is None:
        parser.error("templates needs --source, a folder of llama.cpp's source")
    if arguments.what == "conformance" and arguments.pairs is None:
        parser.error("conformance needs --pairs, a folder of pairs; with --source they are made there")
    if arguments.what == "parity" and arguments.pairs is None:
        parser.error("parity needs --pairs, a folder of pairs and originals; with --source they are made there")
    figures: dict[str, object] = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "llama_cpp_python": version,
        "size": arguments.size,
        "gpu": arguments.gpu,
    }
    if arguments.what == "statistics":
        from bench import statistics  # noqa: PLC0415

        if arguments.measure:
            statistics.measure()
        statistics.main(arguments.draws)
        return
    if arguments.what == "templates":
        from bench import templates  # noqa: PLC0415  needs neither llama.cpp nor a model

        print(json.dumps(figures | show("templates", templates.measure(arguments.source, arguments.peer))))
        return
    if arguments.what == "projectors":
        from bench import projectors  # noqa: PLC0415

        print(json.dumps(figures | show("projectors", projectors.measure(arguments.source, arguments.pairs))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        from bench import engine  # noqa: PLC0415  after the arguments were read: it takes a second

        def prepared() -> engine.Bench:
            folder, tools, threads = arguments.folder or Path(temporary), arguments.tools, arguments.threads
            return engine.prepare(arguments.size, folder, tools, gpu=arguments.gpu, threads=threads)

        if arguments.what in ("engine", "defaults", "all"):
            ready = prepared()
            measures = [engine.five_variants, engine.second_question, engine.decode_speed]
            measures = [] if arguments.what == "defaults" else measures
            if not arguments.gpu:
                measures.append(engine.defaults)
            for measure in measures:
                figures |= show(measure.__name__, measure(ready))
        if arguments.what in ("pair", "all"):
            from bench import pair  # noqa: PLC0415

            figures |= show("pair", pair.measure(Path(temporary)))
        if arguments.what == "axes":
            from bench import axes  # noqa: PLC0415

            figures |= show("axes", axes.measure(Path(temporary), arguments.pairs))
        if arguments.what in ("encoder", "all"):
            from bench import encoder  # noqa: PLC0415

            figures |= show("encoder", encoder.measure(Path(temporary), arguments.pairs, gpu=arguments.gpu))
        if arguments.what in ("page", "all"):
            from bench import page  # noqa: PLC0415  needs gradio and a browser, which a GPU machine may lack

            figures |= show("page", page.measure(Path(temporary)))
        if arguments.what in ("cuts", "all"):
            from bench import cuts  # noqa: PLC0415

            figures |= show("cuts", cuts.measure(Path(temporary), arguments.minutes))
        if arguments.what in ("notebook", "all"):
            from bench import notebook  # noqa: PLC0415

            figures |= show("notebook", notebook.measure(Path(temporary)))
        if arguments.what in ("lab", "all"):
            if arguments.gpu:  # the embedded pair is too small to say anything about a GPU
                from bench import drift  # noqa: PLC0415

                figures |= show("drift", drift.measure(prepared()))
            else:
                from bench import lab  # noqa: PLC0415

                figures |= show("lab", lab.measure(Path(temporary), arguments.tools))
        if arguments.what in ("batch", "all"):
            from bench import batch  # noqa: PLC0415

            ready = prepared()
            n, tokens, n_variants = (100, 60, 5) if arguments.gpu else (16, 32, 2)
            questions = arguments.questions or n
            figures |= show(
                "batch", batch.measure(ready, questions, tokens, n_variants, arguments.server, arguments.only)
            )
        if arguments.what == "prompt":
            from bench import prompt  # noqa: PLC0415

            figures |= show("prompt", prompt.measure(prepared()))
        if arguments.what == "sequences":
            from bench import sequences  # noqa: PLC0415

            figures |= show("sequences", sequences.measure(prepared()))
        if arguments.what in ("hub", "all"):
            from bench import hub  # noqa: PLC0415

            figures |= show("hub", hub.measure(Path(temporary)))
        if arguments.what in ("suites", "all"):
            from bench import suites  # noqa: PLC0415

            figures |= show("suites", suites.measure(Path(temporary)))
        if arguments.what in ("load", "all"):
            from bench import load  # noqa: PLC0415

            figures |= show("load", load.measure(Path(temporary), arguments.minutes))
        if arguments.what == "conformance":
            from bench import conformance  # noqa: PLC0415

            only = arguments.only.split(",") if arguments.only else []
            if arguments.source is not None:
                conformance.build(arguments.pairs, arguments.source, arguments.peer or sys.executable, only)
            results = conformance.measure(
                Path(temporary), arguments.pairs, arguments.mtmd_cli, make=arguments.make, gpu=arguments.gpu, only=only
            )
            figures |= show("conformance", results)
        if arguments.what == "parity":
            from bench import parity  # noqa: PLC0415

            only = arguments.only.split(",") if arguments.only else []
            python = str(arguments.peer or sys.executable)
            figures |= show("parity", parity.measure(Path(temporary), arguments.pairs, arguments.source, python, only))
        if arguments.what in ("api", "all"):
            from bench import api  # noqa: PLC0415

            figures |= show("api", api.measure(Path(temporary)))
        if arguments.what == "attack":  # 15 minutes, and on loopback alone
            from bench import attack  # noqa: PLC0415

            figures |= attack.measure(Path(temporary), arguments.seconds, arguments.only)
        if arguments.what == "app":
            from bench import app  # noqa: PLC0415

            figures |= show("app", app.measure(arguments.folder or Path(temporary), arguments.size, gpu=arguments.gpu))
        if arguments.what == "cluster" and arguments.gpu:  # two GPUs of one host; the extra cluster is not required
            from bench import cluster_gpus  # noqa: PLC0415

            folder, n = arguments.folder or Path(temporary), arguments.questions or 100
            figures |= cluster_gpus.measure(arguments.size, folder, arguments.tools, arguments.threads, n)
        elif arguments.what == "cluster":
            from bench import cluster  # noqa: PLC0415  needs the extra cluster

            figures |= cluster.measure(Path(temporary), arguments.seconds)
    print(json.dumps(figures))
    if any(name.endswith("_missed") for name in figures):
        sys.exit(1)
    if figures.get("failures"):
        raise SystemExit(1)


def show(name: str, numbers: dict[str, float]) -> dict[str, float]:
    print(f"\n{name}")
    for key, value in numbers.items():
        print(f"  {key:44} {value:12.4g}")
    return numbers


if __name__ == "__main__":
    main()
