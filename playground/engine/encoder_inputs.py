"""Keeps what a vision encoder gets: the preprocessed images, as llama.cpp hands them to its graph."""

from __future__ import annotations

from llama_cpp import llama_cpp as C

from playground.engine.protocol import EncoderInput
from playground.engine.tensors import F32, Ggml, Tensor, check_layout

_INPUT = b"inp_raw"  # its name in llama.cpp's graphs (tools/mtmd/clip.cpp)


class EncoderInputs:
    """Owns the callback that a projector is loaded with; it has to outlive the projector."""

    def __init__(self) -> None:
        """Raises EngineError if this llama.cpp has another layout of ggml_tensor."""
        self._ggml = Ggml()
        check_layout(self._ggml)
        self.callback = C.ggml_backend_sched_eval_callback(self._on_node)
        self._inputs: list[EncoderInput] = []
        self._first: tuple[bytes, ...] = ()  # the sources of the first node that reads a graph's input
        self._error: Exception | None = None

    def take(self) -> tuple[EncoderInput, ...]:
        """What was encoded since the last time. Raises EngineError."""
        taken, self._inputs = tuple(self._inputs), []
        error, self._error = self._error, None
        if error is not None:
            raise error
        return taken

    def _on_node(self, pointer: int, ask: bool, _user_data: object) -> bool:
        """Before a node is computed its input is still whole. No node's values are wanted, so nothing is slower."""
        try:
            node = Tensor.from_address(pointer)
            sources = [Tensor.from_address(source) for source in node.src if source]
            for source in sources:
                if not ask or _INPUT not in source.name.split(b"#") or source.type != F32:
                    continue
                names = tuple(each.name for each in sources)
                self._first = self._first or names
                if names == self._first:  # a second convolution reads it again
                    values = self._ggml.values(source, "float32")
                    self._inputs.append(EncoderInput(tuple(map(int, values.shape)), values.tobytes()))
        except Exception as error:  # an exception cannot pass through C: `take` raises it
            self._error = error
        return False
