"""Gradio's public link to this app (share links): known once the tunnel is open."""

from __future__ import annotations


class PublicLink:
    """Written once by server.py, read by the page. `address`: without a slash at its end; None: there is none.

    `problem`: why there is none, though the operator set `share`.
    """

    def __init__(self, address: str | None = None, problem: str | None = None) -> None:
        self.address = address
        self.problem = problem
