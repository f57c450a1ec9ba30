"""Reference packs: what is kept of a distribution, and files that are not valid packs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest
import safetensors.numpy

from playground.errors import BadInput
from playground.measuring import pack_source, packs
from playground.measuring.packs import Pack, PackFile, PackRecord
from playground.measuring.question_sets import Question
from playground.measuring.results import MeasurementPlan, RecordedAnswer
from playground.models.hub.datasets import DatasetListing
from playground.models.hub.listing import RemoteFile
from playground.values.request import ImagePlace, PromptForm, Runtime

_RANDOM = numpy.random.default_rng(1)


def log_probabilities(n_rows: int, n_vocabulary: int = 600, spread: float = 3.0) -> Any:
    logits = _RANDOM.normal(0, spread, (n_rows, n_vocabulary))
    return (logits - numpy.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(numpy.float32)


def pack(n_vocabulary: int = 600) -> Pack:
    half = PackFile("a" * 64, 1000, "F16", 500, "llama", "v" * 64)
    record = PackRecord(
        version=packs.VERSION,
        family="Tiny",
        label="F16",
        model=half,
        projector=half,
        n_vocabulary=n_vocabulary,
        questions=(Question("a.png", "What?"), Question("b.png", "Where?")),
        images=("1" * 64, "2" * 64),
        answers=(RecordedAnswer("x y", (1, 2)), RecordedAnswer("z", (3,))),
        max_tokens=8,
        left_out_mass=1e-3,
        engine="an engine",
        floor=1e-7,
        other_way="batches of 32",
    )
    return Pack(record, tuple(packs.kept(log_probabilities(n, n_vocabulary), 1e-3) for n in (3, 2)))


@pytest.mark.parametrize("mass", [1e-1, 1e-2, 1e-4])
def test_kept_when_cut_then_the_rest_is_within_the_mass_and_nothing_is_lost(mass: float) -> None:
    rows = log_probabilities(20)
    distributions = packs.kept(rows, mass)
    ends = numpy.cumsum(distributions.counts)
    for k, (end, count) in enumerate(zip(ends, distributions.counts, strict=True)):
        ids = distributions.ids[end - count : end]
        probabilities = numpy.exp(distributions.log_probabilities[end - count : end].astype(float))
        assert len(set(ids.tolist())) == count
        assert ids[0] == rows[k].argmax()
        assert numpy.exp(distributions.rest[k]) <= mass + 1e-6
        assert probabilities.sum() + numpy.exp(distributions.rest[k]) == pytest.approx(1, abs=1e-5)
        assert probabilities[:-1].sum() < 1 - mass or count == 5  # not one token more than is needed


def test_kept_when_the_distribution_is_flat_or_certain_then_bounded_both_ways() -> None:
    flat = numpy.full((1, 10_000), -numpy.log(10_000), numpy.float32)
    assert packs.kept(flat, 1e-6).counts.tolist() == [4096]
    certain = numpy.full((1, 600), -200.0, numpy.float32)
    certain[0, 7] = 0.0
    distributions = packs.kept(certain, 1e-2)
    assert distributions.counts.tolist() == [5]
    assert distributions.ids[0] == 7
    small = packs.kept(log_probabilities(1, 4), 1e-2)
    assert (small.counts.tolist(), small.rest.tolist()) == ([4], [-numpy.inf])


def test_pack_when_written_and_read_then_the_same(tmp_path: Path) -> None:
    path, written = tmp_path / "a.safetensors", pack()
    packs.write(path, written)
    opened = packs.read(path)
    assert opened.record == written.record
    for distributions, other in zip(opened.distributions, written.distributions, strict=True):
        assert all(numpy.array_equal(distributions.arrays[name], other.arrays[name]) for name in distributions.arrays)
    assert len(opened.digest) == 64
    assert opened.record.reference.label == "F16 (pack)"
    assert opened.record.reference.model.vocabulary_sha256 == "v" * 64
    assert opened.record.missing_share is None


def test_pack_when_a_form_and_a_reasoning_budget_were_given_then_it_keeps_them(tmp_path: Path) -> None:
    form = PromptForm("Be brief.", {"enable_thinking": False}, ImagePlace.BEHIND, "chatml")
    pack_record = msgspec.structs.replace(pack().record, form=form, reasoning_tokens=0, max_tokens=5)
    packs.write(tmp_path / "a.safetensors", Pack(pack_record, pack().distributions))
    record = packs.read(tmp_path / "a.safetensors").record
    assert record.form == form
    plan = record.limits(MeasurementPlan(accuracy=True))
    assert (plan.max_tokens, plan.reasoning_tokens, plan.accuracy) == (5, 0, True)


def test_pack_when_image_tokens_were_bounded_then_they_are_kept_and_others_are_refused(tmp_path: Path) -> None:
    given = msgspec.structs.replace(pack().record, image_tokens=(16, 64))
    packs.write(tmp_path / "a.safetensors", Pack(given, pack().distributions))
    record = packs.read(tmp_path / "a.safetensors").record
    assert record.runtime(Runtime(n_ctx=512)) == Runtime(n_ctx=512, image_min_tokens=16, image_max_tokens=64)
    with pytest.raises(BadInput, match="The numbers of image tokens are the pack's"):
        record.runtime(Runtime(image_max_tokens=32))
    older = msgspec.structs.replace(pack().record, version=2)
    assert older.runtime(Runtime(image_max_tokens=32)) == Runtime(image_max_tokens=32)
    assert (record.used.image_tokens, older.used.image_tokens) == ((16, 64), None)


def changed(path: Path, *, version: str = "3", record: dict[str, Any] | None = None, **arrays: Any) -> Path:
    """The file, with something else in it."""
    good = pack()
    tensors = {
        name: numpy.concatenate([part.arrays[name] for part in good.distributions])
        for name in ("counts", "ids", "log_probabilities", "rest")
    }
    document = msgspec.to_builtins(good.record) | (record or {})
    metadata = {
        "format": "playground.reference-pack",
        "version": version,
        "pack": msgspec.json.encode(document).decode(),
    }
    path.write_bytes(safetensors.numpy.save({**tensors, **arrays}, metadata))
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, ""),
        ({"version": "1"}, ""),
        ({"version": "2"}, ""),
        ({"version": "4"}, "was written by a newer version of the app"),
        ({"version": "x"}, "was written by a newer version of the app"),
        ({"record": {"images": ["1"]}}, "other numbers of questions, images and answers"),
        ({"record": {"questions": "?"}}, "not a valid reference pack: Expected `array`"),
        ({"record": {"n_vocabulary": 2}}, "tokens beyond its vocabulary"),
        ({"ids": numpy.zeros(3, numpy.int32)}, "belong to other answers"),
        ({"counts": numpy.ones(5, numpy.int32)}, "incomplete"),
        ({"rest": numpy.full(5, numpy.nan, numpy.float32)}, "invalid probabilities"),
        ({"rest": numpy.zeros(5, numpy.float64)}, "other types"),
        ({"record": {"max_tokens": -1}}, "a number that is none of a model or an answer"),
        ({"record": {"n_vocabulary": 2**70}}, "a number that is none of a model or an answer"),
        ({"record": {"reasoning_tokens": 2**40}}, "a number that is none of a model or an answer"),
        ({"record": {"label": "x" * 1_000_000}}, "a name in it has more than 300 characters"),
        ({"record": {"floor": 1e300}}, "a drift that is too large"),
        ({"record": {"image_tokens": [-1, None]}}, "image_min_tokens has to be between"),
        ({"record": {"form": {"template_variables": {"messages": []}}}}, "cannot be called 'messages'"),
        ({"record": {"questions": [{"image": "a", "question": "?", "box_scale": [0, 1]}] * 2}}, "box_scale"),
    ],
)
def test_pack_when_it_is_invalid_then_it_is_said_why(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    path = changed(tmp_path / "a.safetensors", **how)
    if not message:
        assert packs.read(path).record == pack().record
        return
    with pytest.raises(BadInput, match=message):
        packs.read(path)


@pytest.mark.parametrize("kind", [b"BF16", b"F8_E4M3"])
def test_pack_when_numpy_has_no_such_numbers_then_it_is_said_why(tmp_path: Path, kind: bytes) -> None:
    """safetensors knows more types than numpy."""
    halves = numpy.zeros(5, numpy.float16) if kind == b"BF16" else numpy.zeros(5, numpy.int8)
    path = changed(tmp_path / "a.safetensors", rest=halves)
    written = path.read_bytes()
    old = b'"F16"' if kind == b"BF16" else b'"I8"'
    assert written.count(old) == 1, "of the head's types"
    head = int.from_bytes(written[:8], "little")
    renamed = written[8:].replace(old, b'"' + kind + b'"')
    path.write_bytes((head + len(kind) + 2 - len(old)).to_bytes(8, "little") + renamed)
    with pytest.raises(BadInput, match="other types"):
        packs.read(path)


def test_pack_when_its_head_is_very_long_then_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((2**25 + 1).to_bytes(8, "little") + b'{"__metadata__":{"format":"' + b"x" * 1000)
    with pytest.raises(BadInput, match="too many questions"):
        packs.read(path)


def test_pack_when_of_a_newer_version_then_no_more_of_it_is_repeated_than_a_version_has(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refusal:
        packs.read(changed(tmp_path / "a.safetensors", version="9" * 10_000))
    assert len(refusal.value.message) < 400


def test_pack_when_larger_than_the_app_may_hold_then_not_fetched() -> None:
    class Repository:
        """Of one file; fetching it is an error."""

        def dataset_files(self, id: str, revision: str = "main", token: str | None = None) -> DatasetListing:
            return DatasetListing(id, "c" * 40, (RemoteFile("a.safetensors", 3_000_000, None),))

        def dataset_file(self, listing: Any, name: str, token: str | None = None) -> Path:
            raise AssertionError(name)

    with pytest.raises(BadInput, match="larger than 2 MiB"):
        pack_source.fetch(Repository(), "me/packs", most_bytes=2 * 2**20)


def test_pack_when_it_is_cut_short_or_another_file_then_it_is_said(tmp_path: Path) -> None:
    path = changed(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    for size in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInput, match=r"a\.safetensors is damaged or cut short"):
            packs.read(path)
    path.write_bytes(safetensors.numpy.save({"weight": numpy.zeros(3, numpy.float32)}))
    with pytest.raises(BadInput, match="is not a reference pack"):
        packs.read(path)
    with pytest.raises(BadInput, match="cannot be read"):
        packs.read(tmp_path / "nothing.safetensors")
