"""A worker in which llama.cpp fails as where memory runs out: `python -m testkit.faulty_worker_child FD`.

FAULT in the environment, such as "-2:4": with more than 4 sequences llama_decode returns -2. "context:4": no context
for more than 4 sequences can be made.
"""

from __future__ import annotations

import os
from typing import Any

from llama_cpp import llama_cpp as C

from playground.engine import worker


def main() -> None:
    code, most = os.environ["FAULT"].split(":")
    decode, new_context = C.llama_decode, C.llama_init_from_model

    def failing_decode(context: Any, batch: C.llama_batch) -> int:
        sequences = {batch.seq_id[i][0] for i in range(batch.n_tokens)}
        return int(code) if len(sequences) > int(most) else int(decode(context, batch))

    def failing_context(model: Any, params: C.llama_context_params) -> Any:
        return None if params.n_seq_max > int(most) + params.kv_unified else new_context(model, params)

    if code == "context":
        C.llama_init_from_model = failing_context
    else:
        C.llama_decode = failing_decode
    worker.main()


if __name__ == "__main__":
    main()
