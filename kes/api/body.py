"""Request bodies, read as the original reads them: as Go's encoding/json decodes the first JSON value into a struct.

- Names match without regard to case, and the last of several wins. Unknown ones are skipped, whatever their value is.
- Byte strings are base64 with padding, in which CR and LF are ignored, or lists of numbers. `null` empties them.
- Texts stay as they are at `null`. Lone surrogates and bytes that are not UTF-8 become U+FFFD.
- Values nest at most 10,000 levels deep. What follows the first value is ignored.

A body whose names are spelled as documented is decoded by msgspec, which gives the same result for all that it accepts.
What it refuses is read here, without recursion and in time proportional to the size of the body.
"""

from __future__ import annotations

import json
import re
from binascii import a2b_base64
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

MAX_DEPTH = 10_000  # levels of lists and objects, the outermost included


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """What a request's body may hold. A field is a `str`, or `bytes | None` where None means the same as b""."""


B = TypeVar("B", bound=Body)


class _Invalid(Exception):
    """The body is no JSON of the right types. It gives no reason, as that could quote a secret."""


def body_decoder(body_type: type[B], error: type[Exception], *, optional: bool = False) -> Callable[[bytes], B]:
    """A function from a request's body to `body_type`, which raises `error` for an invalid one.

    `optional`: an empty body means one without fields.
    """
    decode = msgspec.json.Decoder(body_type).decode
    kinds = {field.name: _Text if field.type is str else _Bytes for field in msgspec.structs.fields(body_type)}
    strings = _strings(kinds)

    def read(body: bytes) -> B:
        try:
            return decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        if optional and not body:
            return body_type()
        values = {name: kind() for name, kind in kinds.items()}
        try:
            _read(body, strings, values)
        except _Invalid:
            raise error from None
        return body_type(**{name: value.get() for name, value in values.items()})

    return read


# The values of fields. Each is given everything that a body has for it, in order.


class _Text:
    def __init__(self) -> None:
        self._text = ""

    def get(self) -> str:
        return self._text

    def set_null(self) -> None:
        """Nothing changes."""

    def set_string(self, literal: bytes) -> None:
        self._text = _unquote(literal)

    def set_list(self, _items: bytes) -> None:
        raise _Invalid


class _Bytes:
    """A byte string. A list overwrites what was there before, and `null` in it leaves the byte as it was."""

    def __init__(self) -> None:
        self._memory = bytearray()
        self._size = 0

    def get(self) -> bytes:
        return bytes(self._memory[: self._size])

    def set_null(self) -> None:
        self._memory, self._size = bytearray(), 0

    def set_string(self, literal: bytes) -> None:
        encoded = literal[1:-1]
        if b"\\" in encoded:
            encoded = _unquote(literal).replace("\r", "").replace("\n", "").encode()
        if len(encoded) % 4 or not _BASE64.fullmatch(encoded):
            raise _Invalid
        self._memory = bytearray(a2b_base64(encoded))
        self._size = len(self._memory)

    def set_list(self, items: bytes) -> None:
        if not items.strip(_BLANKS):
            self.set_null()
            return
        try:
            numbers: list[Any] = [_NUMBERS[item.strip(_BLANKS)] for item in items.split(b",")]
        except KeyError:
            raise _Invalid from None
        self._size = len(numbers)
        if None in numbers:
            before = self._memory[: self._size].ljust(self._size, b"\0")
            numbers = [old if new is None else new for old, new in zip(before, numbers, strict=True)]
        self._memory[: self._size] = bytes(numbers)


_BLANKS = b" \t\r\n"
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_NUMBERS: dict[bytes, int | None] = {b"null": None} | {b"%d" % number: number for number in range(256)}


def _unquote(literal: bytes) -> str:
    """The text of a JSON string that has no syntax error."""
    # Each byte that is not UTF-8 becomes a lone surrogate. The text may have other lone surrogates, as escapes.
    text, _ = _decode_json(literal.decode("utf-8", "surrogateescape"))
    return _SURROGATE.sub("\ufffd", text)


_decode_json = json.JSONDecoder().raw_decode
_SURROGATE = re.compile("[\ud800-\udfff]")


# The syntax. A body is turned into tokens of one byte each: its brackets and commas, and these. `_mask` replaces any
# such byte that a client sent, so that none can be taken for a token. Until it is checked, it is text with a character
# for each byte, as to join the pieces of a substitution takes a tenth of the memory that it takes for bytes.
_ESCAPE = "\x01"  # in strings, in place of the backslash
_VALUE = "\x02"  # a string, a number, true, false or null
_NAME = "\x03"  # a member's name with its colon
_FIELD = "\x04"  # the same, where it is the name of a field
_FIRST_NAME, _FIRST_FIELD = "\x05", "\x06"  # an object's bracket and its first name
_NEXT_NAME, _NEXT_FIELD = "\x07", "\x08"  # a comma and the next name

_WS = r"[ \t\r\n]*"
_STRING = r'"[^"\\\x00\t\r\n]*"'  # in a masked body
_CONTROLS = bytes(0 if byte < 0x20 and byte not in _BLANKS else byte for byte in range(256))
_SHORT_ESCAPE = re.compile(r'\\["\\/bfnrt]')
_HEX_ESCAPE = re.compile(r"\\u(?=[0-9a-fA-F]{4})")
_SCALAR = r"(?:\x02|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)"
# One, or up to 101 in a list. More would take more memory for one match.
_SCALARS = re.compile(rf"(?<=[\[,]){_WS}{_SCALAR}(?:{_WS},{_WS}{_SCALAR}){{0,100}}|{_SCALAR}")
_REPEATED = re.compile(r"([,\x07])\1+")
_NULL = re.compile(_WS + "null")
_FIELD_VALUE = re.compile(rf"{_WS}(?:(null)|({_STRING})|\[([0-9nul, \t\r\n]*)\])")

# Tokens that cannot follow one another, the first before the second in each line.
_MISPLACED = re.compile(
    r"[\x05-\x08,][^\x02\x05\x06\[{]"  # a value has to come
    r"|\[[^\x02\x05\x06\[{\]]"
    r"|\{[^}]"
    r"|[\x02\]}][^\x07\x08,\]}]"  # a value has ended
)


def _mask(body: bytes) -> str:
    r"""`body` without escapes, in the same length, so that a string ends at the next quote.

    An escape is replaced with U+0001 twice, the `\u` of `\uXXXX` with U+0001 and `u`. Control characters become U+0000.
    Neither it nor a backslash that begins no escape can be part of a string.
    """
    text = body.translate(_CONTROLS).decode("latin-1")
    if "\\" in text:
        text = _HEX_ESCAPE.sub(_ESCAPE + "u", _SHORT_ESCAPE.sub(_ESCAPE * 2, text))
    return text


def _strings(fields: Iterable[str]) -> re.Pattern[str]:
    """The pattern of strings. Names have their colon; those of fields are in a group each, others in the last one."""
    rest, colon = _STRING.removeprefix('"'), _WS + ":"
    names = [f'(?P<{name}>{"".join(map(_letter, name))}"{colon})' for name in fields]
    # With the quote in front of the alternatives, the search for it is fast.
    return re.compile('"(?:' + "|".join([*names, f"(?P<_>{rest}{colon})", rest]) + ")")


def _letter(letter: str) -> str:
    """The pattern of everything that equals a lower-case ASCII letter by Unicode's simple case folding."""
    forms = []
    for character in letter + letter.upper() + _ALSO_EQUAL.get(letter, ""):
        digits = "".join(f"[{digit}{digit.upper()}]" for digit in f"{ord(character):04x}")
        forms += [character.encode().decode("latin-1"), f"{_ESCAPE}u{digits}"]
    return f"(?:{'|'.join(forms)})"


_ALSO_EQUAL = {"k": "\N{KELVIN SIGN}", "s": "\N{LATIN SMALL LETTER LONG S}"}


def _read(body: bytes, strings: re.Pattern[str], values: dict[str, _Text | _Bytes]) -> None:
    """Give `values` what the body has for them."""
    text = _mask(body)
    if _NULL.match(text):
        return
    fields: list[tuple[str, int]] = []  # members with the name of a field, at any depth, and where their values begin

    def token(string: re.Match[str]) -> str:
        group = string.lastgroup
        if group is None:
            return _VALUE
        if group == "_":
            return _NAME
        fields.append((group, string.end()))
        return _FIELD

    tokens = _SCALARS.sub(_VALUE, strings.sub(token, text))
    for blank in " \t\r\n":
        tokens = tokens.replace(blank, "")
    tokens = tokens.replace("{" + _NAME, _FIRST_NAME).replace("{" + _FIELD, _FIRST_FIELD)
    tokens = tokens.replace("," + _NAME, _NEXT_NAME).replace("," + _FIELD, _NEXT_FIELD)
    for number in _check(tokens):
        name, at = fields[number]
        found = _FIELD_VALUE.match(text, at)
        if found is None:
            raise _Invalid
        value = values[name]
        if found[1]:
            value.set_null()
        elif found[2]:
            value.set_string(body[found.start(2) : found.end(2)])
        else:
            value.set_list(body[found.start(3) : found.end(3)])


def _check(tokens: str) -> list[int]:
    """Check the object that tokens begin with. Returns which of all fields in the tokens are its own members."""
    if tokens[:1] not in ("{", _FIRST_NAME, _FIRST_FIELD):
        raise _Invalid
    misplaced = _MISPLACED.search(tokens)
    if misplaced is not None:
        tokens = tokens[: misplaced.start() + 1]  # the rest only matters if the object does not end before it
    # Here a body may have a million tokens. Local names and this order make them take half the time.
    list_, list_end, object_end, comma, next_name = map(ord, "[]}," + _NEXT_NAME)
    next_field, first_field = map(ord, _NEXT_FIELD + _FIRST_FIELD)
    outer: list[int] = []  # the ends of the lists and objects around the innermost one
    end = 0  # that of the innermost one; 0 outside
    own: list[int] = []
    fields = 0
    for token in _REPEATED.sub(r"\1", tokens.replace(_VALUE, "")).encode("latin-1"):
        if token == list_:
            outer.append(end)
            end = list_end
            if len(outer) > MAX_DEPTH:
                break
        elif token in (list_end, object_end):
            if token != end:
                break
            end = outer.pop()
            if not end:
                return own
        elif token == comma:
            if end != list_end:
                break
        elif token in (next_name, next_field):
            if end != object_end:
                break
            if token == next_field:
                if len(outer) == 1:
                    own.append(fields)
                fields += 1
        else:
            outer.append(end)
            end = object_end
            if len(outer) > MAX_DEPTH:
                break
            if token == first_field:
                if len(outer) == 1:
                    own.append(fields)
                fields += 1
    raise _Invalid
