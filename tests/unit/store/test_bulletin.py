"""Topics: merged, bounded, and never in the publisher's way."""

from __future__ import annotations

import asyncio

from polyvisor.store.bulletin import Bulletin, Listener


async def unread(listener: Listener) -> list[str]:
    """What it has not read yet."""
    found = []
    try:
        while True:
            async with asyncio.timeout(0.01):
                found.append(await anext(listener))
    except (TimeoutError, StopAsyncIteration):
        return found


async def test_a_listener_hears_what_it_follows_in_order_and_once() -> None:
    board = Bulletin()
    with board.follow("a:1", "b:*") as listener:
        board.publish(["a:1", "a:2", "b:1", "a:1", "b:2", "b:1", "c"])
        assert await unread(listener) == ["a:1", "b:1", "b:2"]
        board.publish(["a:1"])
        assert await unread(listener) == ["a:1"]


async def test_a_star_alone_hears_everything() -> None:
    board = Bulletin()
    with board.follow("*") as listener:
        board.publish(["x", "y:z"])
        assert await unread(listener) == ["x", "y:z"]


async def test_what_was_published_before_or_after_is_not_heard() -> None:
    board = Bulletin()
    board.publish(["a"])
    with board.follow("a") as listener:
        pass
    board.publish(["a"])
    assert await unread(listener) == []
    assert board._exact == {} and board._wild == set()


async def test_a_waiting_listener_is_woken() -> None:
    board = Bulletin()
    with board.follow("a") as listener:
        waiting = asyncio.ensure_future(anext(listener))
        await asyncio.sleep(0)
        board.publish(["a"])
        async with asyncio.timeout(1):
            assert await waiting == "a"


async def test_a_listener_far_behind_is_told_to_look_at_everything() -> None:
    board = Bulletin(behind=10)
    with board.follow("w:*", "f:*", "e") as listener:
        board.publish(["e", "f:1", *(f"w:{n}" for n in range(100_000)), "f:2"])
        assert len(listener._unread) <= 11
        assert await unread(listener) == ["e", "f:1", "w:*", "f:2"]
        board.publish(["w:5"])
        assert await unread(listener) == ["w:5"]


async def test_closing_ends_listeners_after_what_they_have_not_read() -> None:
    board = Bulletin()
    with board.follow("a") as one, board.follow("*") as two:
        board.publish(["a"])
        board.close()
        assert [topic async for topic in one] == [topic async for topic in two] == ["a"]
    with board.follow("a") as late:
        assert [topic async for topic in late] == []
