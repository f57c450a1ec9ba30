"""Compares two variants of the embedded model through the API of a running app.

    python examples/api_client.py [--url http://127.0.0.1:7860] IMAGE QUESTION

It needs gradio_client alone: pip install gradio_client
"""

from __future__ import annotations

import argparse

from gradio_client import Client, handle_file


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare two variants of the embedded model.")
    parser.add_argument("--url", default="http://127.0.0.1:7860")
    parser.add_argument("image")
    parser.add_argument("question")
    options = parser.parse_args()

    client = Client(options.url, verbose=False)  # behind a login: auth=("name", "password")
    variants = client.predict(api_name="/variants")
    chosen = [variant["id"] for variant in variants if variant["label"] in ("F16", "Q4_K_M")]
    settings = {"max_tokens": 64, "temperature": 0}
    job = client.submit(handle_file(options.image), options.question, chosen, settings, api_name="/compare")
    for update in job:  # each update has all panes; the last one has the complete answers
        panes = update["panes"]
    for pane in panes:
        speed = pane["metrics"]["decode_tok_per_s"] if pane["metrics"] else None
        print(f"{pane['variant']}  {pane['state']}  {f'{speed:.0f} tok/s' if speed else '-'}\n    {pane['text']}")


if __name__ == "__main__":
    main()
