"""Where the Hub is and who asks: HF_ENDPOINT, repository ids, tokens, and where a file's bytes are."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub as hf
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, validate_repo_id

from playground.errors import BadInput

COMMIT = re.compile("[0-9a-f]{40}")

# What the Hub's buttons copy: `llama-server -hf owner/name:Q4_K_M`, `ollama run hf.co/owner/name:Q4_K_M`,
# `hf download owner/name file.gguf`, `Llama.from_pretrained(repo_id="owner/name", filename="file.gguf")`.
_COMMAND = re.compile(
    r"(?:^|\s)(?:-hfr?|--hf-repo|run|pull|serve|download|get|clone)(?:\s+|=)[\"']?([^\s\"']+)[\"']?"
    r"(?:\s+(\S+\.(?:gguf|mmproj)))?",
    re.IGNORECASE,
)
_FILE_OPTION = re.compile(r"\s(?:-hff|--hf-file)(?:\s+|=)[\"']?([^\s\"']+)")
_PYTHON = re.compile(r"repo_id\s*=\s*[\"']([^\"']+)[\"'](?:.*?filename\s*=\s*[\"']([^\"'*?]+)[\"'])?", re.DOTALL)
_BARE_HOST = re.compile(r"(?:huggingface\.co|hf\.co)/", re.IGNORECASE)


def hub_cache() -> Path:
    return Path(constants.HF_HUB_CACHE)


def endpoint() -> str:
    return str(constants.ENDPOINT)


def parse_repo(text: str, endpoint: str) -> tuple[str, str, str | None]:
    """The id, revision and, if given, file or quantization of a repository.

    `text`: `owner/name`, `owner/name:file.gguf`, `owner/name:Q4_K_M`, an address on the Hub, or a command that the Hub
    offers for copying. Raises BadInput.
    """
    text, named = _mentioned(text.strip())
    revision, file = "main", None
    try:
        if text.startswith("hf://"):
            owner, _, rest = text[5:].partition("/")
            name, _, file = rest.partition("/")
            text = f"{owner}/{name}"
        elif re.match(r"https?://", text):
            url = urlsplit(text)
            if url.netloc.lower() not in {urlsplit(endpoint).netloc, "huggingface.co", "hf.co"}:
                raise BadInput(
                    f"{url.netloc[:80]} is not the Hub ({endpoint}). Paste a repository's id or its address there."
                )
            parts = [unquote(part) for part in url.path.split("/") if part]
            text, _, file = "/".join(parts[:2]).partition(":")
            file = file or parse_qs(url.query).get("show_file_info", [None])[0]
            if len(parts) > 3 and parts[2] in ("tree", "blob", "resolve"):
                revision = parts[3]
                file = None if parts[2] == "tree" else "/".join(parts[4:])
        elif ":" in text:
            text, _, file = text.partition(":")
        if text.count("/") != 1 or text.startswith(("datasets/", "spaces/")):
            raise ValueError
        validate_repo_id(text)
        if not is_inside(revision) or (file and not is_inside(file)):
            raise ValueError
    except ValueError:
        raise BadInput(f"'{text[:80]}' is not a valid model repository id. Write it as owner/name.") from None
    return text, revision, named or (None if file == "latest" else file) or None


def _mentioned(text: str) -> tuple[str, str | None]:
    """The repository, and the file if one is named, in a command or a line of Python; other text as it is."""
    file = None
    if match := _PYTHON.search(text) or (_COMMAND.search(text) if re.search(r"\s", text) else None):
        text, file = match.groups()
        if option := _FILE_OPTION.search(match.string):
            file = option[1]
    return f"https://{text}" if _BARE_HOST.match(text) else text, file


def is_inside(name: str) -> bool:
    """Whether a name stays in its repository's folder, on every system."""
    parts = re.split(r"[/\\]", name)
    return all(part not in ("", ".", "..") and not re.search(r"[:\0]", part) for part in parts)


def checked_token(token: str | None, *, own_token: bool) -> str | bool:
    """What huggingface_hub takes as `token`: a visitor's token, True for the operator's, False for none.

    Raises BadInput for text that cannot be sent as a token.
    """
    token = (token or "").strip()
    if not re.fullmatch("[!-~]*", token):
        raise BadInput(
            'This is not a valid Hugging Face token. Tokens start with "hf_" and contain only letters and digits.'
        )
    return token or (own_token and bool(hf.get_token()))


def located(url: str, token: str | bool) -> tuple[str, dict[str, str]]:
    """The address of a file's bytes, and the headers to send there. Only the Hub itself gets the token."""
    metadata = hf.get_hf_file_metadata(url, token=token, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    headers = build_hf_headers(token=token, headers={"Accept-Encoding": "identity"})
    if urlsplit(metadata.location)[:2] != urlsplit(url)[:2]:  # another host, or plain HTTP
        headers.pop("authorization", None)
    return metadata.location, headers
