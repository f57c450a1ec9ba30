"""An address as a QR code."""

from __future__ import annotations

import functools

import markupsafe
import segno


@functools.lru_cache(maxsize=64)
def svg(address: str) -> markupsafe.Markup:
    code = segno.make(address, error="m", micro=False)
    # segno writes numbers and its own attributes; the address itself is only in the squares.
    return markupsafe.Markup(code.svg_inline(scale=4, border=2, light="#fff"))  # noqa: S704
