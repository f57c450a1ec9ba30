"""The endpoints that the operator set up, as variants; and what each said of its model last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock

from playground.endpoints import client
from playground.endpoints.client import Endpoint, EndpointAnswer
from playground.endpoints.wire import EndpointQuestion
from playground.errors import BadInput
from playground.values.answer import Elsewhere
from playground.values.files import NO_FILE, Variant

FAMILY = "elsewhere"


class Endpoints:
    """Owns what each endpoint said of itself last. Safe to use from several threads."""

    def __init__(self, endpoints: Sequence[Endpoint] = ()) -> None:
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._said: dict[str, Elsewhere] = {}
        self._lock = Lock()

    @property
    def variants(self) -> tuple[Variant, ...]:
        return tuple(
            Variant(f"{FAMILY}:{name}", FAMILY, f"{FAMILY}: {name}", NO_FILE, NO_FILE, endpoint=name)
            for name in self._endpoints
        )

    def named(self, name: str) -> Endpoint:
        """Raises BadInput."""
        if name not in self._endpoints:
            raise BadInput(
                f"There is no endpoint called '{name[:40]}'. There are: {', '.join(self._endpoints) or '-'}."
            )
        return self._endpoints[name]

    def choose(self, names: Sequence[str]) -> tuple[Variant, ...]:
        """By the endpoints' names. Raises BadInput."""
        wanted = {self.named(name).name for name in names}
        return tuple(variant for variant in self.variants if variant.endpoint in wanted)

    def ask(
        self,
        name: str,
        question: EndpointQuestion,
        *,
        stop: Callable[[], bool] = lambda: False,
        on_text: Callable[[EndpointAnswer], None] = lambda answer: None,
    ) -> EndpointAnswer:
        """As client.ask, with a remark where the server names another model than in its answer before."""
        answer = client.ask(self.named(name), question, stop=stop, on_text=on_text)
        with self._lock:
            before, self._said[name] = self._said.get(name), answer.said
        changes = [] if before is None else _changes(before, answer.said)
        return replace(answer, remarks=(*answer.remarks, *changes))


def _changes(before: Elsewhere, now: Elsewhere) -> list[str]:
    if before.model != now.model:
        return [f"Its model changed since its answer before: from {before.model or '-'} to {now.model or '-'}."]
    if before.fingerprint != now.fingerprint:
        return ["Its system_fingerprint changed since its answer before: files or settings may be others."]
    return []
