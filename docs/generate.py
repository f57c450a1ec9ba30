"""Writes the parts of the documentation that the code determines: `python -m docs.generate`, with --check to compare.

Typer writes the command line's reference; the table of settings and the example file come from Settings, and the JSON
Schema of results documents from their types.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from mdformat import text as format_markdown
from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from playground.measuring import result_documents
from playground.settings import Settings

ROOT = Path(__file__).parents[1]

# The first setting of each section.
SECTIONS = {
    "host": "Server",
    "cache_dir": "Folders",
    "memory_budget_bytes": "Budgets",
    "max_panes": "Limits",
    "retention_days": "Notebooks",
    "downloads": "Hugging Face Hub",
    "login": "Access",
}
TABLES = ("users", "api_keys")
ENVIRONMENT_ONLY = ("space_id", "space_host", "cuda_visible_devices")
EXAMPLE_HEAD = """\
# Copy this file to playground.toml in the folder where you start the app, or name the copy in PLAYGROUND_CONFIG.
# It lists every key with its default. Keys without a default value are commented out and show an example.
# Environment variables win over this file: cache_dir is PLAYGROUND_CACHE_DIR there, and so on.
# `make docs` writes this file.
"""


def main() -> int:
    """The exit status is 1 if --check finds a file that differs."""
    files = {
        ROOT / "docs/use/command-line.md": command_reference,
        ROOT / "docs/operate/settings.md": settings_table,
    }
    texts = {path: _replaced(path.read_text(), part()) for path, part in files.items()}
    texts[ROOT / "examples/playground.toml"] = example_settings()
    texts[ROOT / "docs/use/results.schema.json"] = json.dumps(result_documents.schema(), indent=1) + "\n"
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
    if "--check" in sys.argv:
        if stale:
            print(f"Out of date: {names}. Run `make docs`.", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        path.write_text(texts[path])
    print(f"Written: {names}" if stale else "Everything is up to date.")
    return 0


def command_reference() -> str:
    """Typer's own Markdown, with headings that fit below "Reference"."""
    docs = [sys.executable, "-m", "typer", "playground.cli.commands", "utils", "docs", "--name", "python -m playground"]
    page = html.unescape(subprocess.run(docs, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    commands = page[page.index("\n## ") :]
    return re.sub("^## `python -m playground (.*)`$", r"### \1", commands, flags=re.MULTILINE)


def settings_table() -> str:
    lines = []
    for name, field in Settings.model_fields.items():
        if name in ENVIRONMENT_ONLY:
            continue
        if name in SECTIONS:
            lines += [
                "",
                f"### {SECTIONS[name]}",
                "",
                "| key | variables | default | meaning |",
                "| -- | -- | -- | -- |",
            ]
        default = f"`{_toml(field.default)}`" if _has_value(field) else "–"
        variables = ", ".join(f"`{variable}`" for variable in _variables(name, field))
        lines.append(f"| `{name}` | {variables} | {default} | {field.description} |")
    return "\n".join(lines)


def example_settings() -> str:
    """Every key with its default, or commented out with an example. TOML tables come last."""
    lines = [EXAMPLE_HEAD.rstrip()]
    for name, field in Settings.model_fields.items():
        if name in ENVIRONMENT_ONLY or name in TABLES:
            continue
        if name in SECTIONS:
            lines += ["", f"# --- {SECTIONS[name]}"]
        lines += textwrap.wrap(str(field.description), 116, initial_indent="# ", subsequent_indent="# ")
        lines.append(
            f"{name} = {_toml(field.default)}" if _has_value(field) else f"# {name} = {_toml(_example(field))}"
        )
    for table in TABLES:
        field = Settings.model_fields[table]
        lines += ["", *textwrap.wrap(str(field.description), 116, initial_indent="# ", subsequent_indent="# ")]
        lines += [f"[{table}]", *(f"# {name} = {_toml(secret)}" for name, secret in _example(field).items())]
    return "\n".join(lines) + "\n"


def _replaced(text: str, part: str) -> str:
    """The page with a new generated part, formatted as all Markdown is."""
    page = re.sub(
        r"(<!-- generated -->\n).*(<!-- /generated -->)", lambda m: m[1] + f"\n{part}\n\n" + m[2], text, flags=re.S
    )
    return format_markdown(page, extensions={"gfm", "tables"}, options={"wrap": 100, "compact_tables": True})


def _variables(name: str, field: FieldInfo) -> list[str]:
    alias = field.validation_alias
    return (
        [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [f"PLAYGROUND_{name.upper()}"]
    )


def _has_value(field: FieldInfo) -> bool:
    return field.default_factory is None and field.default is not None


def _example(field: FieldInfo) -> Any:
    assert field.examples, "a setting without a default value needs an example"
    return field.examples[0]


def _toml(value: Any) -> str:
    if isinstance(value, dict) and value:
        return f"{{ {', '.join(f'{name} = {_toml(inner)}' for name, inner in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)  # the same for texts, numbers and booleans


if __name__ == "__main__":
    sys.exit(main())
