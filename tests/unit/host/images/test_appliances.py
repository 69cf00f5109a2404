"""Appliances from strangers, and ours: what is read, what is refused, and that disks survive the way out and in."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from polyvisor.host.images import ova, ovf, xml
from polyvisor.host.images.local import LocalImages, Settings
from polyvisor.host.run import find
from polyvisor.model.appliance import Appliance, Cable
from polyvisor.model.faults import Fault, Invalid, Unsupported
from polyvisor.model.units import GIB, MIB, Bytes

ABOUT = Appliance("web", 4, Bytes(3 * GIB), True, (Cable("LAN", "00:50:56:00:00:01"), Cable()))
IMAGES = [ovf.Image("a.vmdk", 10, 4 * MIB), ovf.Image("b.vmdk", 20, 8 * MIB)]
FOREIGN = b"""<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:o="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:r="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References><File o:href="one.vmdk" o:id="f1"/><File o:href="two.vmdk" o:id="f2"/></References>
<DiskSection><Info/><Disk o:capacity="1" o:diskId="d1" o:fileRef="f1"/>
<Disk o:capacity="1" o:diskId="d2" o:fileRef="f2"/></DiskSection>
<DeploymentOptionSection><Configuration o:id="s"/><Configuration o:id="m" o:default="true"/></DeploymentOptionSection>
<VirtualSystem o:id="vm-1"><VirtualHardwareSection>
<Item><r:InstanceID>9</r:InstanceID><r:ResourceType>6</r:ResourceType></Item>
<Item><r:InstanceID>1</r:InstanceID><r:ResourceType>3</r:ResourceType><r:VirtualQuantity>1</r:VirtualQuantity></Item>
<Item o:configuration="m"><r:InstanceID>1</r:InstanceID><r:ResourceType>3</r:ResourceType>
<r:VirtualQuantity>8</r:VirtualQuantity></Item>
<Item o:configuration="s"><r:InstanceID>1</r:InstanceID><r:ResourceType>3</r:ResourceType>
<r:VirtualQuantity>2</r:VirtualQuantity></Item>
<Item><r:AllocationUnits>MegaBytes</r:AllocationUnits><r:InstanceID>2</r:InstanceID><r:ResourceType>4</r:ResourceType>
<r:VirtualQuantity>512</r:VirtualQuantity></Item>
<Item><r:AddressOnParent>1</r:AddressOnParent><r:HostResource>/disk/d1</r:HostResource><r:InstanceID>3</r:InstanceID>
<r:Parent>9</r:Parent><r:ResourceType>17</r:ResourceType></Item>
<Item><r:AddressOnParent>0</r:AddressOnParent><r:HostResource>ovf:/disk/d2</r:HostResource>
<r:InstanceID>4</r:InstanceID><r:Parent>9</r:Parent><r:ResourceType>17</r:ResourceType></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>"""


def test_what_we_write_we_read() -> None:
    found = ovf.read(ovf.write(ABOUT, IMAGES))
    assert (found.appliance, found.files) == (ABOUT, ("a.vmdk", "b.vmdk"))


def test_others_words_are_understood() -> None:
    """Disks by their places, the default one of several configurations, a machine without a name."""
    found = ovf.read(FOREIGN)
    assert found.files == ("two.vmdk", "one.vmdk")
    assert found.appliance == Appliance("vm-1", 8, Bytes(512 * MIB))


@pytest.mark.parametrize(
    ("was", "now", "reason"),
    [
        (b'<?xml version="1.0"?>', b'<!DOCTYPE x [<!ENTITY a "b">]>', "document type"),
        (b'<?xml version="1.0"?>', b'<!DOCTYPE x SYSTEM "file:///etc/passwd">', "document type"),
        (b"<DiskSection>", b"<DiskSection>&a;", "not readable"),
        (b'<?xml version="1.0"?>', b'<?xml version="1.0" encoding="nonsense"?>', "not readable"),
        (b"Envelope", b"Letter", "envelope"),
        (b"<Info/>", b"<a>" * 70 + b"</a>" * 70, "elements"),
        (b"<Info/>", b"<a/>" * 30_000, "elements"),
        (b"<Info/>", b" " * xml.LARGEST, "larger"),
        (b"</VirtualSystem>", b"</VirtualSystem><VirtualSystem/>", "2 machines"),
        (b"/disk/d1", b"/disk/d7", "d7"),
        (b"<r:VirtualQuantity>512", b"<r:VirtualQuantity>-512", "number"),
        (b"MegaBytes", b"acres", "acres"),
        (b'o:fileRef="f1"', b"", "without a file"),
        (b'o:fileRef="f1"', b'o:fileRef="f1" o:parentRef="d2"', "stands on"),
        (b'o:id="f1"', b'o:id="f1" o:compression="gzip"', "compressed"),
        (b'o:id="f1"', b'o:id="f1" o:chunkSize="1024"', "pieces"),
    ],
)
def test_hostile_descriptors(was: bytes, now: bytes, reason: str) -> None:
    assert was in FOREIGN
    with pytest.raises((Invalid, Unsupported), match=re.escape(reason)):
        ovf.read(FOREIGN.replace(was, now, 2 if was == b"Envelope" else 1))


def archive(*members: tuple[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None) -> bytes:
    """A tar; `change` is done to the header of its last member."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for place, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if change is not None and place == len(members) - 1:
                change(info)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def read(tmp_path: Path, data: bytes) -> Appliance:
    """What is in that archive."""
    path = tmp_path / "in.ova"
    path.write_bytes(data)
    assert ova.is_tar(path)
    return ova.read(path, len(data))


GOOD = (("vm.ovf", FOREIGN), ("one.vmdk", b"1" * 700), ("two.vmdk", b"2" * 20))


def test_disks_are_found_where_they_are(tmp_path: Path) -> None:
    data = archive(*GOOD)
    assert [data[one.at : one.at + one.length] for one in read(tmp_path, data).disks] == [b"2" * 20, b"1" * 700]


def _is_link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (archive(*GOOD[:2]), "two.vmdk"),
        (archive(*GOOD[1:]), "without an OVF"),
        (archive(*GOOD, ("../x", b"")), "a path"),
        (archive(*GOOD, ("/etc/cron.d/x", b"")), "a path"),
        (archive(*GOOD, ("..", b"")), "a path"),
        (archive(*GOOD, ("one.vmdk", b"")), "twice"),
        (archive(*GOOD[:2], ("two.vmdk", b""), change=_is_link), "plain file"),
        (archive(*GOOD, *((f"{n}", b"") for n in range(300))), "more than"),
        (archive(*GOOD, ("vm.mf", b"SHA256(one.vmdk)= " + b"0" * 64 + b"\n")), "manifest"),
        (archive(("vm.ovf", b" " * (MIB + 1)), *GOOD[1:]), "larger"),
        (archive(*GOOD)[: len(FOREIGN) + 2000], "cut off"),
    ],
)
def test_hostile_archives(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(Fault, match=re.escape(reason)):
        read(tmp_path, data)


@pytest.mark.skipif(not find("qemu-img"), reason="needs qemu-utils")
async def test_disks_survive_the_way_out_and_in(tmp_path: Path) -> None:
    """By the real tools: an archive of two disks, and a qcow2 of one."""
    images = LocalImages(tmp_path / "images", Settings())
    disks = []
    for place, (data, size) in enumerate(((os.urandom(300_000), 4 * MIB), (b"", 1536 * 1024))):
        disks.append(tmp_path / f"{place}.raw")
        disks[-1].write_bytes(data)
        os.truncate(disks[-1], size)
    async with images.packed(disks, ABOUT) as made:
        length = made.stat().st_size
        found = await images.appliance(made, length)
        assert found is not None and found.name == "web" and length < MIB
        for part, disk in zip(found.disks, disks, strict=True):
            assert await images.disk_size(made, part.length, part.at) == disk.stat().st_size
            async with images.unpacked(made, part.length, part.at) as file:
                assert file.read_bytes() == disk.read_bytes()
    assert not made.exists()
    async with images.packed(disks[:1], None) as made:
        assert await images.appliance(made, made.stat().st_size) is None
        async with images.unpacked(made, made.stat().st_size) as file:
            assert file.read_bytes() == disks[0].read_bytes()
