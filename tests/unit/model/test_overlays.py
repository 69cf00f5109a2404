"""Overlays of volumes: whose they are, and how much of a disk is kept for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polyvisor.model.blueprint import disk_of
from polyvisor.model.faults import Invalid
from polyvisor.model.ids import Digest, VolumeId
from polyvisor.model.instance import Mount, with_overlay
from polyvisor.model.spec import Firmware, Overlay, Shape, Spec, check_spec, room_for
from polyvisor.model.units import GIB, MIB, Bytes

OVERLAYS = (Overlay("one", Bytes(64 * MIB)), Overlay("two", Bytes(GIB)))
SPEC = Spec(
    Digest("sha256:0"), "busybox", Shape.MICRO, Firmware.NONE, 1, Bytes(128 * MIB),
    Bytes(GIB + room_for(OVERLAYS)), overlays=OVERLAYS,
)  # fmt: skip


def test_a_disk_has_the_room_of_its_overlays() -> None:
    assert SPEC.own_disk == GIB
    assert room_for(OVERLAYS) > sum(one.size for one in OVERLAYS)
    assert room_for(()) == 0
    assert check_spec(SPEC) is SPEC


@pytest.mark.parametrize("size", [0, MIB, 2**60])
def test_an_overlay_has_bounds(size: int) -> None:
    overlays = (Overlay("one", Bytes(size)),)
    with pytest.raises(Invalid, match="volumes: an overlay of"):
        check_spec(replace(SPEC, overlays=overlays, disk=Bytes(GIB + room_for(overlays))))


def test_a_disk_image_has_none() -> None:
    with pytest.raises(Invalid, match="volumes"):
        check_spec(replace(SPEC, shape=Shape.FULL, firmware=Firmware.BIOS))


@pytest.mark.parametrize(
    ("mount", "size", "place"),
    [
        (Mount(VolumeId("two"), "two", "/x", read_only=True), GIB, 1),
        (Mount(VolumeId("one"), "one", "/x", read_only=True), 64 * MIB, 0),
        (Mount(VolumeId("two"), "two", "/x"), 0, None),  # what is written to needs none
        (Mount(VolumeId("two"), "two", read_only=True), 0, None),  # and what is not mounted cannot have one
        (Mount(VolumeId("other"), "other", "/x", read_only=True), 0, None),
    ],
)
def test_a_mount_has_the_overlay_that_is_there_for_its_volume(mount: Mount, size: int, place: int | None) -> None:
    found = with_overlay(mount, SPEC)
    assert (found.overlay, disk_of(found, SPEC).overlay) == (size, place)
