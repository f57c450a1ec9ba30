"""A second page on a cluster, in a process of its own: it holds models here and on box2 until it is killed.

It prints the process ids of its two workers, and then, for each line that it gets, its budget of box2 in bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playground.engine import protocol
from playground.pool.worker_spec import language_spec, vision_spec
from playground.settings import Settings
from playground.values.files import Variant
from playground.values.memory import HOST
from playground.values.request import Runtime, Sampling
from playground.wiring import Parts, open_parts
from testkit.running import PROJECTOR, SHORT_CONTEXT

BOX2 = "box2 · host"


def held(parts: Parts, pair: Variant, place: str, runtime: Runtime) -> int:
    """Has a worker at this place make its context, and keep it. Returns its process id."""
    with parts.pool.use(vision_spec(pair.projector, pair.model, Runtime())) as lease:
        prompt = lease.request(protocol.Encode((protocol.ChatMessage("user", "Hello"),), ()))
    spec = language_spec(pair.model, runtime)
    with parts.pool.turn([spec], where=[(place,)]) as slot, slot.lease(spec) as lease:
        lease.request(protocol.Generate(prompt, Sampling(max_tokens=1), runtime))
        return lease.pid


def budget(parts: Parts) -> int:
    """Of box2, as its agent sees it now."""
    parts.pool.memory()
    return parts.pool.budgets.by_place()[BOX2]


def main(folder: str, cluster: str, model: str, n_ctx: str) -> None:
    with open_parts(Settings(cache_dir=Path(folder), cluster=cluster), any_folder=True) as parts:
        pair = parts.catalog.open_pair(Path(model), PROJECTOR)
        print(held(parts, pair, HOST, SHORT_CONTEXT), held(parts, pair, BOX2, Runtime(n_ctx=int(n_ctx))), flush=True)
        for _ in sys.stdin:
            print(budget(parts), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
