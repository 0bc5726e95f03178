"""One stored byte string for each message: what goes over the wire must not change unawares.

golden.txt holds pairs of lines, a message as Python writes it and the frame that carries it as request 1.
`python -m tests.protocol.golden` adds messages that are missing, filled from the types of their fields, and leaves
the others as they are: a stored frame that a later version cannot read any more is a break of the protocol.
"""

from __future__ import annotations

import itertools
import typing
from pathlib import Path

import msgspec

from mirror.protocol import messages as m
from mirror.protocol.frame import encode_frame
from tests.protocol.strategies import ALL_MESSAGES

GOLDEN = Path(__file__).with_name("golden.txt")


def load() -> list[tuple[m.Message, bytes]]:
    """The stored messages and their frames."""
    lines = GOLDEN.read_text().splitlines() if GOLDEN.exists() else []
    return [
        # The file is our own, and its lines are what repr gave.
        (eval(text, dict(vars(m))), bytes.fromhex(frame))
        for text, frame in zip(lines[::2], lines[1::2], strict=True)
    ]


def sample(kind: type[msgspec.Struct], numbers: typing.Iterator[int]) -> msgspec.Struct:
    """A message whose fields all differ, in every width of integer."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    return kind(*(_value(field.name, field.type, numbers) for field in info.fields))


def _value(name: str, kind: msgspec.inspect.Type, numbers: typing.Iterator[int]) -> object:
    inspect = msgspec.inspect
    match kind:
        case inspect.BoolType():
            return True
        case inspect.IntType(le=None, ge=None):
            return -next(numbers)
        case inspect.IntType(le=most):
            number = next(numbers)
            return number if most is None else number % (most + 1)
        case inspect.StrType():
            return f"the {name}: ¿ä?"
        case inspect.BytesType(min_length=4):
            return bytes([10, 0, 0, next(numbers) % 256])
        case inspect.BytesType():
            return b"/the/" + name.encode() + b"\xff"
        case inspect.VarTupleType(item_type=item):
            return tuple(_value(name, item, numbers) for _ in range(2))
        case inspect.DictType(key_type=key, value_type=value):
            return {_value("key", key, numbers): _value("value", value, numbers)}
        case inspect.UnionType(types=types):
            return _value(name, next(one for one in types if not isinstance(one, inspect.NoneType)), numbers)
        case inspect.StructType(cls=cls):
            return sample(cls, numbers)
        case _:
            raise AssertionError(f"no sample for {kind}")


def main() -> None:
    """Adds what is missing."""
    known = {type(message) for message, _ in load()}
    with GOLDEN.open("a") as file:
        for kind in ALL_MESSAGES:
            if kind not in known:
                numbers = itertools.cycle([1, 200, 3000, 60_000, 7_000_000, 4_000_000_000, 5_000_000_000_000])
                message = sample(kind, numbers)
                assert isinstance(message, m.Message)
                file.write(f"{message!r}\n{encode_frame(1, message).hex()}\n")


if __name__ == "__main__":
    main()
