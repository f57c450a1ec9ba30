"""Finds why a pair will not work, or may not, before it is downloaded or loaded: by the headers of its files. Pure.

Each finding says what is wrong and what to do. llama.cpp refuses a "broken" pair, or aborts on it. A "doubtful" pair
loads, and its answers may be nonsense. "Fine" findings are for information.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum

import msgspec
from gguf.constants import MODEL_ARCH_NAMES

from playground.models import family_signs
from playground.models.family_signs import projector_type
from playground.models.gguf import file_names
from playground.models.gguf.header import GgufHeader
from playground.models.gguf.model_shape import kv_bytes_per_token
from playground.models.projector_types import AUDIO_TYPES, PROJECTOR_TYPES, SPELLINGS, ProjectorType

_PRECISE = ("F16", "BF16", "F32")
# gguf's list of architectures lags behind llama.cpp's; those that read images matter here.
_ARCHITECTURES = {
    *MODEL_ARCH_NAMES.values(),
    *(arch for kind in PROJECTOR_TYPES.values() for arch in kind.architectures),
}
_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)B", re.IGNORECASE)
_MAX_LAYERS = 1000  # of an encoder; a stranger's header may claim billions
_EQUAL_SIZES = "Equal sizes prove nothing. Run the look test, or use the mmproj file of the model's own repository."
_SHORT = 100  # characters of a text from a file; a stranger may have written megabytes
# Beside weights and key-value cache, of the two workers: Python and llama.cpp, compute buffers, and on a GPU two
# contexts of CUDA of half a GiB (measured on an H100).
_HOST_OVERHEAD, _GPU_OVERHEAD = 500 * 2**20, 1400 * 2**20

_VICUNA = ("USER:", "ASSISTANT:")  # a template may write the first one as `role.upper() + ': '`
_CHATML = (
    "qwen2", "qwen3", "qwen3moe", "qwen2vl", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "lfm2", "lfm2moe",
    "internlm2", "llama",
)  # fmt: skip

# GGUF files of the LLaVA family often have no chat template, or another model's. Each row: a pattern for the model's
# name, llama.cpp's built-in template that is right for it, and texts of which a right template has one.
_LLAVA_TEMPLATES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"nano.?llava|obsidian", "chatml", ("<|im_start|>",)),
    (r"bakllava", "vicuna", _VICUNA),
    (r"moondream", "vicuna", (*_VICUNA, "Question:")),
    (r"llava.*mistral|mistral.*llava", "llama2", ("[INST]",)),
    (r"yi.?34b|1\.6.?34b|nous.?hermes", "chatml", ("<|im_start|>",)),
    (r"llava.{0,2}1\.[56]|llava.*vicuna|sharegpt4v", "vicuna", _VICUNA),
)
# Which built-in template of llama.cpp a family's models are asked with, where a file has none. The first row that fits
# the architecture and has its token (if it names one) in the vocabulary counts.
_FAMILY_TEMPLATES: tuple[tuple[tuple[str, ...], str | None, str], ...] = (
    (("gemma3", "gemma3n"), None, "gemma"),
    (("llama4",), None, "llama4"),
    (("mistral3",), None, "mistral-v7-tekken"),
    (("hunyuan_vl",), None, "hunyuan-vl"),
    (("hunyuan-dense",), None, "hunyuan-dense"),
    (("exaone4",), None, "exaone4"),
    (("deepseek2-ocr",), None, "deepseek-ocr"),
    (("deepseek2", "glm-dsa"), "<|media_end|>", "kimi-k2"),
    (("glm4", "glm4moe"), None, "chatglm4"),
    (("gpt-oss",), None, "gpt-oss"),
    (("llama",), "<fake_token_around_image>", "smolvlm"),
    (("llama",), "[IMG_END]", "mistral-v7"),
    (("llama",), "<image_placeholder>", "deepseek"),
    (_CHATML, "<|im_start|>", "chatml"),
)


class Level(IntEnum):
    FINE = 0
    DOUBTFUL = 1
    BROKEN = 2


class Finding(msgspec.Struct, frozen=True):
    level: Level
    code: str  # for a program: swapped, width, template-missing ...
    text: str
    remedy: str = ""
    chat_template: str | None = None  # one that repairs it


class Hardware(msgspec.Struct, frozen=True):
    """What a pair would be loaded into; None: unknown."""

    gpu_name: str | None
    gpu_free: int | None
    host_free: int
    gpu_offload: bool | None  # whether llama-cpp-python was built for a GPU


class Needs(msgspec.Struct, frozen=True):
    """Bytes, estimated before anything is loaded. None: the header does not say."""

    weights: int
    projector: int
    kv_cache: int | None
    overhead: int

    @property
    def all(self) -> int:
        return self.weights + self.projector + (self.kv_cache or 0) + self.overhead


def worst(findings: Iterable[Finding]) -> Level:
    return max((finding.level for finding in findings), default=Level.FINE)


def diagnose(
    model: GgufHeader,
    projector: GgufHeader | None,
    *,
    hardware: Hardware | None = None,
    n_ctx: int = 4096,
    chat_template: str | None = None,
    model_bytes: int | None = None,
) -> tuple[Finding, ...]:
    """`chat_template`: one that is used in place of the file's. `model_bytes`: of all shards."""
    roles = tuple(_roles(model, projector))
    if worst(roles) is Level.BROKEN:
        return roles
    findings = [*roles, *_engine(model)]
    if projector is not None:
        kind = PROJECTOR_TYPES.get(projector_type(projector) or "")
        findings += _fit(model, projector, kind)
        findings += _bits(projector)
    findings += _template(model, chat_template)
    if hardware is not None:
        findings += _room(model, projector, hardware, n_ctx, model_bytes)
    return tuple(sorted(findings, key=lambda finding: -finding.level))


# --- the two files ---------------------------------------------------------------------------------------------------


def _roles(model: GgufHeader, projector: GgufHeader | None) -> Iterable[Finding]:
    first, second = _name(model), "" if projector is None else _name(projector)
    if projector is None:
        if model.is_projector:
            yield Finding(
                Level.BROKEN, "no-model", f"{first} is a projector (mmproj); the language model is missing.",
                "Choose the language model's file too.",
            )  # fmt: skip
        else:
            yield Finding(
                Level.BROKEN, "no-projector", f"{first} cannot read images alone: its projector (mmproj) is missing.",
                "Look for a file called mmproj in the same repository. Models for text only have none.",
            )  # fmt: skip
        return
    if model.is_projector and not projector.is_projector:
        yield Finding(
            Level.BROKEN, "swapped",
            f"The two files are swapped: {first} is the projector, {second} the language model.",
            "Swap them.",
        )  # fmt: skip
    elif model.is_projector:
        yield Finding(
            Level.BROKEN, "two-projectors", f"{first} and {second} are both projectors.",
            "Choose the language model's file as the model.",
        )  # fmt: skip
    elif not projector.is_projector:
        yield Finding(
            Level.BROKEN, "two-models", f"{first} and {second} are both language models.",
            "The projector is the file that its publisher calls mmproj.",
        )  # fmt: skip
    elif not _sees(projector):
        yield Finding(
            Level.BROKEN, "audio", f"{second} has no vision encoder{_hears(projector)}.",
            "Choose the mmproj file for images; a repository may have one of each.",
        )  # fmt: skip


def _sees(projector: GgufHeader) -> bool:
    """llama.cpp treats a missing key as false."""
    return projector.metadata.get("clip.has_vision_encoder") is True


def _hears(projector: GgufHeader) -> str:
    audio = (projector.metadata.get(f"clip.has_{kind}_encoder") for kind in ("audio", "gen_audio"))
    return ": it is for audio" if True in audio else ""


def _engine(model: GgufHeader) -> Iterable[Finding]:
    if model.architecture not in _ARCHITECTURES:
        yield Finding(
            Level.DOUBTFUL, "architecture",
            f"The architecture '{model.architecture[:_SHORT]}' is not on this app's list of language models.",
            "If it does not load, a newer llama-cpp-python may support it.",
        )  # fmt: skip


# --- do they belong together -----------------------------------------------------------------------------------------


def width_of(projector: GgufHeader) -> int | None:
    """How many values the projector writes for an image token, by its tensors' shapes; None if these do not say."""
    name = projector_type(projector)
    kind = PROJECTOR_TYPES.get(name or "")
    if kind is None:
        return None
    shapes = {tensor.name: tensor.shape for tensor in projector.tensors}
    tensor, axis = kind.width
    if name == "mlp" and "mm.3.weight" in shapes:  # what llama.cpp calls mlp_norm
        tensor, axis = "mm.3.bias", 0
    if tensor not in shapes:
        return None
    again = sum(re.fullmatch(kind.again, name) is not None for name in shapes) if kind.again else 0
    return (*shapes[tensor], 1, 1)[axis] * (1 + again)


def embedding_width(model: GgufHeader) -> int | None:
    """How many values the language model reads for a token, with its deepstack layers."""
    width = model.integer(f"{model.architecture}.embedding_length")
    layers = model.integer(f"{model.architecture}.n_deepstack_layers") or 0
    mapping = model.metadata.get(f"{model.architecture}.deepstack_mapping")  # Granite's: for each layer, -1 for none
    if isinstance(mapping, tuple):
        layers = len({index for index in mapping if isinstance(index, int) and index >= 0})
    return None if width is None else width * (1 + layers)


def _type_findings(projector: GgufHeader, kind: ProjectorType | None) -> Iterable[Finding]:
    """Whether llama.cpp can run a projector that says it is of this type."""
    name = projector_type(projector)
    if name is None:
        yield Finding(
            Level.BROKEN, "projector-type", "The projector's file does not state its type, so llama.cpp refuses it.",
            "It is damaged, or older than the present format. Look for a newer mmproj file.",
        )  # fmt: skip
    elif name in AUDIO_TYPES:
        yield Finding(
            Level.BROKEN, "audio", f"The projector's type '{name}' is for audio.",
            "Choose the mmproj file for images; a repository may have one of each.",
        )  # fmt: skip
    elif kind is None:
        yield Finding(
            Level.DOUBTFUL, "projector-type", f"The projector's type '{name[:_SHORT]}' is not on this app's list.",
            "If it does not load, a newer llama-cpp-python may support it.",
        )  # fmt: skip
    elif projector.complete and (lacking := _lacking_tensors(projector, kind, width_of(projector))):
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        yield Finding(
            Level.BROKEN, "projector-tensor",
            f"The projector lacks the tensor {lacking[0]}{more}, without which llama.cpp cannot run the type '{name}'.",
            "It is damaged, or older than the present format. Look for a newer mmproj file.",
        )  # fmt: skip


def _fit(model: GgufHeader, projector: GgufHeader, kind: ProjectorType | None) -> Iterable[Finding]:
    name, arch = projector_type(projector), model.architecture
    reads, writes = embedding_width(model), width_of(projector)
    of_type = tuple(_type_findings(projector, kind))
    yield from of_type
    if any(finding.level is Level.BROKEN for finding in of_type):
        return
    if reads is not None and writes is not None and reads != writes:
        yield Finding(
            Level.BROKEN, "width",
            f"The sizes differ: the projector writes {writes} values for an image token, the model reads {reads}.",
            "Use the mmproj file that was published with this model, of the same size.",
        )  # fmt: skip
        return
    if kind is not None:
        if missing := _lacking_tokens(model, kind.needed):
            yield Finding(
                Level.BROKEN, "tokens",
                f"The projector needs tokens that the language model's vocabulary lacks: {', '.join(missing)}.",
                "The two files were not made for each other; llama.cpp would abort. Use the model's own mmproj file.",
            )  # fmt: skip
            return
        if arch not in kind.architectures:
            made_for = ", ".join(kind.architectures)
            sizes = "The sizes cannot be compared, and" if reads is None or writes is None else "The sizes match, but"
            yield Finding(
                Level.DOUBTFUL, "family",
                f"{sizes} this combination is untested: a projector of type '{name}' is made for {made_for}; this "
                f"language model is {arch[:_SHORT]}.",
                "Run the look test: if the answers do not change with the picture, the pair ignores it.",
            )  # fmt: skip
            return
        if around := _lacking_tokens(model, kind.around):
            yield Finding(
                Level.DOUBTFUL, "around",
                f"The vocabulary lacks the tokens that mark the beginning and end of an image: {', '.join(around)}.",
                "The model would read them as plain text. Run the look test.",
            )  # fmt: skip
    if reads is None or writes is None:
        yield Finding(
            Level.DOUBTFUL, "width-unknown", "The headers do not say whether the sizes of the two files match.",
            "Load the pair to find out, then run the look test.",
        )  # fmt: skip
    elif contradiction := family_signs.contradiction(model, projector):
        yield Finding(
            Level.DOUBTFUL, "sign", f"The sizes match ({writes} values), but {contradiction}.",
            _EQUAL_SIZES,
        )  # fmt: skip
    elif _related(model, projector) is False:
        yield Finding(
            Level.DOUBTFUL, "lineage",
            f"The sizes match ({writes} values), but the files name different models: {_lineage(model)} and "
            f"{_lineage(projector)}.",
            _EQUAL_SIZES,
        )  # fmt: skip


def _lacking_tensors(projector: GgufHeader, kind: ProjectorType, width: int | None) -> list[str]:
    """Those that llama.cpp refuses to do without: the type's own, and of the encoder's layers."""
    names = {tensor.name for tensor in projector.tensors}
    lacking = [kind.width[0]] if width is None else []
    lacking += [name for name in kind.tensors if name not in names and name not in lacking]
    layers = projector.integer("clip.vision.block_count") or 0
    if projector_type(projector) == "gemma3nv":  # a convolutional encoder
        return lacking
    for layer in range(min(layers, _MAX_LAYERS)):
        of_layer = f"v.blk.{layer}"
        needed = ["attn_out"] if f"{of_layer}.ffn_gate_exps.weight" in names else ["attn_out", "ffn_up", "ffn_down"]
        lacking += [name for part in needed if (name := f"{of_layer}.{part}.weight") not in names]
    return lacking


def _lacking_tokens(model: GgufHeader, tokens: tuple[str, ...]) -> list[str]:
    """As a person would write them; () where the vocabulary was not read."""
    if not model.complete:
        return []
    absent = (token for token in tokens if model.special_tokens.isdisjoint(SPELLINGS.get(token, (token,))))
    return [token.replace("\n", "\\n") for token in absent]


def _lineage(header: GgufHeader) -> str:
    return _text(header, "general.basename") or _text(header, "general.name") or _name(header)


def _related(model: GgufHeader, projector: GgufHeader) -> bool | None:
    """Whether the files name one model; None where one of them names none.

    A fine-tuned language model works with its base model's projector, not the other way round.
    """
    ours, theirs = _origins(model), _origins(projector)[:1]
    if not ours or not theirs:
        return None
    return any(_within(name, theirs[0]) or _within(theirs[0], name) for name in ours) and _alike(model, projector)


def _within(part: str, name: str) -> bool:
    """Whether a name holds another one's words; gemma3 and gemma-3 are the same."""
    words = re.findall(r"[a-z]+|\d+", part)
    return re.search("-" + "-?".join(words) + "-", name) is not None


def _origins(header: GgufHeader) -> list[str]:
    """Its name and its base model's, each word between dashes."""
    names = (_text(header, "general.basename"), _text(header, "general.base_model.0.repo_url").rpartition("/")[2])
    return [f"-{name}-" for name in map(_plain, names) if name]


def _alike(model: GgufHeader, projector: GgufHeader) -> bool:
    """A projector's size_label is often its own size, or missing; only another size in billions is a difference."""
    ours, theirs = (_SIZE.fullmatch(_text(header, "general.size_label")) for header in (model, projector))
    if ours is None or theirs is None:
        return True
    label = float(theirs[1])
    return any(0.8 * size <= label <= 1.25 * size for size in (float(ours[1]), projector.n_params / 1e9))


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", file_names.QUANTIZATION.sub("", text).lower().replace("mmproj", "")).strip("-")


def _text(header: GgufHeader, key: str) -> str:
    return (header.text(key) or "")[:_SHORT]


# --- the template ----------------------------------------------------------------------------------------------------


def _family_template(model: GgufHeader) -> str | None:
    rows = (
        name
        for architectures, token, name in _FAMILY_TEMPLATES
        if model.architecture in architectures and (token is None or token in model.special_tokens)
    )
    return next(rows, None)


def _template(model: GgufHeader, chosen: str | None) -> Iterable[Finding]:
    if chosen or not model.complete:
        return
    text = model.text("tokenizer.chat_template")
    names = " ".join((_text(model, "general.name"), _text(model, "general.basename"), _name(model))).lower()
    right = next(((name, has) for pattern, name, has in _LLAVA_TEMPLATES if re.search(pattern, names)), None)
    if not text:
        by_name = right[0] if right else None
        choice = by_name or _family_template(model)
        evidence = "name" if by_name else "architecture"
        yield Finding(
            Level.BROKEN, "template-missing", "The language model's file has no chat template.",
            f"Choose '{choice}' as the chat template; the model's {evidence} suggests it." if choice else
            "Choose a chat template; the model's card says which one.",
            chat_template=choice,
        )  # fmt: skip
    elif right and text != right[0] and not any(has in text for has in right[1]):
        yield Finding(
            Level.DOUBTFUL, "template-legacy",
            f"A model of this name needs the template '{right[0]}', but the file's template lacks '{right[1][0]}'.",
            f"Choose '{right[0]}' as the chat template and compare.",
            chat_template=right[0],
        )  # fmt: skip
    elif "content" not in text and not re.fullmatch(r"[\w.-]{1,40}", text):  # that would be llama.cpp's name for one
        yield Finding(
            Level.BROKEN, "template-no-place",
            "The chat template leaves out the messages' content, so an image has no place in the prompt.",
            "Choose another chat template; the model's card says which one.",
        )  # fmt: skip


# --- bits and room ---------------------------------------------------------------------------------------------------


def _bits(projector: GgufHeader) -> Iterable[Finding]:
    quantization = file_names.quantization(projector.path.rsplit("/", 1)[-1]) or projector.quantization
    if quantization in _PRECISE or all(tensor.type.name in _PRECISE for tensor in projector.tensors):
        return  # its name may be the language model's
    yield Finding(
        Level.FINE if quantization == "Q8_0" else Level.DOUBTFUL, "projector-bits",
        f"The projector is quantized ({quantization}), and advice on that differs. KoboldCpp recommends F16. Unsloth "
        "found that 4 bits in the vision encoder's MLP ruin Qwen2-VL. llamafile recommends 4 bits there.",
        "Before you use it, measure it against the F16 projector on your images.",
    )  # fmt: skip


def needs(
    model: GgufHeader, projector: GgufHeader | None, n_ctx: int, *, on_gpu: bool, model_bytes: int | None = None
) -> Needs:
    """`model_bytes`: of all shards, where `model` is the first one's header."""
    each = kv_bytes_per_token(model)
    return Needs(
        weights=model_bytes or model.file_bytes,
        projector=projector.file_bytes if projector else 0,
        kv_cache=None if each is None else each * n_ctx,
        overhead=_GPU_OVERHEAD if on_gpu else _HOST_OVERHEAD,
    )


def _room(
    model: GgufHeader, projector: GgufHeader | None, hardware: Hardware, n_ctx: int, model_bytes: int | None
) -> Iterable[Finding]:
    if hardware.gpu_name and hardware.gpu_offload is False:
        yield Finding(
            Level.DOUBTFUL, "cpu-build",
            f"This machine has a GPU ({hardware.gpu_name}), but llama-cpp-python was built for the CPU only.",
            'Reinstall it with GPU support, for example with CMAKE_ARGS="-DGGML_CUDA=on".',
        )  # fmt: skip
    on_gpu = hardware.gpu_free is not None and hardware.gpu_offload is not False
    wanted = needs(model, projector, n_ctx, on_gpu=on_gpu, model_bytes=model_bytes)
    free = hardware.gpu_free if on_gpu and hardware.gpu_free is not None else hardware.host_free
    where = f"on {hardware.gpu_name or 'the GPU'}" if on_gpu else "in this machine's memory"
    text = f"The pair needs about {_gib(wanted.all)} at a context of {n_ctx:,}; {_gib(free)} are free {where}."
    unknown = hardware.gpu_free is None and bool(hardware.gpu_offload)
    if unknown:
        text += " The GPU's memory is unknown."
    if wanted.all <= free:
        yield Finding(Level.FINE, "room", text)
        return
    remedies = []
    if on_gpu and wanted.all <= free + hardware.host_free:
        layers = model.integer(f"{model.architecture}.block_count") or 0
        share = max(0.0, (free - wanted.overhead - wanted.projector - (wanted.kv_cache or 0)) / max(1, wanted.weights))
        if share > 0.1 and int(share * layers) > 0:
            remedies.append(f"put {int(share * layers)} of its {layers} layers on the GPU")
    if wanted.kv_cache and wanted.all - wanted.kv_cache // 2 <= free:
        remedies.append(f"halve the context (its key-value cache takes {_gib(wanted.kv_cache)})")
    left = free - wanted.overhead - wanted.projector - (wanted.kv_cache or 0)
    if left > 0 and model.n_params:
        bits = 8 * model.file_bytes / model.n_params * left / wanted.weights  # `model` may be one shard of them
        if bits >= 2.5:
            remedies.append(f"choose a quantization of at most {bits:.1f} bits per weight")
    nowhere = wanted.all > free + (hardware.host_free if on_gpu else 0) and not unknown
    remedy = ", or ".join(remedies) or "choose a smaller model"
    yield Finding(Level.BROKEN if nowhere else Level.DOUBTFUL, "room", text, f"{remedy[0].upper()}{remedy[1:]}.")


def _gib(n: int) -> str:
    return f"{n / 2**30:.1f} GiB"


def _name(header: GgufHeader) -> str:
    return header.path.rsplit("/", 1)[-1][-_SHORT:]
