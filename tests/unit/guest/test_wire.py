"""Both ends of the frame parser, fuzzed against each other: the guest's in C, under sanitizers, and ours."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyvisor.host.guest import pairs
from polyvisor.host.guest.frames import DELIMITER, Decoder, Frame, encode, stuff, unstuff

ROOT = Path(__file__).parents[3]
SLOW_START = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

BYTES = st.binary(max_size=300) | st.lists(st.sampled_from([0xC0, 0xDB, 0xDC, 0xDD, 0, 1]), max_size=80).map(bytes)
FRAMES = st.builds(Frame, st.integers(0, 255), st.integers(0, 2**32 - 1), BYTES, st.integers(0, 255))


class Harness:
    """The C end as a child process."""

    def __init__(self, binary: Path) -> None:
        self._process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def feed(self, pieces: list[bytes]) -> list[tuple[Frame, int]]:
        """The frames in these pieces of a stream, and how many pairs each payload holds."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(" ".join(piece.hex() for piece in pieces) + "\n")
        self._process.stdin.flush()
        found = []
        while (line := self._process.stdout.readline()) != ".\n":
            assert line, "the guest's parser died"
            kind, fd, channel, count, payload = line.rstrip("\n").split(" ")
            found.append((Frame(int(kind), int(channel), bytes.fromhex(payload), int(fd)), int(count)))
        return found

    def close(self) -> int:
        """Its exit status."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        return self._process.wait(timeout=10)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """Compiled with everything that notices a mistake."""
    binary = tmp_path_factory.mktemp("wire") / "harness"
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-D_GNU_SOURCE", "-std=gnu11"]
    sources = [ROOT / "guest" / "wire.c", Path(__file__).with_name("wire_harness.c")]
    subprocess.run(["gcc", *checks, "-o", binary, *sources], check=True, timeout=60)
    harness = Harness(binary)
    yield harness
    assert harness.close() == 0


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """`stream` in pieces."""
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@given(BYTES)
def test_stuffing_hides_delimiters_and_is_undone(data: bytes) -> None:
    assert DELIMITER not in stuff(data)
    assert unstuff(stuff(data)) == data


@SLOW_START
@given(frames=st.lists(FRAMES, max_size=6), places=st.lists(st.integers(0, 2000), max_size=8))
def test_frames_arrive_whole_however_the_stream_is_cut(guest: Harness, frames: list[Frame], places: list[int]) -> None:
    pieces = cut(b"".join(map(encode, frames)), places)
    decoder = Decoder()
    assert [frame for piece in pieces for frame in decoder.feed(piece)] == frames
    assert [frame for frame, _ in guest.feed(pieces)] == frames


@SLOW_START
@given(
    noise=BYTES, frames=st.lists(FRAMES, max_size=3), start=st.integers(0, 400), places=st.lists(st.integers(0, 999))
)
def test_both_ends_agree_about_any_stream(
    guest: Harness, noise: bytes, frames: list[Frame], start: int, places: list[int]
) -> None:
    """The rest of another talk, then frames: neither end crashes, and they find the same."""
    stream = b"".join(map(encode, frames))
    pieces = cut(stream[start:] + noise + DELIMITER + stream, places)
    decoder = Decoder()
    ours = [frame for piece in pieces for frame in decoder.feed(piece)]
    assert [frame for frame, _ in guest.feed(pieces)] == ours
    assert ours[len(ours) - len(frames) :] == frames


def test_what_is_too_long_is_passed_over(guest: Harness) -> None:
    good = Frame(5, 7, b"good")
    stream = [b"x" * 700_000] * 4 + [DELIMITER, encode(good)]
    decoder = Decoder()
    assert [frame for piece in stream for frame in decoder.feed(piece)] == [good]
    assert [frame for frame, _ in guest.feed(stream)] == [good]


@SLOW_START
@given(st.lists(st.tuples(*[st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))] * 2)))
def test_pairs_are_read_as_they_were_packed(guest: Harness, texts: list[tuple[str, str]]) -> None:
    packed = pairs.pack(texts)
    assert list(pairs.unpack(packed)) == texts
    assert guest.feed([encode(Frame(5, 1, packed))]) == [(Frame(5, 1, packed), len(texts))]
