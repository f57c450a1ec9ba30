"""llama.cpp's own quantizer, for language models and projectors alike."""

from __future__ import annotations

import ctypes
import os

from llama_cpp import llama_cpp as C

from playground.engine import llama
from playground.errors import BadInput, EngineError


def quantize(source: str, target: str, quantization: str, *, projector: bool, n_threads: int | None) -> None:
    """Write `source` to `target` in the llama_ftype called `quantization`. Raises BadInput or EngineError."""
    ftype = getattr(C, f"LLAMA_FTYPE_MOSTLY_{quantization}", None)
    if ftype is None:
        raise BadInput(f"llama.cpp has no quantization called '{quantization}'.")
    params = C.llama_model_quantize_default_params()
    params.ftype = ftype
    params.nthread = n_threads or llama.default_threads(os.path.getsize(source))
    # The mixtures (which tensors get more bits) ask for a language model's head counts and abort on a projector's
    # file (0.3.36, Q2_K); so a projector gets one type throughout.
    params.pure = projector
    llama.log_lines.clear()
    code = C.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    if code:
        reason = llama.explain(f"llama.cpp could not quantize {os.path.basename(source)} to {quantization}.")
        raise reason if isinstance(reason, EngineError) else EngineError(str(reason))
