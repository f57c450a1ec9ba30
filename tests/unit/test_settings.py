"""What the operator may write into playground.toml and the environment, and what is said when it is wrong."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from playground.errors import BadSettings
from playground.settings import LogFormat, Login, Settings
from testkit.webapp import ROOT

EXAMPLE = ROOT / "examples/playground.toml"
SURROUNDINGS = {"space_id", "space_host", "cuda_visible_devices"}
BOX = "[[endpoints]]\nname = 'box'\nmodel = 'm'\n"
ONE_OPERATOR = {"login": "password", "users": {"anna": "x", "bert": "y"}, "operators": ("anna",)}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting comes from where the tests are run."""
    for name in os.environ:
        if name.startswith(("PLAYGROUND_", "GRADIO_SERVER_", "SPACE_", "CUDA_", "SYSTEM", "OAUTH_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(text: str) -> None:
    Path("playground.toml").write_text(text)


def test_example_when_loaded_then_it_holds_every_key_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    text = EXAMPLE.read_text()
    example = tomllib.loads(text)
    commented = set(re.findall(r"^# (\w+) = ", text, re.MULTILINE)) - {"anna"}
    assert example.keys() | commented == Settings.model_fields.keys() - SURROUNDINGS
    assert not example.keys() & commented
    monkeypatch.setenv("PLAYGROUND_CONFIG", str(EXAMPLE))
    assert Settings.read() == Settings()
    defaults = Settings().model_dump(mode="json")
    assert {name: defaults[name] for name in example} == example
    assert {name for name in commented if defaults[name] is not None} == {"cache_dir", "endpoints"}


def test_example_when_its_comments_are_taken_away_then_it_loads() -> None:
    text = re.sub(r"^# (\w+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    write(text.replace('password = "..."', "").replace('"none"', '"password"'))
    settings = Settings.read()
    assert (settings.retention_days, settings.gpu_budget_bytes, settings.port) == (90, 20_000_000_000, 7860)
    assert settings.secrets == ("...", "16 characters or more")


def test_settings_when_in_file_and_environment_then_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    write('host = "10.0.0.1"\nport = 1234\nmax_panes = 3\nmodel_dirs = ["/a", "/b"]\nlog_format = "json"')
    assert Settings.read().host == "10.0.0.1"
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setenv("PLAYGROUND_MAX_PANES", "5")
    monkeypatch.setenv("PLAYGROUND_OPERATORS", "anna, bert")
    monkeypatch.setenv("PLAYGROUND_LOGIN", "password")
    monkeypatch.setenv("PLAYGROUND_USERS", '{"anna": "aaaa", "bert": "bbbb"}')
    settings = Settings.read()
    assert (settings.host, settings.port, settings.max_panes) == ("0.0.0.0", 1234, 5)
    assert settings.model_dirs == (Path("/a"), Path("/b"))
    assert (settings.login, settings.log_format) == (Login.PASSWORD, LogFormat.JSON)
    assert settings.operators == ("anna", "bert")
    assert settings.secrets == ("aaaa", "bbbb")
    assert "aaaa" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hots = 1", "Unknown key 'hots' in playground.toml."),
        ("share = true", "a public link is never open to everybody"),
        ('root_path = "team"', "write /team/vlm"),
        ('mcp = true\nlogin = "password"\npassword = "x"', "mcp needs login = none"),
        ('[api_keys]\nci = "short"', "A key in api_keys is too short: it needs at least 16 characters."),
        ('space_id = "a/b"', "Unknown key 'space_id' in playground.toml."),
        ("port = 'x'", "port in playground.toml: Input should be a valid integer"),
        (
            "max_panes = 0\nport = 0",
            "port in playground.toml: Input should be greater than or equal to 1. max_p",
        ),
        ("port = x", "playground.toml is not valid TOML: Invalid value (at line 1, column 8)."),
        ("[users]\nanna = 4", "users.anna in playground.toml: Input should be a valid string."),
        ("login = 'passwort'", "login in playground.toml: Input should be 'none', 'password' or 'huggingface'."),
        ("login = 'password'", "login = password needs a password, or users with"),
        ("password = 'x'", "login = password needs a password, or users with"),
        ("login = 'password'\npassword = 'x'\nusers.anna = 'y'", "set one of the two"),
        ("login = 'password'\nusers.anna = ''", "A password is empty."),
        ("login = 'huggingface'", "on a Hugging Face Space only"),
        ("allowed_users = ['anna']", "allowed_users needs login = huggingface."),
        ("operators = ['anna']", "operators needs proved names"),
        ("login = 'password'\npassword = 'x'\noperators = ['anna']", "operators needs proved names"),
        (
            f"{BOX}url = 'ftp://box/v1'",
            "endpoints.0.url in playground.toml: invalid url: write http://10.0.0.5:8000/v1",
        ),
        (f"{BOX}url = 'http://me:geheim@box/v1'", "endpoints.0.url in playground.toml: invalid url"),
        (f"{BOX}url = 'http://box/v1'\nkey = 'geheim'\nkey_env = 'BOX_KEY'", "key and key_env exclude each other"),
        (f"{BOX}url = 'http://box/v1'\nkey_env = 'BOX'", "The name in key_env needs TOKEN, SECRET, PASSW, CREDENTIAL"),
        (f"{BOX}url = 'http://box/v1'\nkey_env = 'BOX_KEY'", "The environment variable BOX_KEY (key_env) is not set."),
        (f"{BOX}url = 'http://box/v1'\n{BOX}url = 'http://b/v1'", "two endpoints have one name"),
        (f"{BOX}url = 'http://box/v1'\nadress = 1", "endpoints.0.adress in playground.toml: Extra inputs"),
        ("max_image_pixels = 10e9", "max_image_pixels in playground.toml: Input should be less than or equal"),
    ],
)
def test_file_when_it_is_wrong_then_says_which_key(text: str, message: str) -> None:
    write(text)
    with pytest.raises(BadSettings, match=re.escape(message)) as refused:
        Settings.read()
    assert "geheim" not in str(refused.value)


def test_endpoints_when_read_then_their_keys_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    two = BOX.replace("box", "two")
    write(f"{BOX}url = 'http://box/v1/'\nkey_env = 'BOX_KEY'\n{two}url = 'https://b'\nkey = 'kkkk'")
    monkeypatch.setenv("BOX_KEY", "gggg")
    settings = Settings.read()
    assert [(e.name, e.url) for e in settings.endpoints] == [("box", "http://box/v1"), ("two", "https://b")]
    assert settings.secrets == ("gggg", "kkkk")
    assert not re.search("gggg|kkkk", f"{settings!r} {settings.model_dump_json()}")
    monkeypatch.setenv("PLAYGROUND_ENDPOINTS", '[{"name": "three", "url": "http://c/v1", "model": "m", "at_once": 1}]')
    assert [(e.name, e.secret, e.at_once) for e in Settings.read().endpoints] == [("three", None, 1)]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("GRADIO_SERVER_PORT", "x", "GRADIO_SERVER_PORT: Input should be a valid integer"),
        ("PLAYGROUND_DEMO", "maybe", "PLAYGROUND_DEMO: Input should be a valid boolean"),
        ("PLAYGROUND_USERS", "anna:geheim", "PLAYGROUND_USERS must be a JSON object"),
        ("PLAYGROUND_ENDPOINTS", "box", "PLAYGROUND_ENDPOINTS must be a JSON list such as"),
        ("PLAYGROUND_CONFIG", "nowhere.toml", "PLAYGROUND_CONFIG names nowhere.toml, which does not exist."),
    ],
)
def test_environment_when_it_is_wrong_then_says_which_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadSettings, match=re.escape(message)) as error:
        Settings.read()
    assert "geheim" not in str(error.value)


def test_cuda_devices_when_none_is_to_be_seen_then_that_is_not_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().cuda_visible_devices is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert Settings().cuda_visible_devices == ""


@pytest.mark.parametrize(
    ("settings", "name", "may"),
    [
        ({}, None, True),
        ({"demo": True}, "anna", False),
        (ONE_OPERATOR, "anna", True),
        (ONE_OPERATOR, "bert", False),
        (ONE_OPERATOR, None, False),
        ({**ONE_OPERATOR, "demo": True}, "anna", True),
    ],
)
def test_operators_when_somebody_asks_then_only_who_is_one(
    settings: dict[str, Any], name: str | None, may: bool
) -> None:
    assert Settings(**settings).may_operate(name) is may
