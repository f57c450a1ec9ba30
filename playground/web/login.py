"""Who is at the page: logging in with a password or with Hugging Face, and the name that a person has in the queue."""

from __future__ import annotations

import hmac
import html
import ipaddress
import secrets
import time
from typing import Any

import gradio as gr
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from playground.settings import Login, Settings

_MAX_NAME = 64
_ENTER = "/enter"
_BEHIND = "x-playground-behind"
_SECRET = secrets.token_urlsafe(16)  # which makes that header the app's own


def name_of(request: gr.Request | Request | None) -> str | None:
    """The name under which a visitor has logged in. None: without one."""
    if request is None or isinstance(request, gr.Request):
        return request.username if request else None
    # What gr.HTML's server functions get (6.31): the web server's own request.
    app = request.app
    if app.auth_dependency is not None:
        name: str | None = app.auth_dependency(request)
        return name
    cookies = (request.cookies.get(f"access-token{kind}-{app.cookie_id}") for kind in ("", "-unsecure"))
    return next((app.tokens[token] for token in cookies if token in app.tokens), None)


def person(request: gr.Request | Request) -> str:
    """Whose turn it is in the queue, and whose limits count: a visitor who has logged in, else an address.

    A page's session does not count where there is an address: whoever writes a request chooses it.
    """
    return name_of(request) or address_of(request) or str(getattr(request, "session_hash", ""))


def address_of(request: gr.Request | Request) -> str:
    """The client's network address; of IPv6 the first half, since the other half is the client's choice.

    uvicorn has put the address there that a proxy of the setting trusted_proxies reports.
    """
    named = str((getattr(request, "headers", None) or {}).get(_BEHIND, ""))
    if hmac.compare_digest(named[: len(_SECRET)].encode(), _SECRET.encode()):
        return named[len(_SECRET) :]
    client = getattr(request, "client", None)
    return network_of(client.host if client else "")


def network_of(host: str) -> str:
    """An address as it counts for limits. Anything else is returned as it is."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4 or address.ipv4_mapped:
        return str(address.ipv4_mapped if address.version == 6 else address)
    return str(ipaddress.ip_network(f"{address.packed[:8].hex(':', 2)}::/64"))


def behind(who: str) -> tuple[bytes, bytes]:
    """A header for a request that the app makes to itself, as Gradio's MCP server does: for whom it is made."""
    return _BEHIND.encode(), (_SECRET + who).encode()


def door(settings: Settings) -> dict[str, Any]:
    """What gr.Blocks.launch has to know of the login. It then lets nobody in to the page, its events and the API."""
    if settings.login is Login.PASSWORD:
        message = _NAME_IS_GIVEN if settings.password is None else _NAME_IS_CHOSEN
        return {"auth": lambda name, password: _is_right(settings, name, password), "auth_message": message}
    if settings.login is Login.HUGGINGFACE:
        return {"auth_dependency": lambda request: _let_in(settings, request), "auth_message": _PLEASE}
    return {}


def routes(settings: Settings) -> list[BaseRoute]:
    """The page before the door, where there is a Hugging Face login."""

    def enter(request: Request) -> Response:
        account = _account(request)
        message = f"<p>{_PLEASE}</p>"
        link = "Log in with Hugging Face"
        href = f"/login/huggingface?{html.escape(request.url.query)}"
        if account is not None:
            name = html.escape(str(account.get("preferred_username")))
            message = f"<p>{name} is not among those whom the operator lets in. Ask them, or use another account.</p>"
            link, href = "Log out", f"/logout?_target_url={_ENTER}"
        return HTMLResponse(_PAGE.format(message=message, link=link, href=href))

    return [Route(_ENTER, enter)] if settings.login is Login.HUGGINGFACE else []


_NAME_IS_GIVEN = "Log in with the name and the password that you were given."
_NAME_IS_CHOSEN = "Choose a name, and enter the password that you were given."
_PLEASE = "Log in with your Hugging Face account to use this playground."
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">\
<meta name="viewport" content="width=device-width"><title>VLM Quant Playground</title>\
<body style="font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem">\
<h1>VLM Quant Playground</h1>{message}<p><a href="{href}">{link}</a></p></body></html>"""


def _is_right(settings: Settings, name: str, password: str) -> bool:
    if not (0 < len(name) <= _MAX_NAME and name.isprintable()):
        return False
    secret = settings.password or settings.users.get(name)
    return secret is not None and hmac.compare_digest(secret.get_secret_value().encode(), password.encode())


def _let_in(settings: Settings, request: Request) -> str | None:
    """The user's name. A browser that may not in is led to the page before the door."""
    account = _account(request)
    if account is not None:
        organisations = {str(organisation.get("preferred_username")) for organisation in account.get("orgs") or ()}
        name = str(account["preferred_username"])
        if not settings.allowed_users or {name, *organisations} & set(settings.allowed_users):
            return name
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        raise HTTPException(302, headers={"Location": f"{_ENTER}?{request.url.query}"})  # which names the notebook
    return None


def _account(request: Request) -> dict[str, Any] | None:
    """What Hugging Face says of a visitor, from the signed cookie that gr.LoginButton's routes set."""
    login = request.session.get("oauth_info") or {}
    if (login.get("expires_at") or 0) < time.time():
        return None
    account: dict[str, Any] | None = login.get("userinfo")
    return account
