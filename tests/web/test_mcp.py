"""The app as an MCP server, through the official client; and that the app itself serves /v1."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from testkit.running import SCENE, WHAT
from testkit.waiting import awaited
from testkit.webapp import WebApp, running

F16, Q2 = "tiny-vlm:F16+mmproj-F16", "tiny-vlm:Q2_K+mmproj-F16"
SCENE_URL = "data:image/png;base64," + base64.b64encode(SCENE.read_bytes()).decode()


@pytest.fixture(scope="module")
def app(derived: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    folder = tmp_path_factory.mktemp("mcp")
    (folder / "cache").mkdir()
    (folder / "cache/derived").symlink_to(derived / "derived")
    with running(folder / "cache", folder / "log.txt", more={"PLAYGROUND_MCP": "true"}) as started:
        yield started


def test_tools_when_listed_then_their_arguments_have_types(app: WebApp) -> None:
    async def listed() -> dict[str, Any]:
        async with (
            streamablehttp_client(f"{app.url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return {tool.name: tool.inputSchema for tool in (await session.list_tools()).tools}

    tools = awaited(listed())
    assert set(tools) == {"variants", "compare", "memory", "doctor", "measure"}
    kinds = {name: {key: field["type"] for key, field in tool["properties"].items()} for name, tool in tools.items()}
    assert kinds["doctor"] == {"variant": "string"}
    assert kinds["measure"] == {"variants": "array", "questions": "integer", "max_tokens": "integer",
                                "reasoning_tokens": "integer", "system": "string", "template_variables": "object",
                                "image_place": "string", "chat_template": "string",
                                "uploader": "string", "pack": "string"}  # fmt: skip
    assert kinds["compare"] == {"image": "string", "prompt": "string", "variants": "array", "settings": "object"}
    assert all(field["description"] for name in kinds for field in tools[name]["properties"].values())


def test_tools_when_called_then_the_last_document(app: WebApp) -> None:
    async def called() -> list[Any]:
        async with (
            streamablehttp_client(f"{app.url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return [
                await session.call_tool("variants", {}),
                await session.call_tool("doctor", {"variant": F16}),
                await session.call_tool("measure", {"variants": [F16, Q2], "questions": 2, "max_tokens": 8}),
                await session.call_tool(
                    "compare",
                    {"image": SCENE_URL, "prompt": WHAT, "variants": [F16], "settings": {"max_tokens": 5}},
                ),
                await session.call_tool("doctor", {"variant": "gone"}),
            ]

    replies = awaited(called())
    variants, doctor, measured, compared, refused = ("".join(part.text for part in r.content) for r in replies)
    assert [reply.isError for reply in replies] == [False] * 4 + [True]
    assert Q2 in variants
    assert "The pair needs about" in doctor
    assert "'done': True" in measured
    assert "'questions': 2" in measured
    assert "'same_answer'" in measured
    assert "'verdict': 'Not enough questions to tell: " in measured  # an assistant need not make one up
    assert "'done': True" in compared
    assert "The image shows the text" in compared
    assert "There is no variant called 'gone'" in refused


def test_v1_when_asked_through_the_app_itself_then_it_streams(app: WebApp) -> None:
    client = openai.OpenAI(base_url=f"{app.url}/v1", api_key="unused", max_retries=0)
    content: Any = [{"type": "image_url", "image_url": {"url": SCENE_URL}}, {"type": "text", "text": WHAT}]
    messages: Any = [{"role": "user", "content": content}]
    chunks = list(client.chat.completions.create(model=F16, messages=messages, max_tokens=64, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith("The image shows the text")
    assert len(chunks) > 3
