"""Has lmms-eval 0.7.3 score some thousands of answers, and freezes the scores as test data.

`python -m bench.peer_scores` writes tests/data/peer-scores.jsonl.xz; it needs `pip install lmms-eval==0.7.3` (and the
packages that its task files import). The test that reads the file needs neither.

Where our score is another one than the peer's, the row says why: a key of DIFFERENCES. "taken off" is checked: the peer
agrees on the answer without what we take off. For the others the score that is meant is part of the answer's form.
"""

from __future__ import annotations

import importlib
import itertools
import json
import lzma
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from playground.measuring.answer_readers import plain
from playground.measuring.question_sets import Question, Rule
from playground.measuring.scoring_rules import HANDWRITTEN_MATH, document_of, score, scored_text

FILE = Path(__file__).parents[1] / "tests/data/peer-scores.jsonl.xz"
ROWS = 2000  # of each rule, at least


class Row(NamedTuple):
    task: str  # the peer's function
    question: Question
    answer: str
    meant: float | None = None  # the score that a reader would give; None: the rule is the definition


# What the families write round an answer. `{}` is the answer.
PLAIN = ("{}", "{}", "{}", "{}\n", " {}", "{}.", "{} ")
TAKEN_OFF = (
    "**{}**",
    "*{}*",
    "`{}`",
    "## {}",
    "{}<|im_end|>",
    "{}</s>",
    "{}<end_of_turn>",
    "{}<|eot_id|>",
    "<think>\nIs it red, 7 or (C)? No.\n</think>\n\n{}",
    "It could be 12 (A).</think>{}",
    "◁think▷Maybe A. Or 3.◁/think▷{}",
    "<think>Wait: D.</think><answer><|begin_of_box|>{}<|end_of_box|></answer>",
    "<answer>{}</answer>",
    "$\\boxed{{{}}}$"[1:-1],
    "```\n{}\n```",
    "<|channel|>analysis<|message|>A or B, 4<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
)
FORMS = PLAIN * 3 + TAKEN_OFF
SENTENCES = ("The answer is {}.", "{} is shown.", "It is {}", "I see {} in the picture.", "Answer: {}", "{}, I think")
WORDS = [
    "Paris",
    "dark blue",
    "the red car",
    "STOP",
    "Coca-Cola",
    "25th of May",
    "Dr. Who's",
    "naïve café",
    "東京",
    "Москва",
    "it's",
    "a dog",
    "Straße",
    "two dogs",
    "New York",
    "U.S.A",
    "10:30",
    "yes",
    "no",
    "Mr. T",
    "rock 'n' roll",
    "isn't",
    "dont",
    "somebodys",
    "(left)",
    "A4",
    "x = 3",
    "3/4",
    "open_file",
    "ﬁne",
    "Ｆｕｌｌ",
    "right-hand",
    "Café del Mar",
    "Ärzte",
    "None of them",
    "The End",
    "12 kg",
    "£5",
    "a/b",
    "well-known",
    "O'Neil",
]
NUMBERS = [
    "0",
    "1",
    "3",
    "7",
    "12",
    "12.5",
    "100",
    "1234",
    "1,234",
    "-5",
    "50%",
    "0.5",
    "2023",
    "3.14159",
    "1e3",
    "104",
    "96",
    "95",
    "105",
    "1.05",
    "$12.50",
    "12.0",
    ".5",
    "nan",
    "inf",
    "1_000",
]


def ask_peers() -> dict[str, Callable[[Row], float]]:
    """The peer's functions by task."""
    module = {
        name: importlib.import_module(f"lmms_eval.tasks.{name}.utils")
        for name in ("chartqa", "textvqa", "vqav2", "mmmu", "mmstar", "ai2d", "ocrbench", "pope", "countbenchqa")
    }
    metrics = importlib.import_module("lmms_eval.api.metrics")
    boxes = importlib.import_module("lmms_eval.tasks.refcoco.utils_rec")
    mmbench = importlib.import_module("lmms_eval.tasks.mmbench.mmbench_evals").MMBench_Evaluator()
    extract = importlib.import_module("lmms_eval.tasks._task_utils.mcq_extract").extract_mcq_answer
    mcq = importlib.import_module("lmms_eval.tasks._task_utils.mmmu_mcq_utils")
    kie = importlib.import_module("lmms_eval.tasks.cc_ocr.evaluators.kie_metric")
    mcq.random = type("NoGuess", (), {"choice": staticmethod(lambda choices: "")})  # it guesses; a guess scores 0 here
    ai2d = module["ai2d"].MultiChoiceRegexFilter()

    def vqav2(row: Row) -> float:
        answers = [{"answer": a, "answer_id": k} for k, a in enumerate(row.question.answers)]
        return module["vqav2"].vqav2_process_results({"question_id": 0, "answers": answers}, [row.answer])[
            "exact_match"
        ]

    def mmmu(row: Row) -> float:
        index, letters = module["mmmu"].get_multi_choice_info(list(row.question.options))
        return float(module["mmmu"].parse_multi_choice_response(row.answer, letters, index) == row.question.answers[0])

    def mmmu_open(row: Row) -> float:
        return float(module["mmmu"].eval_open(row.question.answers[0], module["mmmu"].parse_open_response(row.answer)))

    def mmbench_static(row: Row) -> float:
        choices = dict(zip("ABCD", row.question.options, strict=False))
        found = mmbench.can_infer(row.answer, dict(choices)) or extract(row.answer, choices=sorted(choices))
        return float(found == row.question.answers[0])

    def exact_match(row: Row) -> float:
        return max(
            float(
                metrics.exact_match_hf_evaluate([row.answer], [a], ignore_case=True, ignore_punctuation=True)[
                    "exact_match"
                ]
            )
            for a in row.question.answers
        )

    def ai2d_match(row: Row) -> float:
        found = ai2d.apply([[row.answer]], [{}])[0]
        return exact_match(row._replace(answer=found))

    def ocrbench(row: Row) -> float:
        math = row.question.category == HANDWRITTEN_MATH
        document = {
            "answer": list(row.question.answers),
            "dataset": "HME100k" if math else "x",
            "question_type": row.question.category,
        }
        return float(module["ocrbench"].ocrbench_process_results(document, [row.answer])["ocrbench_accuracy"]["score"])

    def iou(row: Row) -> float:
        found = boxes.parse_float_sequence_within(row.answer)
        try:
            return max(0.0, boxes.compute_iou(found, json.loads(row.question.answers[0])))
        except ZeroDivisionError:
            return 0.0

    def fields(row: Row) -> float:
        given, wanted = kie._parse_pred_and_gt({"pred": row.answer, "gt": row.question.answers[0], "image_name": "i"})
        return kie._cal_f1_over_samples({"i": given}, {"i": wanted})

    pope = module["pope"].pope_process_results
    return {
        "chartqa": lambda row: max(
            float(module["chartqa"].relaxed_correctness(row.answer, a)) for a in row.question.answers
        ),
        "docvqa": lambda row: metrics.anls(list(row.question.answers), [row.answer])["anls"],
        "textvqa": lambda row: module["textvqa"].textvqa_process_results(
            {"question_id": 0, "answers": list(row.question.answers)}, [row.answer]
        )["exact_match"],
        "vqav2": vqav2,
        "mmmu": mmmu,
        "mmmu open": mmmu_open,
        "mmbench": mmbench_static,
        "mmstar": lambda row: module["mmstar"].exact_match(row.answer, row.question.answers[0]),
        "ai2d": ai2d_match,
        "ocrbench": ocrbench,
        "pope": lambda row: pope({"answer": row.question.answers[0], "question_id": 0}, [row.answer])["pope_accuracy"][
            "score"
        ],
        "refcoco": iou,
        "refcoco at 0.5": lambda row: float(iou(row) >= 0.5),
        "exact_match": exact_match,
        "countbenchqa": lambda row: module["countbenchqa"].countbenchqa_process_results(
            {"number": row.question.answers[0]}, [row.answer]
        )["acc"],
        "cc_ocr": fields,
    }


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def damaged(text: str, rng: random.Random) -> str:
    """Some letters lost, doubled or changed."""
    letters = list(text)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(letters) + 1)
        match rng.randrange(3):
            case 0 if place < len(letters):
                del letters[place]
            case 1:
                letters.insert(place, rng.choice("aeinrst 0159.,"))
            case _ if place < len(letters):
                letters[place] = letters[place].swapcase()
    return "".join(letters)


def short_answers(rng: random.Random) -> Iterator[tuple[str, str]]:
    """Accepted and given, for the rules that are their own definition."""
    while True:
        accepted = rng.choice(WORDS + NUMBERS)
        answer = rng.choice([accepted, accepted, rng.choice(WORDS + NUMBERS), damaged(accepted, rng), accepted.upper()])
        form = rng.choice(FORMS + SENTENCES)
        yield accepted, form.format(answer)


def defined(rule: Rule, tasks: tuple[str, ...], rng: random.Random) -> Iterator[Row]:
    for k, (accepted, answer) in enumerate(short_answers(rng)):
        yield Row(tasks[k % len(tasks)], Question("", "", (accepted,), rule), answer)


def relaxed(rng: random.Random) -> Iterator[Row]:
    for row in defined(Rule.RELAXED, ("chartqa",), rng):
        if rng.random() < 0.5:
            value = rng.choice([0.0, 1, 7, 12.5, 100, 1234, -5, 0.37])
            given = value * rng.choice([1, 1, 0.95, 1.05, 0.949, 1.051, 1.01, -1, 100, 0.01])
            sign = rng.choice(["", "", "%"])
            answer = rng.choice(FORMS).format(f"{given:g}{rng.choice(['', '', sign])}")
            yield Row("chartqa", Question("", "", (f"{value:g}{sign}",), Rule.RELAXED), answer)
        else:
            yield row


def anls(rng: random.Random) -> Iterator[Row]:
    for row in defined(Rule.ANLS, ("docvqa",), rng):
        more = tuple(rng.choice(WORDS) for _ in range(rng.randrange(3)))
        yield row._replace(question=Question("", "", row.question.answers + more, Rule.ANLS))


def vqa(rng: random.Random) -> Iterator[Row]:
    for row in defined(Rule.VQA, ("textvqa", "vqav2"), rng):
        first = row.question.answers[0]
        others = [rng.choice([first, first, rng.choice(WORDS), damaged(first, rng)]) for _ in range(9)]
        yield row._replace(question=Question("", "", (first, *others), Rule.VQA))


def ocrbench(rng: random.Random) -> Iterator[Row]:
    formulas = [r"\frac { 1 } { 2 }", "x ^ { 2 } + y", "a _ 1 * b * c", "2 * 3 * 4", r"\sqrt { A } \leq b"]
    for row in defined(Rule.OCRBENCH, ("ocrbench",), rng):
        if rng.random() < 0.3:
            accepted = rng.choice(formulas)
            read = rng.choice([accepted, accepted.replace(" ", ""), accepted.lower(), damaged(accepted, rng)])
            answer = rng.choice((*PLAIN, *SENTENCES, "${}$", "<think>2</think>{}", "{}<|im_end|>")).replace("{}", read)
            yield Row("ocrbench", Question("", "", (accepted,), Rule.OCRBENCH, category=HANDWRITTEN_MATH), answer)
        else:
            yield row


OPTIONS = (("a cat", "two dogs", "a bird", "nothing"), ("red", "blue", "green", "yellow"), ("12", "7", "3", "100"))
CHOSEN = [
    "{L}",
    "{L}",
    "{L}.",
    "{L})",
    "({L})",
    "{L}. {T}",
    "{L}) {T}",
    "({L}) {T}",
    "{L}: {T}",
    "Answer: {L}",
    "The answer is {L}.",
    "The answer is ({L}).",
    "The correct answer is {L}. {T}",
    "The correct option is {L}",
    "I think {L}",
    "It shows {T}, so the answer is {L}.",
    "Option {L}",
    "**{L}**",
    "**Answer:** {L}",
    "The answer is **{L}**",
    "<think>First (A), then D.</think>{L}",
    "\\boxed{{{L}}}",
    "答案是{L}",
    "答案：{L}",
    "正解は{L}",
    "{l}",
    "({l})",
    "{l}) {T}",
    "{l}. {T}",
    "The answer is {l}",
    "{L}<",
    "im_end",
    ">",
    "{L}",
    "[{L}]",
    '"{L}"',
    "{L}, because it is {T}.",
    "my answer: {L}",
    "Looking at the picture, I would choose {L}.",
    "{N} is wrong, so ({L}).",
    "Not {N}. The answer is {L}.",
    "The final answer is: {L}",
    "This is a cat, so the answer is {L}.",
    "{L} is the correct answer.",
    "{T}",
    "It is {T} in this picture, as one can see well.",
    "The answer is not {N} but {L}.",
    "Réponse : {L}",
    "La respuesta es {L}",
    "정답은 {L}",
    "Ответ: {L}",
]
NONE = [
    "A man is walking.",
    "I see none of these.",
    "Dogs",
    "Cats and Dogs",
    "Blank",
    "I do not know.",
    "A and B",
    "Both A and B are right.",
    "",
    "Are you sure?\n",
    "Every option is wrong.",
    "Can you send the picture again?",
    "A. a cat\nB. two dogs\nC. a bird\nD. nothing",
    "All",
    "A big Apple on a Chair",
]


def choice(rng: random.Random) -> Iterator[Row]:
    tasks = itertools.cycle(("mmstar", "mmmu", "mmbench", "ai2d"))
    while True:
        options = rng.choice(OPTIONS)
        place, other, accepted = rng.randrange(4), rng.randrange(4), rng.randrange(4)
        letter, wrong = "ABCD"[place], "ABCD"[other if other != place else (place + 1) % 4]
        accepted = place if rng.random() < 0.6 else accepted
        question = Question("", "", ("ABCD"[accepted],), Rule.CHOICE, options=options)
        if rng.random() < 0.12:
            yield Row(next(tasks), question, rng.choice(NONE), 0.0)
            continue
        form = rng.choice(CHOSEN)
        answer = form.format(L=letter, l=letter.lower(), T=options[place], N=wrong)
        yield Row(next(tasks), question, answer, float(place == accepted))


def yes_no(rng: random.Random) -> Iterator[Row]:
    forms = (
        "{}|{}|{}|{}.|{}, there is @.|{}, I see @ in the picture|**{}**|**{}**, there is @|Answer: {}|The answer is {}"
        "|<think>@? no, yes</think>{}|{}!|'{}'|{}<|im_end|>|{}, @|Is there @? {}|{}\n|Looking for @: {}"
    )
    nouns = ("dog", "car", "table", "bird", "person", "knife", "glass", "sign", "chair", "traffic light")
    things = [f"a {word} {noun}" for word in ("red", "small", "wooden", "second", "nice") for noun in nouns]
    neither = ("There might be.", "", "I do not know", "yes and no", "nothing", "yesterday")
    while True:
        accepted, word = rng.choice(["yes", "no"]), rng.choice(["yes", "no"])
        question = Question("", "", (accepted,), Rule.YES_NO)
        if rng.random() < 0.1:
            answer = rng.choice(neither)
            yield Row("pope", question, answer, float(answer == "yes and no" and accepted == "yes"))
        else:
            case = rng.choice([str.lower, str.title, str.upper])
            yield Row(
                "pope",
                question,
                rng.choice(forms.replace("<|im_end|>", "</s>").split("|"))
                .replace("@", rng.choice(things))
                .format(case(word)),
                float(word == accepted),
            )


def iou(rule: Rule, rng: random.Random) -> Iterator[Row]:
    task = "refcoco" if rule is Rule.IOU else "refcoco at 0.5"

    def box() -> list[float]:
        left, top = rng.uniform(0, 0.6), rng.uniform(0, 0.6)
        return [left, top, left + rng.uniform(0.1, 0.4), top + rng.uniform(0.1, 0.4)]

    forms = {  # scale of the numbers, and how they are written: 0 left, 1 top, 2 right, 3 bottom
        "[{0}, {1}, {2}, {3}]": 1,
        "[{0},{1},{2},{3}]": 1,
        "The box is [{0}, {1}, {2}, {3}].": 1,
        "**[{0}, {1}, {2}, {3}]**": 1,
        "<think>[0.1, 0.1, 0.2, 0.2]</think>[{0}, {1}, {2}, {3}]": 1,
        '{{"bbox": [{0}, {1}, {2}, {3}]}}': 1,
        "({0}, {1}, {2}, {3})": 1,
        '{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "cat"}}': 1000,
        '```json\n[{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "2 cats"}}]\n```': 1000,
        '[{{"box_2d": [{1}, {0}, {3}, {2}], "label": "cat"}}]': 1000,
        "<ref>the cat</ref><box>[[{0}, {1}, {2}, {3}]]</box>": 1000,
        "<|object_ref_start|>cat<|object_ref_end|><|box_start|>({0},{1}),({2},{3})<|box_end|>": 1000,
        "<loc{1:04d}><loc{0:04d}><loc{3:04d}><loc{2:04d}> cat": 1024,
    }
    while True:
        accepted = [round(corner, 4) for corner in box()]
        given = rng.choice([box(), [corner + rng.uniform(-0.06, 0.06) for corner in accepted], accepted])
        given = [min(1.0, max(0.0, corner)) for corner in given]
        form = rng.choice(list(forms)[:3] * 6 + list(forms))
        scale = forms[form]
        written = [round(c, 3) if scale == 1 else min(scale - 1, round(c * scale)) for c in given]
        question = Question("", "", (json.dumps(accepted),), rule)
        if rng.random() < 0.05:
            yield Row(task, question, rng.choice(["no box", "", "[0.1, 0.2]", "There are 2 cats", "[0, 0, 0, 0]"]), 0.0)
        else:
            overlap = _overlap([c / scale for c in written], accepted)
            yield Row(task, question, form.format(*written), overlap if rule is Rule.IOU else float(overlap >= 0.5))


def _overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    shared = max(0.0, width) * max(0.0, height)
    return shared / (sum(area) - shared) if min(area) > 0 else 0.0


def exact(rng: random.Random) -> Iterator[Row]:
    for row in defined(Rule.EXACT, ("exact_match", "exact_match", "countbenchqa"), rng):
        if row.task == "countbenchqa":
            accepted = str(rng.randrange(12))
            given = rng.choice([accepted, accepted, str(rng.randrange(12)), f"{accepted} dogs"])
            answer = rng.choice(FORMS).format(given)
            yield Row(row.task, Question("", "", (accepted,), Rule.EXACT), answer, float(given == accepted))
        else:
            yield row


def contains(rng: random.Random) -> Iterator[Row]:
    yield from defined(Rule.CONTAINS, ("ocrbench",), rng)


def number(rng: random.Random) -> Iterator[Row]:
    forms = [
        *("{}", "{}", "{}.", "{} dogs", "There are {} dogs.", "The answer is {}.", "In 2023 the total was {}", "{}\n"),
        *("about {}", "x = {}", "Total: {}", "**{}**", "${}", "{} €", "<think>4 or 5</think>{}", "The value is {}"),
        *("It shows {} people and a car", "{}<|im_end|>", "Answer: {}", "2 + 2 = {}", "So the result is {}"),
    ]
    same = {
        3: ["3", "three", "Three", "3.0", "03"],
        12: ["12", "twelve", "12.0"],
        1000: ["1000", "1,000", "1 000", "1e3", "1\u202f000", "1'000"],
        1234.5: ["1234.5", "1,234.5", "1.234,5", "1 234,5", "1234.50"],
        -5: ["-5", "−5", "-5.0"],
        0.5: ["0.5", "50%", ".5", "0.50", "50 %"],
        23: ["23", "twenty-three", "23.0"],
    }
    while True:
        value, other = rng.choice(list(same)), rng.choice(list(same))
        given = value if rng.random() < 0.7 else other
        question = Question("", "", (f"{value:g}",), Rule.NUMBER)
        answer = rng.choice(forms).format(rng.choice(same[given]))
        yield Row("mmmu open", question, answer, float(given == value))


def fields(rng: random.Random) -> Iterator[Row]:
    names = ("company", "date", "total", "items", "address")
    while True:
        accepted: dict[str, Any] = {
            name: rng.choice([rng.choice(WORDS), rng.choice(NUMBERS), rng.randrange(100)])
            for name in rng.sample(names, 3)
        }
        if rng.random() < 0.4:
            accepted["lines"] = [
                {"name": rng.choice(WORDS), "price": rng.choice(NUMBERS)} for _ in range(rng.randrange(1, 4))
            ]
        given = json.loads(json.dumps(accepted))
        for name in list(given):
            match rng.randrange(8):
                case 0:
                    del given[name]
                case 1:
                    given[name] = rng.choice(WORDS)
                case 2:
                    given[f"{name}_2"] = given.pop(name)
                case 3:
                    given[name] = "" if isinstance(given[name], str) else given[name]
        form = rng.choice(
            ("{}", "{}", "{}", "```json\n{}\n```", "```json\n{}", '<think>{"total": 1}</think>{}', "Here it is: {}")
        )
        indent = rng.choice([None, None, 2])
        text = json.dumps(given, ensure_ascii=rng.random() < 0.5, indent=indent)
        if rng.random() < 0.03:
            text = text[: len(text) // 2]
        question = Question("", "", (json.dumps(accepted, ensure_ascii=False),), Rule.JSON)
        yield Row("cc_ocr", question, form.replace("{}", text))


SOURCES: dict[Rule, Callable[[random.Random], Iterator[Row]]] = {
    Rule.RELAXED: relaxed,
    Rule.ANLS: anls,
    Rule.VQA: vqa,
    Rule.OCRBENCH: ocrbench,
    Rule.CHOICE: choice,
    Rule.YES_NO: yes_no,
    Rule.IOU: lambda rng: iou(Rule.IOU, rng),
    Rule.IOU_AT_HALF: lambda rng: iou(Rule.IOU_AT_HALF, rng),
    Rule.EXACT: exact,
    Rule.CONTAINS: contains,
    Rule.NUMBER: number,
    Rule.JSON: fields,
}


def why(row: Row, ours: float, peers: dict[str, Callable[[Row], float]]) -> str:
    """A key of DIFFERENCES; "?" where nothing explains it."""
    rule, peer = row.question.rule, peers[row.task]
    text = scored_text(rule, row.answer)
    if same(peer(row._replace(answer=text)), ours):
        return "taken off"
    if row.meant is not None:
        return "read" if abs(row.meant - ours) < 2e-3 else "?"
    accepted = row.question.answers[0]
    match rule:
        case Rule.EXACT if ours < peer(row) or plain(text) == plain(accepted):
            return "spelling"
        case Rule.CONTAINS if ours < peer(row):
            return "whole words"
        case Rule.CONTAINS if plain(accepted) in plain(text):
            return "spelling"
        case Rule.JSON if same(peer(row._replace(answer=json.dumps(document_of(text)))), ours):
            return "read"
        case Rule.VQA if row.task == "vqav2" and same(peers["textvqa"](row._replace(answer=text)), ours):
            return "textvqa"
        case _:
            return "?"


def same(a: float, b: float) -> bool:
    return abs(a - b) < 1e-5


def main() -> None:
    peers, rng = ask_peers(), random.Random(16)
    lines, counts, strange = [], Counter[tuple[str, str]](), []
    for rule, source in SOURCES.items():
        keys = set()
        for row in itertools.islice(source(rng), 40 * ROWS):
            if len(keys) == ROWS:
                break
            key = (row.task, row.question, row.answer)
            if key in keys:
                continue
            keys.add(key)
            ours, theirs = score(row.question, row.answer), float(peers[row.task](row))
            assert ours is not None  # each row has accepted answers
            reason = "" if same(ours, theirs) else why(row, ours, peers)
            if reason == "?":
                strange.append((row.task, row.question.answers[0], row.answer, ours, theirs, row.meant))
            counts[rule, reason] += 1
            question = {"answers": row.question.answers} | (
                {"options": row.question.options} if row.question.options else {}
            )
            question |= {"category": row.question.category} if row.question.category else {}
            line = {"rule": rule, "task": row.task, **question, "answer": row.answer, "peer": round(theirs, 9)}
            lines.append(line | ({"why": reason, "score": round(ours, 9)} if reason else {}))
    for (rule, reason), n in sorted(counts.items()):
        print(f"{rule:12} {reason or 'the same':12} {n}")
    for entry in strange[:60]:
        print(*map(repr, entry))
    print(len(strange), "unexplained")
    text = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
    FILE.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(FILE.name, len(lines), FILE.stat().st_size)


if __name__ == "__main__":
    main()
