"""llama.cpp's own converter, told by name what the pre-tokenizer of a small vocabulary is.

`python -m bench.tiny_pairs.converter CHECKPOINT ...`: as convert_hf_to_gguf.py, with LLAMA_CPP in the environment.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    source, checkpoint = os.environ["LLAMA_CPP"], Path(sys.argv[1])
    sys.path.insert(0, source)
    import convert_hf_to_gguf  # noqa: PLC0415  of llama.cpp's source
    import torch  # noqa: PLC0415
    from conversion.base import TextModel  # noqa: PLC0415
    from conversion.llava import LlavaVisionModel  # noqa: PLC0415

    torch.set_num_threads(1)
    pre_tokenizer = (checkpoint / "pre_tokenizer").read_text()
    TextModel.get_vocab_base_pre = lambda _self, _tokenizer: pre_tokenizer
    # The converter leaves all of the language model out of a projector. Pixtral's [IMG_BREAK] embedding is in it.
    original = LlavaVisionModel.filter_tensors.__func__
    LlavaVisionModel.filter_tensors = classmethod(
        lambda cls, item: item if "embed_tokens.weight" in item[0] else original(cls, item)
    )
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main()
