"""Processes of the app: one that cannot start, one that is killed, and what an import does and costs."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

from playground.comparing.images import MAX_PIXELS
from playground.notebooks.cells import RunState
from playground.notebooks.library import Library
from playground.values.answer import PaneState
from testkit.notebooks import filled, run_of
from testkit.webapp import ROOT


@pytest.mark.parametrize("command", [("app.py",), ("-m", "playground", "variants")])
def test_app_when_the_file_is_wrong_then_it_ends_with_2_and_no_traceback(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    config = tmp_path / "playground.toml"
    config.write_text("max_pains = 3")
    process = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"PLAYGROUND_CONFIG": str(config)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert "Unknown key 'max_pains' in " in process.stderr
    assert "Traceback" not in process.stderr


# VmHWM, not ru_maxrss: that one begins with what the parent had.
_PEAK = """
import re, sys
from playground.comparing.images import read_image
def peak_kib():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak_kib()
image = read_image(sys.argv[1])
print(image.width * image.height, peak_kib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_size_when_25_megapixels_with_alpha_then_memory_stays_below_350_mb(tmp_path: Path) -> None:
    """Decoded it is 100 MB; copies are to be made after scaling down, not before."""
    path = tmp_path / "a.png"
    PIL.Image.new("RGBA", (5000, 5000), (1, 2, 3, 128)).save(path, compress_level=1)
    process = subprocess.run([sys.executable, "-c", _PEAK, path], cwd=ROOT, capture_output=True, text=True, check=True)
    pixels, peak_kib = map(int, process.stdout.split())
    assert pixels <= MAX_PIXELS
    assert peak_kib < 350_000


CHILD = """
import os, signal, sys
from pathlib import Path
from playground.notebooks.library import Library
from playground.values.answer import PaneState
from testkit.notebooks import F16, Q2, pane, result, run_of
from playground.notebooks.cells import RunState
library = Library(Path(sys.argv[1]))
notebook, _ = library.read(sys.argv[2])
run = library.begin_run(notebook.id, run_of(library.cell(notebook, sys.argv[3]), state=RunState.RUNNING))
half = result(pane(F16, "three red"), pane(Q2, "thr", PaneState.WRITING))
library.save_run(notebook.id, run_of(run.cell, half, number=run.number, state=RunState.RUNNING))
assert library.newest_run(notebook, sys.argv[3]).state is RunState.RUNNING
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_run_when_the_app_is_killed_then_it_is_there_as_interrupted_with_its_text(tmp_path: Path) -> None:
    library = Library(tmp_path / "notebooks")
    notebook, _, cell = filled(library)
    folder = str(library.pictures.folder.parent)
    library.close()
    child = subprocess.run([sys.executable, "-c", CHILD, folder, notebook.id, cell.id], check=False)
    assert child.returncode == -signal.SIGKILL
    again = Library(tmp_path / "notebooks")
    run = again.newest_run(notebook, cell.id)
    assert run is not None
    assert (run.number, run.state) == (3, RunState.INTERRUPTED)
    assert again.runs(notebook, cell.id)[-1].state is RunState.INTERRUPTED
    assert [(p.state, p.text) for p in run.results[0].update.panes] == [
        (PaneState.DONE, "three red"),
        (PaneState.STOPPED, "thr"),
    ]
    assert run.results[0].update.done
    assert again.begin_run(notebook.id, run_of(cell)).number == 4
    again.close()


# An audit hook sees what a module does while it is imported, whatever it is called there.
_WATCH = """
import sys
seen = []
watched = ("subprocess.Popen", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system",
           "socket.connect", "socket.bind", "sqlite3.connect", "os.mkdir", "os.remove", "os.rename")
sys.addaudithook(lambda event, args: seen.append((event, str(args)[:200])) if event in watched else None)
"""


def in_a_child(code: str) -> str:
    process = subprocess.run(
        [sys.executable, "-B", "-c", _WATCH + code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_comparison_when_imported_then_no_process_no_thread_no_file_no_socket() -> None:
    code = "import playground.comparing.compare, playground.wiring, playground.__main__, threading\n"
    assert in_a_child(code + "print(seen, threading.active_count())") == "[] 1"


def test_parents_modules_when_all_imported_then_llama_cpp_is_not() -> None:
    """Where llama.cpp is loaded, a bad file can abort the process; the page's process has to live."""
    files = [ROOT / "app.py", *(ROOT / "playground").rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    in_a_process_of_their_own = ("playground.engine.", "playground.original.child")
    modules = [name for name in names if not name.startswith(in_a_process_of_their_own) or name.endswith(".protocol")]
    if importlib.util.find_spec("ray") is None:  # the extra cluster
        modules = [name for name in modules if not name.startswith("playground.cluster.")]
    assert len(modules) > 50
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    assert in_a_child(code + "print('llama_cpp' in sys.modules, 'gradio' in sys.modules)") == "False True"


def test_gradio_when_the_command_line_is_imported_then_it_is_not() -> None:
    code = "import playground.__main__\nprint('gradio' in sys.modules, 'llama_cpp' in sys.modules)"
    assert in_a_child(code) == "False False"
