"""The demonstration pair's own code: rows, training, spreading and export. Skipped where PyTorch is not installed."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import PIL.Image
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")

from training import export, rows, train  # noqa: E402  needs both
from training.model import Config, VisionLanguageModel, as_input  # noqa: E402
from training.questions import Question  # noqa: E402
from training.scenes import FONTS, SIZE  # noqa: E402
from training.spread import spread  # noqa: E402
from training.tokenizer import END, FILE, USER, encoder  # noqa: E402

# Sizes that differ wherever the network lets them, and a width of the feed-forward part that no head divides.
SMALL = Config(width=64, vision_layers=2, vision_heads=2, vision_ffn=48, layers=2, heads=4, kv_heads=2, ffn=37)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are tiny: threads would only wait for one another where something else uses the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network() -> VisionLanguageModel:
    """Random in every tensor, biases and norms too, and strong enough for its logits to differ by whole numbers."""
    torch.manual_seed(0)
    model = VisionLanguageModel(SMALL).eval()
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight.data += torch.randn_like(weight) * 0.2
        elif name == "lm.token_embd.weight":
            weight.data *= 10
    return model


def content() -> dict[str, Any]:
    return {"config": dataclasses.asdict(SMALL), "model": network().state_dict()}


# --- rows -------------------------------------------------------------------------------------------------

ONE = [Question("count", "How many stars are there?", "three")]
TWO = [Question("ocr", "What is written?", "CAT 42"), Question("color", "Which color has the text?", "dark blue")]
LAST = [Question("position", "Where is the ring?", "in the center")]
TOO_LONG = [Question("caption", "word " * rows.TEXT, "yes")]


def rendered(messages: list[dict[str, Any]], *, ask: bool) -> str:
    return jinja2.Template(export.CHAT_TEMPLATE).render(messages=messages, add_generation_prompt=ask)


def conversation_ids(conversation: list[Question]) -> list[int]:
    """The tokens behind the image, by way of the chat template."""
    messages: list[dict[str, Any]] = []
    for turn in conversation:
        messages += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    messages[0]["content"] = [{"type": "image"}, {"type": "text", "text": messages[0]["content"]}]
    before, after = rendered(messages, ask=False).split("<__media__>")
    assert before == "<|user|>"
    ids: list[int] = tokenizers.Tokenizer.from_file(str(FILE)).encode(after).ids
    return ids


@torch.no_grad()
def test_packed_row_when_read_at_once_then_each_conversation_has_the_logits_that_it_has_alone() -> None:
    model, encode = network(), encoder()
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    packed = rows.pack([(PIL.Image.fromarray(noise), [ONE, TWO, TOO_LONG, LAST])], encode)
    images = as_input(torch.from_numpy(packed.images))
    tokens, targets, blocks, positions = (
        torch.from_numpy(part) for part in (packed.tokens, packed.targets, packed.blocks, packed.positions)
    )
    logits = model(images, tokens, blocks, positions)
    mingled = model(images, tokens, torch.ones_like(blocks), positions)
    assert set(blocks.unique().tolist()) == {1, 2, 4, -1}  # the third did not fit

    for number, conversation in ((1, ONE), (2, TWO), (4, LAST)):
        ids = conversation_ids(conversation)
        here = blocks[0] == number
        assert tokens[0, 1:][here].tolist() == ids

        answers = targets[0, here] != rows.NO_TARGET
        expected = [token for turn in conversation for token in (*encode(turn.answer), END)]
        assert targets[0, here][answers].tolist() == expected
        assert [ids[at + 1] for at in answers.nonzero().flatten().tolist()] == expected

        head, text = model.lm.token_embd(torch.tensor([[USER]])), model.lm.token_embd(torch.tensor([ids]))
        x = torch.cat([head, model.v(images), text], 1)
        n = x.shape[1]
        causal = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
        alone = model.lm(x, torch.arange(n)[None], causal)[0, -len(ids) :]
        torch.testing.assert_close(logits[0, here][answers], alone[answers], atol=1e-4, rtol=0)
        if number > 1:  # else the comparison would prove nothing about the mask
            assert (mingled[0, here][answers] - alone[answers]).abs().max() > 0.1
    assert (targets[0, blocks[0] == -1] == rows.NO_TARGET).all()


# --- training ---------------------------------------------------------------------------------------------


@pytest.fixture
def kept() -> Iterator[None]:
    """What train() sets for its whole process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    precision = torch.get_float32_matmul_precision()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_float32_matmul_precision(precision)


@pytest.mark.skipif(not all(find_spec(package) for package, _ in FONTS), reason="the scenes' fonts are not installed")
@pytest.mark.usefixtures("kept")
def test_training_when_stopped_half_way_then_it_can_be_exported_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "Config", lambda: SMALL)
    settings, checkpoint = train.Settings(batch=2), tmp_path / "checkpoint.pt"

    def trained(seconds: float) -> dict[str, Any]:
        train.train(settings, tmp_path, 1, time.monotonic() + seconds, None)
        saved: dict[str, Any] = torch.load(checkpoint, weights_only=True)
        assert 0 <= saved["seconds"] < settings.minutes * 60
        assert {state["step"].item() for state in saved["optimizer"]["state"].values()} == {saved["step"]}
        return saved

    first = trained(2)
    assert first["step"] > 0
    assert (first["seconds"] > 0) == (first["step"] > 1)  # the first is not counted: on a GPU it compiles
    assert "stopped at step" in capfd.readouterr().out
    assert exported(monkeypatch, checkpoint, tmp_path / "out") == 0

    unmoved = trained(0)  # no time for a step: all is as it was saved
    assert f"goes on at step {first['step']}," in capfd.readouterr().out
    assert (unmoved["step"], unmoved["seconds"]) == (first["step"], first["seconds"])
    assert all(torch.equal(tensor, first["model"][name]) for name, tensor in unmoved["model"].items())

    second = trained(1.5)
    assert second["step"] > first["step"]
    assert second["seconds"] >= first["seconds"]
    assert not torch.equal(second["model"]["v.mm_1.weight"], first["model"]["v.mm_1.weight"])
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "log.jsonl", "out"}


@pytest.mark.usefixtures("kept")
def test_training_when_its_folder_has_a_network_of_other_sizes_then_refused_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    torch.save(content(), checkpoint)
    before = checkpoint.read_bytes()
    monkeypatch.setattr(train, "Config", lambda: dataclasses.replace(SMALL, layers=1))
    with pytest.raises(SystemExit, match="another config"):
        train.train(train.Settings(), tmp_path, 1, time.monotonic(), None)
    assert checkpoint.read_bytes() == before


def test_learning_rate_when_time_passes_then_it_warms_up_and_falls_to_nothing() -> None:
    settings = train.Settings()
    rates = [train.learning_rate(settings, settings.minutes * 60 * part / 1000) for part in range(1001)]
    top = rates.index(max(rates))
    assert 15 <= top <= 20  # 2% of the training
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[0] < 0.1 * settings.peak
    assert max(rates) == pytest.approx(settings.peak, rel=0.01)
    assert rates[500] == pytest.approx(settings.peak / 2)
    assert rates[-1] == train.learning_rate(settings, settings.minutes * 61) == 0


# --- spreading --------------------------------------------------------------------------------------------


@torch.no_grad()
def test_spread_when_applied_then_weights_differ_and_logits_do_not() -> None:
    model = network()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    changed = spread(state, SMALL, export.SPREAD_MODEL, export.SPREAD_PROJECTOR)

    n = 40
    images, tokens = torch.rand(2, 3, SIZE, SIZE) * 2 - 1, torch.randint(0, SMALL.vocabulary, (2, 1 + n))
    rest = torch.ones(2, n, dtype=torch.int32), torch.arange(145, 145 + n).expand(2, n)
    before = model(images, tokens, *rest)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in state.items())  # left as they were
    model.load_state_dict(changed)
    torch.testing.assert_close(model(images, tokens, *rest), before, atol=1e-3, rtol=0)
    assert before.std() > 1

    fixed = r"lm\.(token_embd|output_norm)\.weight|v\.(patch_embd\.\w+|position_embd|mm_0\.bias|mm_1\.\w+)"
    inside = r"v\.blk\.\d\.(attn_[qk]\.bias|attn_out\.bias|ffn_up\.bias|ffn_down\.\w+)"
    for name, tensor in state.items():
        same = re.fullmatch(f"{fixed}|{inside}", name) is not None
        assert torch.equal(changed[name], tensor) == same, name


# --- export -----------------------------------------------------------------------------------------------


def exported(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, out: Path, *options: str) -> int:
    """The exit code of `python -m training.export`."""
    monkeypatch.setattr("sys.argv", ["export", str(checkpoint), "--out", str(out), *options])
    return export.main()


def one_line(text: str) -> str:
    assert text.count("\n") == 1
    assert text.endswith(".\n")
    return text


NORM = "lm.blk.1.ffn_norm.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c["model"].update({NORM: torch.ones(63)}), f"{NORM} does not match.*(64,).*(63,)"),
        (lambda c: c["model"].update({NORM: torch.ones(1, 64)}), f"{NORM} does not match.*(64,).*(1, 64)"),
        (lambda c: c["model"].update({NORM: 1.0}), f"{NORM} is not a tensor"),
        (lambda c: c["model"].update({NORM: torch.ones(64, dtype=torch.int64)}), f"{NORM} is not a tensor of floating"),
        (lambda c: c["model"].pop(NORM), f"lacks the tensor {NORM}"),
        (lambda c: c["model"].update({"lm.blk.2.attn_q.weight": torch.ones(3)}), "unknown tensor lm.blk.2.attn_q"),
        (lambda c: c["model"]["v.mm_0.weight"][5].fill_(torch.nan), "v.mm_0.weight holds values that are not finite"),
        (lambda c: c["model"]["v.mm_0.weight"][5].fill_(65_520), "v.mm_0.weight holds values .* too large for F16"),
        (lambda c: c["config"].pop("kv_heads"), "lacks: kv_heads"),
        (lambda c: c["config"].update(experts=4), "unknown keys: experts"),
        (lambda c: c["config"].update(heads=0), "heads=0"),
        (lambda c: c["config"].update(heads="4"), "heads='4'"),
        (lambda c: c["config"].update(rope_base=float("inf")), "rope_base=inf"),
        (lambda c: c["config"].update(kv_heads=3), "heads=4 is no multiple of kv_heads=3"),
        (lambda c: c["config"].update(layers=3), "lacks the tensor lm.blk.2."),
        (lambda c: c["config"].update(vocabulary=700), "token_embd.weight does not match"),
        (lambda c: c.pop("model"), "not a checkpoint of this network"),
    ],
    ids=[
        *("shape", "dimensions", "number for a tensor", "integers", "tensor missing", "tensor unknown", "nan"),
        *("too large", "key missing", "key unknown", "no heads", "text for heads", "infinite", "heads do not divide"),
        *("more layers", "smaller vocabulary", "no model"),
    ],
)
def test_export_when_the_checkpoint_is_damaged_then_one_line_says_where_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    damage: Callable[[dict[str, Any]], object],
    message: str,
) -> None:
    saved = content()
    damage(saved)
    torch.save(saved, tmp_path / "a.pt")
    assert exported(monkeypatch, tmp_path / "a.pt", tmp_path / "out") == 1
    assert re.search(message.replace("(", r"\(").replace(")", r"\)"), one_line(capfd.readouterr().err))
    assert not (tmp_path / "out").exists()
    assert not recwarn.list  # outside pytest these are lines, too


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: b"", "a.pt is not a checkpoint, or it is cut short"),
        (lambda _: b"GGUF" + bytes(1000), "a.pt is not a checkpoint, or it is cut short"),
        (lambda _: b"\x80\x04cos\nsystem\n.", "a.pt is not a checkpoint, or it is cut short"),
        (lambda data: data[: len(data) // 2], "a.pt is not a checkpoint, or it is cut short"),
        (lambda data: data[:-1], "a.pt is not a checkpoint, or it is cut short"),
        (None, "a.pt cannot be read: No such file or directory"),
    ],
    ids=["empty", "another format", "a pickle that runs code", "half", "all but one byte", "missing"],
)
def test_export_when_the_file_is_no_whole_checkpoint_then_one_line_says_so_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    damage: Callable[[bytes], bytes] | None,
    message: str,
) -> None:
    path = tmp_path / "a.pt"
    torch.save(content(), path)
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    assert exported(monkeypatch, path, tmp_path / "out") == 1
    assert message in one_line(capfd.readouterr().err)
    assert not (tmp_path / "out").exists()
    assert not recwarn.list


def _without_the_last_token(tokenizer: dict[str, Any]) -> None:
    tokenizer["model"]["vocab"].popitem()
    tokenizer["model"]["merges"].pop()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_the_last_token, "a.json has 767 tokens, the checkpoint's config.vocabulary is 768"),
        (lambda t: t["model"]["vocab"].update(a=0), "a.json: its token ids are not 0 to 767"),
        (lambda t: t["model"]["vocab"].update(a=None), "a.json: its token ids are not 0 to 767"),
        (lambda t: t["model"]["merges"].append(["q", "qq"]), "a.json: the merge 'q qq' makes no token"),
        (lambda t: t.pop("model"), "a.json is not a BPE tokenizer"),
    ],
    ids=["one token fewer", "an id twice", "no id", "merge without a token", "no model"],
)
def test_export_when_the_tokenizer_does_not_fit_then_one_line_says_why_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    damage: Callable[[dict[str, Any]], object],
    message: str,
) -> None:
    torch.save(content(), tmp_path / "a.pt")
    tokenizer = json.loads(FILE.read_text(encoding="utf-8"))
    damage(tokenizer)
    (tmp_path / "a.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert exported(monkeypatch, tmp_path / "a.pt", tmp_path / "out", "--tokenizer", str(tmp_path / "a.json")) == 1
    assert message in one_line(capfd.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [("--spread-model", "9"), ("--spread-projector", "nan")], ids=" ".join)
def test_export_when_spread_makes_values_too_large_then_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], options: tuple[str, str]
) -> None:
    torch.save(content(), tmp_path / "a.pt")
    assert exported(monkeypatch, tmp_path / "a.pt", tmp_path / "out", *options) == 1
    assert "not finite, or too large for F16" in one_line(capfd.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("older", [False, True], ids=["new folder", "folder with an older pair"])
def test_export_when_writing_fails_between_the_files_then_neither_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], older: bool
) -> None:
    saved = content()
    torch.save(saved, tmp_path / "a.pt")
    out = tmp_path / "out"
    if older:
        assert exported(monkeypatch, tmp_path / "a.pt", out) == 0
        saved["model"]["lm.token_embd.weight"] *= 2
        torch.save(saved, tmp_path / "a.pt")
    capfd.readouterr()
    before = {path.name: path.read_bytes() for path in out.glob("*")}
    assert len(before) == (2 if older else 0)

    write, written = GGUFWriter.write_tensors_to_file, []

    def until_the_disk_is_full(writer: GGUFWriter) -> None:
        written.append(writer.arch)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer)

    monkeypatch.setattr(GGUFWriter, "write_tensors_to_file", until_the_disk_is_full)
    assert exported(monkeypatch, tmp_path / "a.pt", out) == 1
    assert written == ["llama", "clip"]
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "No space left on device" in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_exported_pair_when_read_then_its_metadata_and_tensors_are_the_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = content()
    torch.save(saved, tmp_path / "a.pt")
    assert exported(monkeypatch, tmp_path / "a.pt", tmp_path, "--spread-model", "0", "--spread-projector", "0") == 0

    left = dict(saved["model"])
    for name, kind, title in (
        ("tiny-vlm-0M-F16.gguf", "model", "Tiny VLM"),
        ("mmproj-tiny-vlm-0M-F16.gguf", "mmproj", "Tiny VLM projector"),
    ):
        reader = GGUFReader(tmp_path / name)
        values = {key: field.contents() for key, field in reader.fields.items()}
        expected: dict[str, Any] = {
            "type": kind,
            "name": title,
            "basename": "tiny-vlm",
            "size_label": "0M",
            "license": "apache-2.0",
        }
        expected |= {"file_type": 1, "architecture": "llama" if kind == "model" else "clip"}
        assert {key: values[f"general.{key}"] for key in expected} == expected
        for tensor in reader.tensors:
            own = f"lm.{tensor.name}" if kind == "model" else tensor.name.replace("mm.", "v.mm_")
            whole = left.pop("v.position_embd" if own == "v.position_embd.weight" else own)
            half = whole.ndim > 1 and "position" not in own
            assert tensor.tensor_type == (GGMLQuantizationType.F16 if half else GGMLQuantizationType.F32), own
            assert np.array_equal(tensor.data, whole.half().numpy() if half else whole.numpy()), own
        if kind == "model":
            assert values["tokenizer.chat_template"] == export.CHAT_TEMPLATE
            tokenizer = tokenizers.Tokenizer.from_file(str(FILE))
            assert values["tokenizer.ggml.tokens"] == [tokenizer.id_to_token(n) for n in range(SMALL.vocabulary)]
    assert left == {}


def test_size_label_when_the_network_is_the_real_one_then_7m() -> None:
    with torch.device("meta"):
        state = VisionLanguageModel(Config()).state_dict()
    assert export.Checkpoint(Config(), state).size_label == "7M"


IMAGE, TEXT = {"type": "image"}, {"type": "text", "text": "Q"}
FIRST, ANSWER = {"role": "user", "content": [IMAGE, TEXT]}, {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([FIRST], "<|user|><__media__>Q<|assistant|>"),
        ([{"role": "user", "content": [TEXT, IMAGE]}], "<|user|><__media__>Q<|assistant|>"),
        ([{"role": "user", "content": "Q"}], "<|user|>Q<|assistant|>"),
        ([{"role": "user", "content": "<__media__>Q"}], "<|user|><__media__>Q<|assistant|>"),
        (
            [FIRST, ANSWER, {"role": "user", "content": "Q2"}],
            "<|user|><__media__>Q<|assistant|>A<|end|><|user|>Q2<|assistant|>",
        ),
    ],
    ids=["image and text", "text and image", "string", "string with a marker", "two turns"],
)
def test_chat_template_when_rendered_then_it_is_as_in_training(messages: list[dict[str, Any]], expected: str) -> None:
    assert rendered(messages, ask=True) == expected
    assert rendered(messages, ask=False) == expected.removesuffix("<|assistant|>")
