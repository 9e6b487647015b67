"""Keys: they identify names in the heap of a block and in its index.

A key is category, metric, and label names and values, in UTF-8, joined by NUL bytes (which none of them may contain),
with labels sorted by name. The key of a metric's family is the metric's with one more NUL.
"""

from __future__ import annotations

from ..series import Labels

#: The value of every label of the overflow set, which counts label sets beyond the limit.
OVERFLOW = "__overflow__"
_OVERFLOW = OVERFLOW.encode()

MAX_TEXT_BYTES = 255


def check_text(what: str, text: object) -> str:
    """Check one part of a name.

    Args:
        what: the argument's name, for the error.
        text: 1 to 255 bytes of UTF-8 as a str, without NUL or lone surrogates.

    Returns:
        The text, as an exact str.

    Raises:
        TypeError: it is not a str.
        ValueError: it breaks one of the rules.
    """
    if type(text) is str and text.isascii() and 0 < len(text) <= MAX_TEXT_BYTES and "\0" not in text:
        return text
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {type(text).__name__} ({text!r:.80})")
    text = str.__str__(text)  # the characters, whatever str() of a subclass returns
    if not text:
        raise ValueError(f"{what} must not be empty")
    if "\0" in text:
        raise ValueError(f"{what} must not contain a NUL character: {text!r:.80}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} must not contain a lone surrogate: {text!a:.80}") from None
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"{what} must be at most {MAX_TEXT_BYTES} bytes of UTF-8, not {size}: {text!r:.80}…")
    return text


def encode_key(category: str, metric: str, labels: Labels = ()) -> bytes:
    """Return the key of a name with checked parts."""
    if not labels:
        return f"{category}\0{metric}".encode()
    return "\0".join((category, metric, *(part for pair in labels for part in pair))).encode()


def decode_key(key: bytes) -> tuple[str, str, Labels]:
    """Return category, metric and labels of a key."""
    category, metric, *rest = key.decode().split("\0")
    return category, metric, tuple(zip(rest[::2], rest[1::2], strict=True))


def label_names(key: bytes) -> tuple[str, ...]:
    """Return the label names of a key."""
    return tuple(name for name, _ in decode_key(key)[2])


def family_key(key: bytes) -> bytes:
    """Return the key of the family of the name with that key, whether or not it has one."""
    category, metric, *_ = key.split(b"\0", 2)
    return b"\0".join((category, metric, b""))


def is_labelled(key: bytes) -> bool:
    """Tell whether the name with that key has labels."""
    return key.count(b"\0") > 2


def is_overflow(key: bytes) -> bool:
    """Tell whether that is the key of an overflow set."""
    return _OVERFLOW in key and key == overflow_key(key)


def overflow_key(key: bytes) -> bytes:
    """Return the key of the overflow set for a labelled name beyond the limit."""
    category, metric, labels = decode_key(key)
    return encode_key(category, metric, tuple((name, OVERFLOW) for name, _ in labels))
