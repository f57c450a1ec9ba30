"""Reads JSON of strangers in pieces: msgspec and json hold the interpreter's lock, and every other thread stands still.

Pure.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

_PIECE = 500_000  # bytes that are decoded at once: some milliseconds
_LONGEST_NUMBER = 40  # characters; a float has 25
_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_NUMBER = rb"[\[,:\s](-?(?:\d{16,}[\d.]*|\d[\d.]{%d,}|\d[\d.]*[eE]\+?\d)\d*(?:[eE][+-]?\d+)?)" % _LONGEST_NUMBER
_LARGE = re.compile(_NUMBER)
_STRING_OR_LARGE = re.compile(_STRING + b"|" + _NUMBER, re.DOTALL)
_MARK = re.compile(_STRING + rb'|[\[\]{},"]', re.DOTALL)

_T = TypeVar("_T")


def decode(raw: bytes | msgspec.Raw, kind: type[_T]) -> _T:
    """As msgspec.json.decode. Raises msgspec.MsgspecError."""
    value: _T = _value(bytes(raw), kind)
    return value


def _value(raw: bytes, kind: Any) -> Any:
    fields = _fields(kind)
    if len(raw) <= _PIECE or not fields:
        return msgspec.json.decode(raw, type=kind)
    if isinstance(fields, dict):
        parts = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        known = {name: _value(bytes(part), fields[name]) for name, part in parts.items() if name in fields}
        try:
            return _struct(kind)(**known)
        except TypeError as error:  # a field is missing
            raise msgspec.ValidationError(str(error)) from None
    (element,) = fields
    values: list[Any] = []
    for piece in _pieces(msgspec.json.decode(raw, type=list[msgspec.Raw])):
        if len(piece) == 1:
            values.append(_value(bytes(piece[0]), element))
        else:
            values += msgspec.json.decode(b"[" + b",".join(map(bytes, piece)) + b"]", type=list[element])  # type: ignore[valid-type]
    return tuple(values)


def _pieces(elements: list[msgspec.Raw]) -> Iterator[list[msgspec.Raw]]:
    piece: list[msgspec.Raw] = []
    size = 0
    for element in elements:
        length = len(bytes(element))
        if piece and size + length > _PIECE:
            yield piece
            piece, size = [], 0
        piece.append(element)
        size += length
    if piece:
        yield piece


@functools.cache
def _fields(kind: Any) -> dict[str, Any] | tuple[Any] | None:
    """The types of a struct's fields, or of a tuple's elements; None: a value of this type is read as a whole."""
    inner = _struct(kind)
    if typing.get_origin(inner) is tuple and typing.get_args(inner)[1:] == (...,):
        return typing.get_args(inner)[:1]
    if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
        config = inner.__struct_config__
        return None if config.tag or config.forbid_unknown_fields else typing.get_type_hints(inner)
    return typing.get_type_hints(inner) if dataclasses.is_dataclass(inner) else None


def _struct(kind: Any) -> Any:
    """Without "or None"."""
    if typing.get_origin(kind) not in (types.UnionType, typing.Union):
        return kind
    kinds = [one for one in typing.get_args(kind) if one is not type(None)]
    return kinds[0] if len(kinds) == 1 else None


def has_number_above(raw: bytes, most: int) -> bool:
    """Whether there is a number, not in a string, of a larger amount."""
    begins = range(0, len(raw), _PIECE)
    if not any(_LARGE.search(raw, max(0, at - 2 * _LONGEST_NUMBER), at + _PIECE) for at in begins):
        return False  # in most files there is none in a string either
    numbers = (match[1] for match in _STRING_OR_LARGE.finditer(raw) if match[1])
    return any(_amount(number) > most for number in numbers)


def _amount(number: bytes) -> float:
    try:
        return abs(float(number))
    except ValueError:  # "1.2.3": whoever decodes it says so
        return 0.0


def elements(raw: bytes, begin: int) -> Iterator[bytes]:
    """The elements of an array whose first one begins there, as far as brackets and quotes fit."""
    depth, start = 0, begin
    for mark in _MARK.finditer(raw, begin):
        sign = mark[0]
        if sign in (b"[", b"{"):
            depth += 1
        elif sign == b"," and not depth:
            yield raw[start : mark.start()]
            start = mark.end()
        elif sign in (b"]", b"}"):
            if not depth:
                if raw[start : mark.start()].strip():
                    yield raw[start : mark.start()]
                return
            depth -= 1
        elif sign == b'"':  # of a string that does not end
            return
    if not depth and raw[start:].lstrip().startswith(b"{"):
        yield raw[start:]
