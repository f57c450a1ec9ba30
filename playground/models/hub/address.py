"""Where the Hub is and who asks: HF_ENDPOINT, repository ids, tokens, and where a file's bytes are."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import huggingface_hub as hf
from huggingface_hub import constants
from huggingface_hub.utils import build_hf_headers, validate_repo_id

from playground.errors import BadInput

COMMIT = re.compile("[0-9a-f]{40}")


def endpoint() -> str:
    return str(constants.ENDPOINT)


def parse_repo(text: str, endpoint: str) -> tuple[str, str, str | None]:
    """The id, revision and, if given, file of `owner/name`, `owner/name:file.gguf`, or an address on the Hub.

    Raises BadInput.
    """
    text = text.strip()
    revision, file = "main", None
    try:
        if re.match(r"https?://", text):
            url = urlsplit(text)
            if url.netloc.lower() not in {urlsplit(endpoint).netloc, "huggingface.co", "hf.co"}:
                raise BadInput(
                    f"{url.netloc[:80]} is not the Hub ({endpoint}). Paste a repository's id or its address there."
                )
            parts = [unquote(part) for part in url.path.split("/") if part]
            text = "/".join(parts[:2])
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
    return text, revision, file or None


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
