"""Errors that Gradio shows in passing."""

from __future__ import annotations

import gradio as gr
import markupsafe

from playground.errors import PlaygroundError


def as_toast(error: PlaygroundError) -> gr.Error:
    """Gradio shows an error's text as HTML; ours holds names of other people's files."""
    return gr.Error(str(markupsafe.escape(error.message)), duration=None, print_exception=False)
