"""Fetches images by their addresses, where the operator allows it: for /v1, and in place of Gradio.

Gradio fetches whatever address a request names as a file, of any size, before a function of ours is called.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from pathlib import Path

import gradio as gr
import gradio.processing_utils
import httpx
import safehttpx

from playground.errors import BadImage, NotAllowed, PlaygroundError
from playground.settings import Settings
from playground.web.uploads import Uploads

_FETCH_S = 20.0
_MOST_REDIRECTS = 5
_PLAIN = {"Accept-Encoding": "identity"}  # and nothing is unpacked: 60 kB may become gigabytes
_TUNNELS = [ipaddress.ip_network(name) for name in ("2002::/16", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32")]
_AT_ONCE = 8  # for Gradio: each may hold max_upload_bytes


async def fetch(url: str, name: str, settings: Settings) -> bytes:
    """`name`: of the image, for people. Raises NotAllowed and BadImage."""
    if url.partition(":")[0].lower() not in ("http", "https"):
        raise BadImage(f"The address of {name} is not supported. Send a data URL.")
    if not settings.api_remote_images:
        raise NotAllowed(f"This server does not fetch images ({name}). Upload it, or send a data URL.")
    try:
        return await asyncio.wait_for(_read(url, name, settings.max_upload_bytes), _FETCH_S)
    except BadImage:
        raise
    except Exception as error:  # safehttpx raises ValueError for a private address, httpx its own
        raise BadImage(f"{name} cannot be fetched ({type(error).__name__}). Send a data URL.") from None


async def _read(url: str, name: str, most: int) -> bytes:
    """Each redirect has to lead to a public address too, and the connection goes to the address that was checked."""
    for _ in range(_MOST_REDIRECTS + 1):
        address = httpx.URL(url)
        if address.scheme not in ("http", "https") or not address.host:
            raise ValueError("no address on the internet")
        connected = await safehttpx.async_validate_url(address.host)
        if not is_public(connected):
            raise ValueError("no public address")
        transport = safehttpx.AsyncSecureTransport(connected)
        async with (
            httpx.AsyncClient(transport=transport) as client,
            client.stream("GET", url, headers=_PLAIN) as response,
        ):
            if response.has_redirect_location:
                url = str(address.join(response.headers["location"]))
                continue
            response.raise_for_status()
            data = bytearray()
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > most:
                    raise BadImage(f"{name} is larger than {most:,} bytes.")
            return bytes(data)
    raise ValueError("too many redirects")


def is_public(host: str) -> bool:
    """safehttpx knows private addresses, but not those that carriers and private networks such as Tailscale share
    (100.64.0.0/10), nor IPv6 addresses that lead to an IPv4 one (6to4, NAT64, Teredo)."""
    address = ipaddress.ip_address(host)
    if address.version == 4:
        return address.is_global and not address.is_multicast
    if address.ipv4_mapped is not None:
        return is_public(str(address.ipv4_mapped))
    return address.is_global and not address.is_multicast and not any(address in network for network in _TUNNELS)


def fetch_for_gradio(settings: Settings, uploads: Uploads) -> None:
    """From now on Gradio fetches a file as `fetch` does, a few at once, and it counts as an upload."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def download(url: str, cache_dir: str) -> str:
        try:
            async with turns:
                data = await fetch(url, "the image", settings)
            uploads.end(await asyncio.to_thread(uploads.begin, "fetched", len(data)))
        except PlaygroundError as error:
            raise gr.Error(error.message, title=error.code, print_exception=False) from error
        file = Path(cache_dir) / hashlib.sha256(url.encode()).hexdigest() / "image"
        await asyncio.to_thread(_write, file, data)
        return str(file)

    vars(gradio.processing_utils)["async_ssrf_protected_download"] = download


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
