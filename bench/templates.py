"""Chat templates as transformers renders them: those in llama.cpp's models/templates, one question and a follow-up.

The texts that transformers writes are frozen as hashes in bench/chat_templates.json, so that the templates, which
belong to their models, need not be here. With `--peer` the hashes are made anew by the transformers of that Python.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import subprocess
from pathlib import Path

from playground.engine import jinja_chat

FROZEN = Path(__file__).with_name("chat_templates.json")

# The date that a template is told; a moment at which all numbers have two digits.
NOW = datetime.datetime(2026, 11, 26, 12, 30, 45)  # noqa: DTZ001  as the clock of a person
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHATS = {
    "one question": [{"role": "user", "content": "What is this?"}],
    "follow-up": [
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": 'A <red> ring & "more".'},
        {"role": "user", "content": "Sure?"},
    ],
}

# Runs in the peer's Python. A list of parts is tried where a template refuses a string, as the app does.
_PEER = """
import datetime, hashlib, json, sys
from transformers.utils import chat_template_utils as peer

given = json.load(sys.stdin)
moment = datetime.datetime.fromisoformat(given["now"])

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return moment

peer.datetime = Clock
texts = {}
for name, template in given["templates"].items():
    texts[name] = {}
    for kind, chat in given["chats"].items():
        text = "refused"
        for as_parts in (False, True):
            parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in chat] if as_parts else chat
            try:
                rendered, _ = peer.render_jinja_template(
                    [parts], chat_template=template, add_generation_prompt=True, **given["special"]
                )
                text = rendered[0]
                break
            except Exception:
                pass
        texts[name][kind] = text
print(json.dumps(texts))
"""


def measure(source: Path, peer: Path | None) -> dict[str, float]:
    """source: a folder of llama.cpp's source. peer: a Python that has transformers; None: the frozen hashes only."""
    templates = {path.stem: path.read_text() for path in sorted((source / "models/templates").glob("*.jinja"))}
    if peer is not None:
        FROZEN.write_text(json.dumps(_frozen(templates, peer), indent=1) + "\n")
    frozen: dict[str, dict[str, str]] = json.loads(FROZEN.read_text())
    equal = rendered = 0
    for name, template in templates.items():
        for kind, chat in CHATS.items():
            rendered += 1
            if _hash(_ours(template, chat)) == frozen.get(name, {}).get(kind):
                equal += 1
            else:
                print(f"  {name}, {kind}: differs from transformers")
    return {"templates": len(templates), "rendered": rendered, "equal to transformers": equal}


def _ours(template: str, chat: list[dict[str, str]]) -> str:
    for as_parts in (False, True):
        messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} if as_parts else m for m in chat]
        try:
            return jinja_chat.render(template, messages, variables=SPECIAL, now=NOW)
        except Exception:
            continue
    return "refused"


def _frozen(templates: dict[str, str], peer: Path) -> dict[str, dict[str, str]]:
    document = json.dumps({"templates": templates, "chats": CHATS, "now": NOW.isoformat(), "special": SPECIAL})
    child = subprocess.run([peer, "-c", _PEER], input=document, capture_output=True, text=True, check=True)
    texts: dict[str, dict[str, str]] = json.loads(child.stdout.splitlines()[-1])
    refused = sorted(f"{name}, {kind}" for name, of in texts.items() for kind, text in of.items() if text == "refused")
    print(f"transformers refuses {len(refused)}: {'; '.join(refused)}")
    return {name: {kind: _hash(text) for kind, text in of.items()} for name, of in texts.items()}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
