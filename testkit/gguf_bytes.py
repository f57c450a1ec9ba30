"""GGUF files written byte by byte, so that each of them can lie in one place."""

from __future__ import annotations

import random
import struct

UINT8, UINT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 0, 4, 6, 7, 8, 9, 10
F32, F16 = 0, 1


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(key: str, kind: int, count: int, values: bytes = b"") -> bytes:
    return pair(key, ARRAY, struct.pack("<IQ", kind, count) + values)


def tensor(name: str, shape: tuple[int, ...], kind: int = F32, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def gguf(
    entries: list[bytes], tensors: list[bytes], data: bytes = b"", *, version: int = 3, alignment: int = 32
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries)) + b"".join(entries + tensors)
    return head + bytes(-len(head) % alignment) + data


NAME = pair("general.name", STRING, text("a model"))
GOOD = gguf([NAME], [tensor("w", (4,))], bytes(16))


def mutate(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 16])):
        at = draw.randrange(len(changed))
        how = draw.randrange(10)
        if how < 4:
            changed[at] ^= 1 << draw.randrange(8)
        elif how < 6:
            changed[at] = draw.randrange(256)
        elif how < 9:
            length = draw.choice([1, 2, 4, 8, 16])
            changed[at : at + draw.choice([0, length])] = b"\xff" * length
        else:
            del changed[max(at, 1) :]
    return bytes(changed)


def rich() -> bytes:
    """Every kind of value and several tensors in 700 bytes, so that a mutation hits something that counts."""
    values = {0: b"\1", 1: b"\2", 2: b"\3\0", 3: b"\4\0", 4: bytes(4), 5: bytes(4), 6: bytes(4), 7: b"\1"}
    values |= {STRING: text("word"), UINT64: bytes(8), 11: bytes(8), 12: bytes(8)}
    entries = [pair(f"k{kind}", kind, value) for kind, value in values.items()]
    entries += [array(f"tokenizer.a{kind}", kind, 3, 3 * values[kind]) for kind in (UINT8, BOOL, STRING, UINT64)]
    entries += [
        pair("general.architecture", STRING, text("llama")),
        pair("general.file_type", UINT32, struct.pack("<I", 1)),
        pair("general.alignment", UINT32, struct.pack("<I", 32)),
        pair("llama.embedding_length", UINT32, struct.pack("<I", 256)),
    ]
    tensors = [tensor("a", (4, 2, 2, 1)), tensor("b", (256, 2), 12, 64), tensor("c", (32,), F16, 352)]
    return gguf(entries, tensors, bytes(416))


def language_with_a_large_vocabulary() -> bytes:
    """As Qwen's converters write it: 151,936 tokens, 151,387 merges; a header of 6 MB, and a tensor of nothing."""
    words = [f"token {n} " + "x" * (n % 7) for n in range(151_936)]
    entries = [
        pair("general.architecture", STRING, text("qwen3vl")),
        pair("general.type", STRING, text("model")),
        pair("general.name", STRING, text("Qwen3-VL 4B")),
        *(pair(f"general.tag{n}", STRING, text("a tag")) for n in range(20)),
        pair("qwen3vl.embedding_length", UINT32, struct.pack("<I", 2560)),
        pair("qwen3vl.n_deepstack_layers", UINT32, struct.pack("<I", 3)),
        pair("tokenizer.ggml.model", STRING, text("gpt2")),
        array("tokenizer.ggml.tokens", STRING, len(words), b"".join(map(text, words))),
        array("tokenizer.ggml.token_type", UINT32, len(words), struct.pack("<I", 1) * len(words)),
        array("tokenizer.ggml.merges", STRING, 151_387, b"".join(text(f"a {n}") for n in range(151_387))),
        pair("tokenizer.chat_template", STRING, text("{{ messages }}" * 500)),
    ]
    return gguf(entries, [tensor("token_embd.weight", (256,))], bytes(4 * 256) + bytes(20 * 2**20))
