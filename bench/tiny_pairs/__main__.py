"""Makes the pairs, each checkpoint and each conversion in a process of its own."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.tiny_pairs import TITLES

_LLAVA = "tools/mtmd/legacy-models/convert_image_encoder_to_gguf.py"
# transformers 5 took a layer out of CLIP's vision model; the older converter looks for it.
_LLAVA_CHANGES = (
    ("model.vision_model.encoder.layers", "model.encoder.layers"),
    ("state_dict = model.state_dict()", 'state_dict = {f"vision_model.{k}": v for k, v in model.state_dict().items()}'),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.tiny_pairs", description=__doc__)
    parser.add_argument("folder", type=Path, help="where NAME/NAME-F16.gguf and NAME/mmproj-NAME-F16.gguf are written")
    parser.add_argument("names", nargs="*", help="families; default: all")
    parser.add_argument("--source", type=Path, required=True, help="llama.cpp's source")
    parser.add_argument("--originals", action="store_true", help="keep NAME/original/NAME, as transformers saves it")
    parser.add_argument("--checkpoint", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    if arguments.checkpoint:
        from bench.tiny_pairs.families import FAMILIES  # noqa: PLC0415  takes seconds

        FAMILIES[arguments.names[0]]()
        return
    failed = [
        name
        for name in arguments.names or TITLES
        if not _made(arguments.folder, arguments.source, name, keep=arguments.originals)
    ]
    if failed:
        raise SystemExit(f"Not made: {', '.join(failed)}.")


def _made(folder: Path, source: Path, name: str, *, keep: bool) -> bool:
    """Whether both files are there; they are made unless they were before. `keep`: with the original."""
    model, projector = folder / name / f"{name}-F16.gguf", folder / name / f"mmproj-{name}-F16.gguf"
    original = model.parent / "original"
    if model.exists() and projector.exists() and (original.exists() or not keep):
        return True
    model.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
        environment = os.environ | {
            "LLAMA_CPP": str(source.resolve()), "CHECKPOINTS": temporary, "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }  # fmt: skip
        checkpoint = Path(temporary) / name
        options = ["--outtype", "f16", "--model-name", f"toy-{name}"]
        converter = ["bench.tiny_pairs.converter", checkpoint, *options]
        if not _ran(["bench.tiny_pairs", folder, name, "--source", source, "--checkpoint"], environment, name):
            return False
        more = checkpoint / "converter_options"
        extra = more.read_text().split() if more.exists() else []
        if (checkpoint / "vision").exists():
            whole = _llava_projector(checkpoint / "vision", source, projector, environment, name)
        else:
            whole = _ran([*converter, "--mmproj", "--outfile", projector], environment, name)
        whole = whole and _ran([*converter, *extra, "--outfile", model], environment, name)
        if whole and keep:
            shutil.copytree(checkpoint, original / name, dirs_exist_ok=True)
    print(f"{name}: {'made' if whole else 'FAILED'}", flush=True)
    return whole


def _llava_projector(vision: Path, source: Path, target: Path, environment: dict[str, str], name: str) -> bool:
    script = vision / "convert.py"
    text = (source / _LLAVA).read_text()
    for old, new in _LLAVA_CHANGES:
        text = text.replace(old, new)
    script.write_text(text)
    command = [script, "-m", vision, "--llava-projector", vision / "llava.projector", "--output-dir", vision]
    if not _ran([*command, "--clip-model-is-vision"], environment, name, module=False):
        return False
    shutil.move(next(vision.glob("mmproj-*.gguf")), target)
    return True


def _ran(command: list[object], environment: dict[str, str], name: str, *, module: bool = True) -> bool:
    program = [sys.executable, *(["-m"] if module else []), *map(str, command)]
    process = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        print(f"{name}: {command[0]}\n{process.stderr[-2000:]}", file=sys.stderr, flush=True)
    return not process.returncode


if __name__ == "__main__":
    main()
