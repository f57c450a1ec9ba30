"""What Ray adds: the same requests on the page's own host, and on a second Ray node of this machine.

`python -m bench.cluster`, with the extra cluster. Both nodes share the processor, so the figures hold no network.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}
os.environ |= {"PYTHONPATH": str(Path(__file__).parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}

from ray.cluster_utils import Cluster

from playground.engine import protocol
from playground.pool.worker_spec import language_spec, vision_spec
from playground.settings import Settings
from playground.values.request import Runtime, Sampling
from playground.wiring import Parts, open_parts
from testkit.running import MODEL, PROJECTOR

ROUNDS, RUNTIME = 30, Runtime(n_ctx=512)


def added_ms(parts: Parts, place: str) -> tuple[float, float]:
    """Medians: what comes on top of the worker's own times, to the first piece of an answer, and to its end."""
    pair = parts.catalog.open_pair(MODEL, PROJECTOR)
    with parts.pool.use(vision_spec(pair.projector, pair.model, RUNTIME)) as lease:
        prompt = lease.request(protocol.Encode((protocol.ChatMessage("user", "Hello"),), ()))
    generate = protocol.Generate(prompt, Sampling(max_tokens=20), RUNTIME, ignore_end=True)
    spec, firsts, ends = language_spec(pair.model, RUNTIME), list[float](), list[float]()
    with parts.pool.turn([spec], where=[(place,)]) as slot, slot.lease(spec) as lease:
        for _ in range(ROUNDS):
            began, came = time.perf_counter(), list[float]()
            finished = lease.request(generate, on_chunk=lambda chunk, came=came: came.append(time.perf_counter()))
            whole = time.perf_counter() - began
            firsts.append(1000 * (came[0] - began - (finished.first_token_s or 0)))
            ends.append(1000 * (whole - (finished.first_token_s or 0) - (finished.decode_s or 0)))
    return statistics.median(firsts), statistics.median(ends)


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1, node_name="box2")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(cache_dir=Path(folder), cluster=cluster.address)
        with open_parts(settings, any_folder=True) as parts:
            for place in ("host", "box2 · host"):
                first, end = added_ms(parts, place)
                print(f"{place}: first piece {first:.1f} ms, end {end:.1f} ms beyond the worker's own time")
    cluster.shutdown()


if __name__ == "__main__":
    main()
