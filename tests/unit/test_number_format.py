"""Times to metrics, answers to differences, numbers to text."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from playground.comparing import metrics
from playground.comparing.divergence import first_divergence, how_much, word_changes
from playground.engine import waiting
from playground.engine.protocol import EncodedPrompt, Finished, ImageChunk, TextChunk
from playground.rendering import number_format
from playground.values.answer import Metrics
from playground.values.files import Shape

# --- metrics ----------------------------------------------------------------------------------------------


def finished(generated: int = 33, **fields: float | None) -> Finished:
    times: dict[str, Any] = {"context_s": 0.5, "prompt_s": 0.2, "first_token_s": 0.25, "decode_s": 4.0}
    return Finished("end of text", **(times | fields), generated_tokens=generated, reused_tokens=7)


def encoded(*, image: bool = True) -> EncodedPrompt:
    tile = ImageChunk(0, "key", n_tokens=100, n_pos=10, non_causal=False, positions=b"", embeddings=b"")
    chunks = (TextChunk((1, 2, 3)), *((tile, tile) if image else ()), TextChunk((4,)))
    return EncodedPrompt(chunks, n_embd=4, rendered="", preprocess_s=0.01, encode_s=1.5 if image else None)


@pytest.mark.parametrize(
    ("generated", "decode_s", "expected"),
    [(33, 4.0, 8.0), (2, 0.5, 2.0), (1, 0.5, None), (0, None, None), (5, None, None), (5, 0.0, None)],
)
def test_speed_when_tokens_came_then_intervals_over_time(
    generated: int, decode_s: float | None, expected: float | None
) -> None:
    assert metrics.decode_tok_per_s(finished(generated, decode_s=decode_s)) == expected


def test_prompt_when_this_pane_encoded_it_then_it_says_what_that_took() -> None:
    figures = metrics.of_prompt(Metrics(load_s=3.0), encoded(), cached=False, paid=True)
    assert figures == Metrics(
        load_s=3.0, preprocess_s=0.01, encode_s=1.5, encode_cached=False, image_tokens=200, text_tokens=4,
        prompt_tokens=204, image_tiles=2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cached", "paid", "preprocess_s"), [(True, True, 0.01), (False, False, None), (True, False, None)]
)
def test_prompt_when_the_image_was_there_then_no_encode_time_is_told(
    cached: bool, paid: bool, preprocess_s: float | None
) -> None:
    figures = metrics.of_prompt(Metrics(), encoded(), cached=cached, paid=paid)
    assert (figures.encode_s, figures.encode_cached, figures.preprocess_s) == (None, True, preprocess_s)


@pytest.mark.parametrize("paid", [True, False])
def test_prompt_when_it_has_no_image_then_nothing_is_said_of_a_cache(paid: bool) -> None:
    figures = metrics.of_prompt(Metrics(), encoded(image=False), cached=False, paid=paid)
    assert (figures.encode_s, figures.encode_cached) == (None, None)
    assert (figures.image_tokens, figures.text_tokens, figures.prompt_tokens) == (0, 4, 4)


def test_generation_when_done_then_first_token_counts_from_the_image_on() -> None:
    figures = metrics.of_generation(Metrics(load_s=3.0, preprocess_s=0.01, encode_s=1.5), finished())
    assert figures.ttft_s == pytest.approx(0.25 + 0.01 + 1.5)
    assert (figures.load_s, figures.prompt_s, figures.decode_s, figures.decode_tok_per_s) == (3.5, 0.2, 4.0, 8.0)
    assert (figures.generated_tokens, figures.reused_tokens, figures.short_run) == (33, 7, False)


@pytest.mark.parametrize(
    ("load_s", "context_s", "expected"), [(None, None, None), (2.0, None, 2.0), (None, 0.5, 0.5), (2.0, 0.5, 2.5)]
)
def test_load_when_part_of_it_is_unknown_then_never_0(
    load_s: float | None, context_s: float | None, expected: float | None
) -> None:
    assert metrics.of_generation(Metrics(load_s=load_s), finished(context_s=context_s)).load_s == expected


def test_generation_when_stopped_before_the_first_token_then_its_times_are_unknown() -> None:
    nothing = finished(0, context_s=None, prompt_s=None, first_token_s=None, decode_s=None)
    figures = metrics.of_generation(Metrics(encode_s=1.5), nothing)
    assert (figures.load_s, figures.prompt_s, figures.ttft_s, figures.decode_s, figures.decode_tok_per_s) == (None,) * 5
    assert (figures.generated_tokens, figures.short_run) == (0, True)


@pytest.mark.parametrize(("generated", "short"), [(15, True), (16, False)])
def test_run_when_of_few_tokens_then_flagged(generated: int, short: bool) -> None:
    assert metrics.of_generation(Metrics(), finished(generated)).short_run is short


@pytest.mark.parametrize(
    ("waited_s", "share", "beside"), [(None, None, False), (0.4, 0.1, False), (0.8, 0.2, True), (6.0, 1.5, True)]
)
def test_speed_when_its_threads_waited_for_a_processor_then_it_was_measured_beside_other_work(
    waited_s: float | None, share: float | None, beside: bool
) -> None:
    figures = metrics.of_generation(Metrics(), finished(waited_s=waited_s))
    assert figures.waited_share == (share if share is None else pytest.approx(share))
    assert figures.beside_others is beside


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts it")
def test_wait_when_asked_again_then_no_less() -> None:
    before = waiting.waited_s()
    assert before is not None
    assert (waiting.waited_s() or 0.0) >= before


def test_generation_when_added_then_what_was_known_stays() -> None:
    before = Metrics(model_bytes=5, image_tokens=100, encode_cached=True)
    after = metrics.of_generation(before, finished())
    assert replace(after, model_bytes=5, image_tokens=100, encode_cached=True) == after


def test_generation_when_done_then_the_times_of_its_tokens_are_told() -> None:
    steps = ((1.0, 8), (4.0, 32))
    assert metrics.of_generation(Metrics(), msgspec.structs.replace(finished(), progress=steps)).progress == steps


SHAPE = Shape(
    n_layers=2, layer_bytes=900, embedding_bytes=500, other_bytes=100, read_bytes=1000, kv_bytes_per_token=10
)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "prompt", "generated", "expected"),
    [
        (SHAPE, 600, 100, 1000 + 10 * 650),
        (SHAPE, 600, 1, 1000 + 10 * 600 + 5),
        (SHAPE, 0, 0, 1000),
        (SHAPE, None, 100, None),
        (SHAPE, 600, None, None),
        (replace(SHAPE, kv_bytes_per_token=None), 600, 100, None),
        (None, 600, 100, None),
    ],
)
def test_reading_when_a_token_is_decoded_then_weights_and_the_cache_at_its_mean_depth(
    shape: Shape | None, prompt: int | None, generated: int | None, expected: int | None
) -> None:
    assert metrics.read_bytes_per_token(shape, prompt, generated) == expected


@pytest.mark.parametrize(
    ("read", "speed", "bandwidth", "expected"),
    [(7_500, 20.0, 300_000.0, 0.5), (7_500, 80.0, 300_000.0, 2.0), (None, 20.0, 1.0, None), (7_500, None, 1.0, None),
     (7_500, 20.0, None, None)],
)  # fmt: skip
def test_bandwidth_share_when_part_of_it_is_unknown_then_never_0(
    read: int | None, speed: float | None, bandwidth: float | None, expected: float | None
) -> None:
    assert metrics.bandwidth_share(read, speed, bandwidth) == expected


# --- divergence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "answer", "ended", "expected"),
    [
        ([], [], True, None),
        ([1, 2, 3], [1, 2, 3], True, None),
        ([1, 2, 3], [1, 2, 3], False, None),
        ([1, 2, 3], [], False, None),
        ([1, 2, 3], [], True, 0),
        ([], [1], False, 0),
        ([1, 2, 3], [9, 2, 3], False, 0),
        ([1, 2, 3], [1, 9, 3], False, 1),
        ([1, 2, 3], [1, 2], False, None),
        ([1, 2, 3], [1, 2], True, 2),
        ([1, 2, 3], [1, 2, 3, 4], False, 3),
        ([1, 2, 3], [1, 2, 9, 4], True, 2),
        ((1, 2), [1, 2], True, None),
    ],
)
def test_divergence_when_answers_are_compared_then_the_first_other_token(
    reference: list[int], answer: list[int], ended: bool, expected: int | None
) -> None:
    assert first_divergence(reference, answer, ended=ended) == expected


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("a red star", "a red star", [("equal", "a red star", "a red star")]),
        ("a red star", "a blue star", [("equal", "a", "a"), ("replace", " red", " blue"), ("equal", " star", " star")]),
        ("a star", "a red star", [("equal", "a", "a"), ("insert", "", " red"), ("equal", " star", " star")]),
        ("a red star", "a star", [("equal", "a", "a"), ("delete", " red", ""), ("equal", " star", " star")]),
        ("Yes", "yes", [("replace", "Yes", "yes")]),
        ("", "a star", [("insert", "", "a star")]),
        ("a star", "", [("delete", "a star", "")]),
        ("נורה אדומה", "נורה כחולה", [("equal", "נורה", "נורה"), ("replace", " אדומה", " כחולה")]),
        ("left and", "left, and", [("equal", "left", "left"), ("insert", "", ","), ("equal", " and", " and")]),
        ("at 10:43.", "at 10:44.", [("equal", "at", "at"), ("replace", " 10:43", " 10:44"), ("equal", ".", ".")]),
        ("[0.1, 2]", "[0.1, 3]", [("equal", "[0.1,", "[0.1,"), ("replace", " 2", " 3"), ("equal", "]", "]")]),
        (
            "一颗红色的星。",
            "一颗蓝色的星。",
            [("equal", "一颗", "一颗"), ("replace", "红", "蓝"), ("equal", "色的星。", "色的星。")],
        ),
        ("लाल तारा", "नीला तारा", [("replace", "लाल", "नीला"), ("equal", " तारा", " तारा")]),
        ("a\nb", "a b", [("equal", "a\nb", "a b")]),
    ],
)
def test_words_when_answers_differ_then_what_turns_one_into_the_other(
    reference: str, answer: str, expected: list[tuple[str, str, str]]
) -> None:
    assert word_changes(reference, answer) == expected


@pytest.mark.parametrize(
    "text", ["a  b", " a", "a ", "\n", "a\n\nb", "\0", "👩‍👩‍👧 x", "x" * 5000, "图中有一颗红色的星星。"]
)
@pytest.mark.parametrize("other", ["a b", "", "\0"])
def test_words_when_put_together_again_then_both_texts_are_whole(text: str, other: str) -> None:
    for reference, answer in ((text, other), (other, text)):
        changes = word_changes(reference, answer)
        assert "".join(before for _, before, _ in changes) == reference
        assert "".join(after for _, _, after in changes) == answer


@pytest.mark.parametrize(
    ("reference", "answer", "words"),
    [
        (
            "There are three red stars on the left of a tree.",
            "There are four red stars on the right of a tree.",
            "2 words",
        ),
        ("There are three red stars on the left.", "It is a photograph of a small dog and of a cat.", "most words"),
        ("25527", "25557", "1 character"),
        ("It is 9:56.", "It is 9:5.", "1 character"),
        ("red", "blue", "1 word"),
        ("No, it is red.", "No, it is blue.", "1 word"),
        ("一颗红色的星", "一颗蓝色的星", "1 word"),
        ("a b", "a b c", "1 word"),
        ("It is red.", "", "3 words"),
        ("It is red.", "It is red!", "punctuation"),
        ("a b", "a  b", "white space"),
        ("same", "same", "tokens of the same text"),
    ],
)
def test_how_much_when_answers_differ_then_words_or_in_a_short_answer_characters(
    reference: str, answer: str, words: str
) -> None:
    assert how_much(reference, answer) == words


@pytest.mark.parametrize(
    "text", ["." * 10_000, "a" * 10_000, "a" + "." * 10_000, " " * 10_000, "名" * 10_000, "a." * 5000]
)
def test_words_when_of_ten_thousand_characters_then_quick(text: str) -> None:
    started = time.process_time()
    assert word_changes(text, text) == [("equal", text, text)]
    assert time.process_time() - started < 5


def test_words_when_answers_are_as_long_as_allowed_then_quick() -> None:
    """The page asks again with every update. 8192 is the most tokens of an answer."""
    reference = [str(n) for n in range(8192)]
    answer = ["other" if n % 3 == 0 else word for n, word in enumerate(reference)]
    started = time.process_time()
    changes = word_changes(" ".join(reference), " ".join(answer))
    assert time.process_time() - started < 5
    assert sum(kind == "replace" for kind, _, _ in changes) == 2731


# --- text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (0.0, "0.0 ms"),
        (0.00123, "1.2 ms"),
        (0.00994, "9.9 ms"),
        (0.00995, "10 ms"),
        (0.0994, "99 ms"),
        (0.0996, "100 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (1.234, "1.23 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (123.45, "123.5 s"),
    ],
)
def test_seconds_when_shown_then_two_or_three_digits(value: float | None, expected: str) -> None:
    assert number_format.seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "–"), (0, "0.0 MB"), (9_800_000, "9.8 MB"), (999_400_000, "999.4 MB"), (999_600_000, "1.00 GB"),
     (4_680_000_000, "4.68 GB")],
)  # fmt: skip
def test_file_size_when_shown_then_decimal(value: int | None, expected: str) -> None:
    assert number_format.file_size(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "–"), (0, "0 MiB"), (90 * 2**20, "90 MiB"), (999 * 2**20, "999 MiB"), (1000 * 2**20, "1.0 GiB"),
     (78 * 2**30, "78.0 GiB")],
)  # fmt: skip
def test_memory_when_shown_then_binary(value: int | None, expected: str) -> None:
    assert number_format.memory(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "–"), (0.04, "0.0 tok/s"), (8.25, "8.2 tok/s"), (99.4, "99.4 tok/s"),
                            (99.6, "100 tok/s"), (1234.5, "1,234 tok/s")],
)  # fmt: skip
def test_speed_when_shown_then_with_its_unit(value: float | None, expected: str) -> None:
    assert number_format.speed(value) == expected


@pytest.mark.parametrize(("value", "expected"), [(None, "–"), (4.849, "4.8 bpw"), (16.0, "16.0 bpw")])
def test_bits_when_shown_then_one_digit(value: float | None, expected: str) -> None:
    assert number_format.bits(value) == expected


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (Metrics(image_tokens=1), ""),
        (Metrics(image_tokens=512, image_pixels=((896, 448),)), " (896 × 448 pixels)"),
        (Metrics(image_tokens=8, image_pixels=((56, 56), (28, 56))), " (56 × 56, 28 × 56 pixels)"),
        (Metrics(image_tokens=1088, image_tiles=17), " (17 tiles)"),
    ],
)
def test_image_when_the_encoder_resized_or_cut_it_then_that_is_said(metrics: Metrics, expected: str) -> None:
    assert number_format.image_seen(metrics) == expected


@pytest.mark.parametrize(
    ("text", "among", "expected"),
    [
        (" three", (" three", " four"), "three"),
        (" three", (" three", "three"), "␣three"),
        ("three", (" three", "three"), "three"),
        (" ", (), "␣"),
        ("\n\n", (), "↵↵"),
        ("", (), ""),
    ],
)
def test_token_when_quoted_then_without_its_space_unless_that_tells_it_from_another(
    text: str, among: tuple[str, ...], expected: str
) -> None:
    assert number_format.token(text, among) == expected
