"""The rANS coder: round trips in the manner of craystack's ``check_codec``, its words, segments and damage."""

from typing import NamedTuple

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ardmzip import rans, streams
from ardmzip.errors import FormatError

TOTAL = 1 << 24


class Batches(NamedTuple):
    """Batches of symbols, and int64 [n, 16] frequencies of each."""

    symbols: list[np.ndarray]
    frequencies: list[np.ndarray]


def random_frequencies(rng: np.random.Generator, n: int) -> np.ndarray:
    """Rows of 16 frequencies >= 1 that sum to 2**24: flat, skewed, and as extreme as they can be."""
    weights = rng.random((n, 16)) ** rng.choice([1, 20, 200], (n, 1))
    f = 1 + np.floor(weights / weights.sum(1, keepdims=True) * (TOTAL - 32)).astype(np.int64)
    f[np.arange(n), f.argmax(1)] += TOTAL - f.sum(1)
    extreme = rng.random(n) < 0.2
    f[extreme] = 1
    f[extreme, rng.integers(0, 16, extreme.sum())] = TOTAL - 15
    return f


@st.composite
def batches(draw, longest: int = 12):
    sizes = draw(st.lists(st.integers(0, 40), max_size=longest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frequencies = [random_frequencies(rng, size) for size in sizes]
    symbols = []
    for f in frequencies:  # likely symbols mostly, all of them sometimes
        likely = (rng.integers(0, TOTAL, (len(f), 1)) >= f.cumsum(1)).sum(1)
        symbols.append(np.where(rng.random(len(f)) < 0.7, likely, rng.integers(0, 16, len(f))).astype(np.int32))
    return Batches(symbols, frequencies)


def intervals(symbols, frequencies):
    rank = np.arange(len(symbols)), symbols
    start = frequencies.cumsum(1) - frequencies
    return start[rank].astype(np.uint32), frequencies[rank].astype(np.uint32)


def rows(frequencies) -> np.ndarray:
    return (frequencies - 1).astype(np.float32)


def push(data: Batches) -> tuple[np.ndarray, ...]:
    encoder = rans.Encoder()
    for symbols, frequencies in zip(*data, strict=True):
        encoder.push(*intervals(symbols, frequencies))
    return encoder.finish()


def pop(words, frequencies) -> list[np.ndarray]:
    """Decodes with the rows of 16 classes that the codec uses."""
    decoder = rans.Decoder(words)
    symbols = []
    for f in frequencies:
        symbols.append(decoder.pop(rows(f)))
        decoder.end_batch(len(f))
    decoder.finish()
    return symbols


@given(batches())
def test_round_trip(check_codec, data):
    words = check_codec(lambda symbols: push(Batches(symbols, data.frequencies)),
                        lambda words: pop(words, data.frequencies), data.symbols)  # fmt: skip
    assert len(words) == 1
    assert words[0].dtype == np.uint32


@given(batches())
def test_three_classes_give_the_words_of_sixteen(data):
    coder = constriction.stream.stack.AnsCoder()
    family = constriction.stream.model.Categorical(perfect=False)
    for symbols, frequencies in zip(*map(reversed, data), strict=True):
        coder.encode_reverse(symbols, family, rows(frequencies))
    np.testing.assert_array_equal(push(data)[0], coder.get_compressed())


@given(batches())
def test_length(data):
    """Within 64 bits of the entropy: rANS with a 64-bit state and 24-bit frequencies loses nothing to speak of."""
    bits = sum(
        float((24 - np.log2(intervals(*batch)[1].astype(float))).sum()) for batch in zip(*data, strict=True)
    )  # fmt: skip
    assert abs(32 * len(push(data)[0]) - bits) <= 64 + 1e-3 * bits


@settings(max_examples=60)
@given(batches(), st.integers(1, 100))
def test_segments(check_codec, data, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "SYMBOLS", limit)
        words = check_codec(lambda symbols: push(Batches(symbols, data.frequencies)),
                            lambda words: pop(words, data.frequencies), data.symbols)  # fmt: skip
        count, segments = 0, 0
        for symbols in data.symbols:
            count += len(symbols)
            if count >= limit:
                count, segments = 0, segments + 1
        assert len(words) == max(1, segments + (count > 0))
        with pytest.raises(FormatError, match="damaged"):
            pop((*words, np.array([1], np.uint32)), data.frequencies)
        if len(words) > 1:
            with pytest.raises(FormatError, match="a stream is missing"):
                pop(words[:-1], data.frequencies)


@settings(max_examples=60)
@given(batches(), st.sampled_from([30, 10**6]), st.data())
def test_cuts(data, limit, draw):
    """Streams end where they are cut too, and what was cut off can be decoded without the rest."""
    cuts = draw.draw(st.sets(st.integers(0, len(data.symbols))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "SYMBOLS", limit)
        encoder, ends = rans.Encoder(), {}
        for index, batch in enumerate(zip(*data, strict=True)):
            if index in cuts:
                encoder.cut()
                encoder.cut()  # does nothing
                ends[index] = len(encoder._segments)
            encoder.push(*intervals(*batch))
        words = encoder.finish()

        def popped(decoder: rans.Decoder, count: int) -> None:
            for index in range(count):
                if index in cuts:
                    decoder.cut()
                np.testing.assert_array_equal(decoder.pop(rows(data.frequencies[index])), data.symbols[index])
                decoder.end_batch(len(data.symbols[index]))

        decoder = rans.Decoder(words)
        popped(decoder, len(data.symbols))
        decoder.finish()
        for index, end in ends.items():
            if end:
                decoder = rans.Decoder((*words[:end], np.array([7, 7, 7], np.uint32)))
                popped(decoder, index)
                decoder.cut()


def test_a_stream_that_is_cut_must_be_used_up():
    rng = np.random.default_rng(2)
    data = Batches([rng.integers(0, 16, 50, np.int32)], [random_frequencies(rng, 50)])
    decoder = rans.Decoder(push(data))
    decoder.pop(rows(data.frequencies[0][:40]))
    decoder.end_batch(40)
    with pytest.raises(FormatError, match="does not end where the image does"):
        decoder.cut()


def test_words_of_a_mapped_file_are_not_aligned():
    rng = np.random.default_rng(4)
    data = Batches([rng.integers(0, 16, 50, np.int32)], [random_frequencies(rng, 50)])
    (words,) = push(data)
    moved = np.frombuffer(b"x" + words.astype("<u4").tobytes(), "<u4", offset=1)
    assert not moved.flags.aligned
    np.testing.assert_array_equal(pop((moved,), data.frequencies)[0], data.symbols[0])


def test_long_batches_are_pushed_in_parts(monkeypatch, check_codec):
    rng = np.random.default_rng(3)
    frequencies = [random_frequencies(rng, 1000), random_frequencies(rng, 10)]
    data = Batches([rng.integers(0, 16, len(f), np.int32) for f in frequencies], frequencies)
    whole = push(data)
    monkeypatch.setattr(rans, "_PUSH", 64)
    np.testing.assert_array_equal(push(data)[0], whole[0])
    np.testing.assert_array_equal(pop(whole, frequencies)[0], data.symbols[0])


def test_nothing_at_all():
    (words,) = rans.Encoder().finish()
    assert len(words) == 0
    rans.Decoder((words,)).finish()


def test_example_of_the_format():
    encoder = rans.Encoder()
    encoder.push(np.array([0xA << 20, 0xB << 20], np.uint32), np.full(2, 1 << 20, np.uint32))
    assert [words.tolist() for words in encoder.finish()] == [[0x0BA00000]]
    assert (rans.FLAT_ROW + 1 == 2**20).all()


@settings(max_examples=200)
@given(batches(), st.data())
def test_damage_is_noticed_or_gives_other_symbols(data, draw):
    """rANS cannot tell good words from bad ones; it must end, and the checksums do the rest."""
    (words,) = push(data)
    damaged = words.copy()
    kind = draw.draw(st.sampled_from(["flip", "cut", "extend", "random"]))
    if kind == "flip" and len(words):
        damaged[draw.draw(st.integers(0, len(words) - 1))] ^= np.uint32(1 << draw.draw(st.integers(0, 31)))
    elif kind == "cut":
        damaged = damaged[: draw.draw(st.integers(0, len(words)))]
    else:
        extra = draw.draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5))
        damaged = np.array(extra if kind == "random" else [*words.tolist(), *extra], np.uint32)
    try:
        symbols = pop((damaged,), data.frequencies)
    except (FormatError, ValueError):  # ValueError: no coder ends with a word of 0
        return
    for got, want in zip(symbols, data.symbols, strict=True):
        assert got.shape == want.shape
        assert ((got >= 0) & (got < 16)).all()


def test_words_that_end_with_zero():
    with pytest.raises((FormatError, ValueError)):
        rans.Decoder((np.array([5, 0], np.uint32),))
