"""Hypothesis strategies for messages, made from the messages' own types, so that no field is forgotten."""

from __future__ import annotations

import functools
import itertools
import typing

import msgspec
from hypothesis import strategies as st

from mirror.protocol import messages as m

AGENT_MESSAGES: tuple[type[m.Message], ...] = typing.get_args(m.AgentMessage)
LAYER_MESSAGES: tuple[type[m.Message], ...] = typing.get_args(m.LayerMessage)
ALL_MESSAGES: tuple[type[m.Message], ...] = tuple(dict.fromkeys(AGENT_MESSAGES + LAYER_MESSAGES))


@functools.cache
def messages(kind: type[m.Message]) -> st.SearchStrategy[m.Message]:
    """Messages of one kind, within what their types allow."""
    return typing.cast("st.SearchStrategy[m.Message]", structs(kind))


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct]:
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    return st.tuples(*(_values(field.type) for field in info.fields)).map(lambda values: kind(*values))


def _values(kind: msgspec.inspect.Type) -> st.SearchStrategy[typing.Any]:
    """What a field of this type may hold."""
    inspect = msgspec.inspect
    match kind:
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=least, le=most):
            # MessagePack ends at 64 bits: unsigned where the type forbids negative numbers.
            return st.integers(least if least is not None else -(2**63), most if most is not None else 2**64 - 1)
        case inspect.StrType():
            return st.text(max_size=40)
        case inspect.BytesType(min_length=least, max_length=most):
            return st.binary(min_size=least or 0, max_size=min(most or 300, 300))
        case inspect.VarTupleType(item_type=item):
            return st.lists(_values(item), max_size=4).map(tuple)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_values(key), _values(value), max_size=4)
        case inspect.UnionType(types=types):
            return st.one_of([_values(one) for one in types])
        case inspect.StructType(cls=cls):
            return structs(cls)
        case _:
            raise AssertionError(f"no strategy for {kind}")


agent_messages: st.SearchStrategy[m.Message] = st.sampled_from(AGENT_MESSAGES).flatmap(messages)
layer_messages: st.SearchStrategy[m.Message] = st.sampled_from(LAYER_MESSAGES).flatmap(messages)
all_messages: st.SearchStrategy[m.Message] = st.sampled_from(ALL_MESSAGES).flatmap(messages)


@st.composite
def chunked(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """`data` in pieces of any size, one byte each included."""
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=20)) if data else []
    if draw(st.booleans()) and len(data) < 400:
        cuts = list(range(len(data)))
    edges = [0, *sorted(set(cuts)), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges) if start < end]


def values() -> st.SearchStrategy[typing.Any]:
    """Any MessagePack value but extensions."""
    plain = (
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False)
        | st.text(max_size=20)
        | st.binary(max_size=20)
    )
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=5)
    )
