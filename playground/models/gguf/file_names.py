"""What publishers say in the names of GGUF files: the quantization, the shard, which of the two files it is. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

# The quantization as Hugging Face's publishers write it, in the file's name or its folder's. It distinguishes
# UD-Q4_K_XL from Q4_K_M, which general.file_type cannot.
QUANTIZATION = re.compile(
    r"(?:^|[-._])((?:UD-|i1-)?(?:(?:B?F16_)?I?Q\d(?:_[0-9A-Z]+)*|TQ\d_\d|BF16|FP?16|FP?32|MXFP4(?:_MOE)?|NVFP4))"
    r"(?=[-._]|$)",
    re.IGNORECASE,
)
# Mungert's repositories call a projector name-f16.mmproj. A file called mm_projector.bin is PyTorch's, not GGUF.
ENDINGS = (".gguf", ".mmproj")
_SHARD = re.compile(r"(?P<base>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
# A file that was cut into parts by bytes, as in older uploads; llama.cpp's shards are files of their own.
_PART = re.compile(r"(?P<whole>.+\.gguf)[-.](?:part\d+of\d+|split-?[a-z]+|part-?[a-z0-9]+)", re.IGNORECASE)
# Files that many repositories hold beside a model: calibration data, and drafters for speculative decoding.
_OTHER = re.compile(r"^(?:imatrix|mtp-|eagle3-|dflash-|dspark-|\._)|[-._]imatrix\b", re.IGNORECASE)
_MMPROJ = re.compile(r"mm[-_]?proj", re.IGNORECASE)
# Few projectors are called "vision" at the end; elsewhere it is a part of a language model's name (granite-vision-3.2).
_PROJECTOR = re.compile(
    r"mm[-_]?proj|(?:^|[-._])(?:vision(?:[-_]?(?:encoder|tower))?|visual|projector)(?:[-._](?:B?F16|F32|Q8_0))?\.gguf$"
    r"|^clip[-._]",
    re.IGNORECASE,
)


def quantization(name: str) -> str | None:
    """As it stands in a file's name (the last one counts) or its folder's; None if neither says."""
    path = PurePosixPath(name)
    for part in (re.sub(r"-\d{5}-of-\d{5}$", "", path.stem), *path.parent.parts[::-1]):
        if matches := QUANTIZATION.findall(part):
            return str(matches[-1]).upper().replace("I1-", "i1-").replace("FP16", "F16").replace("FP32", "F32")
    return None


def shard(name: str) -> tuple[str, int, int] | None:
    """The common part of the shards' names, this shard's number, and their count; None for a whole file."""
    match = _SHARD.fullmatch(name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return None
    return match["base"], int(match["number"]), int(match["count"])


def shards(name: str) -> tuple[str, ...]:
    """The names of all files of the model that `name` belongs to, the first one first."""
    parts = shard(name)
    return (name,) if parts is None else tuple(_numbered(name, parts[0], n) for n in range(1, parts[2] + 1))


def first_shard(name: str) -> str:
    parts = shard(name)
    return name if parts is None else _numbered(name, parts[0], 1)


def part_of(name: str) -> str | None:
    """The name of the file that a part (name.gguf.part1of2, name.gguf-split-a) belongs to; None if it is no part."""
    match = _PART.fullmatch(name)
    return match["whole"] if match else None


def _numbered(name: str, base: str, number: int) -> str:
    """The name of another shard; the capitals stay as they are."""
    return f"{base}-{number:05}{name[len(base) + 6 :]}"


def is_gguf(name: str) -> bool:
    """By its ending."""
    return name.lower().endswith(ENDINGS)


def is_other(name: str) -> bool:
    """Whether it is neither a language model nor a projector."""
    return not is_gguf(name) or _OTHER.search(PurePosixPath(name).name) is not None


def is_projector(name: str) -> bool:
    """By the name alone; the header's architecture decides."""
    return _PROJECTOR.search(PurePosixPath(name).name) is not None


def is_mmproj(name: str) -> bool:
    """Whether the name leaves no doubt that it is a projector."""
    return _MMPROJ.search(PurePosixPath(name).name) is not None
