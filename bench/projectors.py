"""The doctor's table beside llama.cpp's source, and wrong pairs that it lets pass. `python -m bench projectors`

Reads tools/mtmd of a folder of llama.cpp's source: every type of projector, the tokens around an image, the tensors
that a file needs. With `--pairs`, a folder of pairs (NAME/NAME-F16.gguf and NAME/mmproj-NAME-F16.gguf), the doctor
judges each language model with each projector, with the names in the headers left out.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from playground.models import doctor
from playground.models.doctor import Level
from playground.models.gguf.header import GgufHeader, read_header
from playground.models.projector_types import AUDIO_TYPES, PROJECTOR_TYPES

_CASE = re.compile(r"case PROJECTOR_TYPE_(\w+):")


def measure(source: Path | None, pairs: Path | None) -> dict[str, float]:
    return (_table(source / "tools/mtmd") if source else {}) | (_crossings(pairs) if pairs else {})


def _table(mtmd: Path) -> dict[str, float]:
    definitions = (mtmd / "clip-impl.h").read_text()
    names = dict(re.findall(r'\{ *PROJECTOR_TYPE_(\w+), +"([^"]+)" *\}', definitions))
    known = PROJECTOR_TYPES.keys() | AUDIO_TYPES
    lacking = [f"the type {name}" for name in names.values() if name not in known]
    lacking += [f"the type {name}, which this source lacks" for name in known - set(names.values())]
    tokens = _tokens((mtmd / "mtmd.cpp").read_text(), names)
    tensors = _tensors(
        (mtmd / "clip.cpp").read_text(), names, dict(re.findall(r'#define (\w+) +"([^"]+)"', definitions))
    )
    for name, kind in PROJECTOR_TYPES.items():
        of_table = {*kind.around, *kind.needed}
        lacking += [f"{name}: the token {token!r}" for token in sorted(tokens.get(name, set()) - of_table)]
        of_table = {*kind.tensors, kind.width[0]}
        lacking += [f"{name}: the tensor {tensor}" for tensor in sorted(tensors.get(name, set()) - of_table)]
    for entry in lacking:
        print(f"  the doctor's table lacks {entry}")
    return {"types in the source": len(names), "types in the table": len(known), "lacking in the table": len(lacking)}


def _tokens(text: str, names: dict[str, str]) -> dict[str, set[str]]:
    """Those that llama.cpp looks up, and aborts on where a vocabulary has none, or writes around an image."""
    body = text[text.index("case PROJECTOR_TYPE_MLP:") :]
    texts_of: dict[str, set[str]] = {}
    for types, lines in _cases(body[: body.index("void init_audio")]):
        tokens = set(re.findall(r'lookup_token\("([^"]+)"\)|img_(?:beg|end) += "([^"]+)"', "\n".join(lines)))
        texts = {(looked_up or written).replace("\\n", "\n") for looked_up, written in tokens}
        for kind in types:
            texts_of.setdefault(names.get(kind, kind), set()).update(texts)
    # A line break that is written is text. Kimi K2.5 has one of two pairs of tokens.
    for kind in ("deepseekocr", "deepseekocr2", "granite4_vision", "kimik25"):
        texts_of.pop(kind, None)
    return texts_of


def _tensors(text: str, names: dict[str, str], macros: dict[str, str]) -> dict[str, set[str]]:
    """Those that load_tensors reads for a type, unless it makes do without; not those of a loop."""
    body = text[text.index("switch (model.proj_type) {", text.index("auto get_tensor = [&]")) :]
    tensors: dict[str, set[str]] = {}
    for types, lines in _cases(body[: body.index("// sanity check", 0) if "// sanity check" in body else None]):
        depth = 0
        for line in lines:
            call = re.search(r"^[^/]*= get_tensor\((.*)\);", line)
            name = _name(call[1], macros) if call and depth <= 1 and not call[1].endswith("false") else None
            for kind in types if name else ():
                tensors.setdefault(names.get(kind, kind), set()).add(str(name))
            depth += line.count("{") - line.count("}")
    return tensors


def _cases(body: str) -> list[tuple[list[str], list[str]]]:
    """The branches of a switch: their labels, and the lines below."""
    branches: list[tuple[list[str], list[str]]] = []
    depth = 0
    for line in body.splitlines():
        if depth < 0:
            break
        if label := _CASE.search(line):
            if not branches or branches[-1][1]:
                branches.append(([], []))
            branches[-1][0].append(label[1])
        elif branches and "switch (" not in line:
            branches[-1][1].append(line)
        depth += line.count("{") - line.count("}")
    return branches


def _name(expression: str, macros: dict[str, str]) -> str | None:
    formatted = re.fullmatch(r"string_format\((\w+)((?:, *[^,()]+)+)\)", expression)
    if formatted is None:
        return macros.get(expression)
    text = macros.get(formatted[1], "")
    for argument in formatted[2].split(",")[1:]:
        value = argument.strip()
        if not re.fullmatch(r'\d+|"[^"]*"', value):
            return None  # of a loop
        text = re.sub("%[sd]", value.strip('"'), text, count=1)
    return text or None


def _crossings(folder: Path) -> dict[str, float]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    models = {name: _nameless(read_header(folder / name / f"{name}-F16.gguf")) for name in names}
    projectors = {name: _nameless(read_header(folder / name / f"mmproj-{name}-F16.gguf")) for name in names}
    passing = alarms = 0
    for model in names:
        for projector in names:
            findings = doctor.diagnose(models[model], projectors[projector])
            fine = doctor.worst(findings) is Level.FINE
            if model == projector and not fine:
                alarms += 1
                print(f"  false alarm on {model}: {findings[0].text}")
            elif model != projector and fine:
                passing += 1
                print(f"  passes: the model of {model} with the projector of {projector}")
    return {
        "pairs": len(names),
        "false alarms": alarms,
        "wrong crossings": len(names) * (len(names) - 1),
        "wrong crossings that pass": passing,
    }


def _nameless(header: GgufHeader) -> GgufHeader:
    """Without what a publisher writes; the doctor compares names too."""
    keys = ("general.architecture", "general.file_type", "general.alignment")
    metadata = {k: v for k, v in header.metadata.items() if not k.startswith("general.") or k in keys}
    return replace(header, path="model.gguf", metadata=metadata)
