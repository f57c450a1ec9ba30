"""Model files: a GGUF file, the sizes in its header, a pair of files as a variant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from playground.values.overrides import Overrides


class Half(StrEnum):
    """One of the two files of a pair. The value is its name in a sentence."""

    MODEL = "language model"
    PROJECTOR = "projector"

    @property
    def other(self) -> Half:
        return Half.MODEL if self is Half.PROJECTOR else Half.PROJECTOR


@dataclass(frozen=True, slots=True)
class Resizing:
    """Of an encoder that resizes an image so that its tokens are within limits."""

    patch: int  # side of a patch, pixels
    token: int  # side of the square that becomes one token
    limits: tuple[int, int]  # pixels of an image, the least and the most
    adjustable: bool  # by image_min_tokens and image_max_tokens
    tiled: int = 0  # pixels of the tiles that a large image is cut into as well

    def patches(self, width: int, height: int, tokens: tuple[int | None, int | None]) -> int:
        """Of one image. `tokens`: limits in place of the encoder's own."""
        given = tokens if self.adjustable else (None, None)
        low, high = (own if n is None else n * self.token**2 for n, own in zip(given, self.limits, strict=True))
        return math.ceil(max(low, min(high, width * height)) / self.patch**2)


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that a forecast of memory and speed needs, from a GGUF header (models/gguf/model_shape.py)."""

    n_layers: int
    layer_bytes: int  # all layers' weights together
    embedding_bytes: int  # a language model's token embeddings: they stay on the host, a token reads one row
    other_bytes: int  # the output layer (the embeddings once more where they serve as it), norms, projection
    read_bytes: int  # weights that one decoded token reads; of a mixture of experts, only the experts in use
    is_float: bool = False  # most weights are floats of 16 or 32 bits: their products need cuBLAS's workspace
    kv_bytes_per_token: int | None = None  # keys and values of all layers, 16 bits each
    n_vocabulary: int | None = None
    n_patches: int | None = None  # of a projector: patches of one image of its native size, or of one tile
    image_side: int | None = None  # of a projector: pixels of its native size
    resizing: Resizing | None = None  # of a projector; None: it takes images of its native size, or tiles
    masked: bool = False  # some layers of a projector attend within windows: the mask has n_patches² values
    n_embd: int | None = None
    n_ff: int | None = None


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One GGUF file of a pair: a language model or a projector."""

    path: str
    bytes: int
    sha256: str
    quantization: str
    n_params: int
    architecture: str
    # Two language models with the same value turn the same text into the same token ids (models/gguf/header.py).
    vocabulary_sha256: str | None = None
    shape: Shape | None = None
    mark: str = ""  # what tells it from another file of this quantization in its family (models/labels.py)
    # Questions that this file was calibrated or searched with (question_sets.fingerprint): they cannot judge it.
    made_with: tuple[str, ...] = ()
    projector_type: str = ""  # a projector's, as llama.cpp calls it; empty: unknown, or of an older version
    repo: str = ""  # of the Hub that it was fetched from; empty: unknown, or of an older version
    commit: str = ""

    @property
    def label(self) -> str:
        """Unique in its family, for its half."""
        return f"{self.quantization} ({self.mark})" if self.mark else self.quantization

    @property
    def bits_per_weight(self) -> float | None:
        return 8 * self.bytes / self.n_params if self.n_params else None


NO_FILE = ModelFile("", 0, "", "", 0, "")


@dataclass(frozen=True, slots=True)
class Variant:
    """One pair as an entry in a comparison, or a model behind an endpoint: that one's files are NO_FILE."""

    id: str
    family: str
    label: str
    model: ModelFile
    projector: ModelFile
    reference: bool = False
    chat_template: str | None = None  # Jinja text or the name of a llama.cpp built-in; None: the one in the file
    overrides: Overrides | None = None  # what tells it from another variant of the same files (comparing/axes.py)
    endpoint: str = ""  # the name of the server that answers for it; empty: its files are here

    def half(self, half: Half) -> ModelFile:
        return self.projector if half is Half.PROJECTOR else self.model

    @property
    def pair_id(self) -> str:
        """The id of the same files without overrides."""
        return self.id.removesuffix(self.overrides.label) if self.overrides is not None else self.id

    @property
    def bytes(self) -> int:
        return self.model.bytes + self.projector.bytes

    @property
    def known_bytes(self) -> int | None:
        """None: it answers elsewhere."""
        return None if self.endpoint else self.bytes
