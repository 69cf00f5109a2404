"""The descriptor of an appliance (DMTF DSP0243, OVF 1 and 2), read from strangers and written for others."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from polyvisor.host.images.xml import parse
from polyvisor.model.appliance import Appliance, Cable
from polyvisor.model.faults import Invalid, Unsupported
from polyvisor.model.units import MIB, Bytes

_CPU, _MEMORY, _NIC, _DISK = "3", "4", "10", "17"  # CIM resource types
_MOST = 32  # disks, and NICs
_WHAT = "file: the OVF descriptor"
_POWERS = {"byte*2^10": 10, "byte*2^20": 20, "byte*2^30": 30, "byte*2^40": 40, "byte": 0,
           "kilobytes": 10, "kb": 10, "megabytes": 20, "mb": 20, "gigabytes": 30, "gb": 30, "": 20}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Described:
    """A machine without its bytes: `files` are the names of its disks' images, in the order of its disks."""

    appliance: Appliance
    files: tuple[str, ...]


def _no(why: str) -> Invalid:
    return Invalid(f"{_WHAT} {why}", field="file")


def read(text: bytes) -> Described:
    """:raise Invalid: it is no descriptor. :raise Unsupported: it asks for what is not taken."""
    root = parse(text, _WHAT)
    if root.tag != "Envelope":
        raise _no("has no envelope")
    systems = list(root.iter("VirtualSystem"))
    if len(systems) != 1:
        raise Unsupported(f"{_WHAT} has {len(systems)} machines; one is taken", field="file")
    system = systems[0]
    items = _items(system, _configuration(root))
    appliance = Appliance(
        name=_text(system.find("Name")) or system.get("id", ""),
        vcpus=_number(items, _CPU, 1),
        memory=_memory(items),
        uefi=_is_uefi(system),
        nics=tuple(Cable(_text(one.find("Connection")), _text(one.find("Address"))) for one in _of(items, _NIC)),
    )
    if len(appliance.nics) > _MOST:
        raise _no(f"has more than {_MOST} NICs")
    return Described(appliance, _files(root, items))


# -- its parts ---------------------------------------------------------------------------------------------------------


def _text(element: ET.Element | None) -> str:
    return "" if element is None or element.text is None else element.text.strip()


def _configuration(root: ET.Element) -> str:
    """Of several machines that it could be, the one that it is unless told."""
    some = list(root.iter("Configuration"))
    usual = [one for one in some if one.get("default", "").lower() in ("true", "1")]
    return (usual or some)[0].get("id", "") if some else ""


def _items(system: ET.Element, configuration: str) -> list[ET.Element]:
    """Its hardware; what a configuration says of a part is in the place of what is said of it otherwise."""
    found: dict[str, ET.Element] = {}
    for section in system.iter("VirtualHardwareSection"):
        for place, item in enumerate(section):
            if item.tag not in ("Item", "StorageItem", "EthernetPortItem"):
                continue
            only = item.get("configuration")
            if only is None or configuration in only.split():
                found[_text(item.find("InstanceID")) or f"#{place}"] = item
    return list(found.values())


def _of(items: Sequence[ET.Element], kind: str) -> list[ET.Element]:
    return [item for item in items if _text(item.find("ResourceType")) == kind]


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise _no(f"has {text[:40]!r} where a number is expected")
    return int(text)


def _number(items: Sequence[ET.Element], kind: str, usual: int) -> int:
    found = _of(items, kind)
    return _whole(_text(found[0].find("VirtualQuantity"))) if found else usual


def _memory(items: Sequence[ET.Element]) -> Bytes:
    found = _of(items, _MEMORY)
    if not found:
        return Appliance("").memory
    unit = "".join(_text(found[0].find("AllocationUnits")).lower().split())
    if unit not in _POWERS:
        raise _no(f"counts memory in {unit[:40]!r}")
    return Bytes(_whole(_text(found[0].find("VirtualQuantity"))) << _POWERS[unit])


def _is_uefi(system: ET.Element) -> bool:
    """As VMware and VirtualBox say it, each in its own words."""
    if any(one.get("key") == "firmware" and one.get("value", "").lower() == "efi" for one in system.iter("Config")):
        return True
    return any(one.get("type", "").upper().startswith("EFI") for one in system.iter("Firmware"))


def _files(root: ET.Element, items: Sequence[ET.Element]) -> tuple[str, ...]:
    """The images of its disks: by controller, then by place there."""
    files = {one.get("id", ""): one for one in root.iter("File")}
    disks = {one.get("diskId", ""): one for one in root.iter("Disk")}
    controllers = {_text(item.find("InstanceID")): place for place, item in enumerate(items)}
    placed = []
    for item in _of(items, _DISK):
        named = _text(item.find("HostResource"))
        disk = disks.get(named.rpartition("/disk/")[2]) if "/disk/" in named else None
        if disk is None:
            raise _no(f"has a disk {named[:80]!r} that it tells nothing of")
        at = _text(item.find("AddressOnParent"))
        order = (controllers.get(_text(item.find("Parent")), -1), _whole(at) if at else 0)
        placed.append((order, _image(disk, files)))
    if len(placed) > _MOST:
        raise _no(f"has more than {_MOST} disks")
    return tuple(name for _, name in sorted(placed, key=lambda one: one[0]))


def _image(disk: ET.Element, files: dict[str, ET.Element]) -> str:
    if disk.get("parentRef"):
        raise Unsupported(f"{_WHAT} has a disk that stands on another one, which is not taken", field="file")
    file = files.get(disk.get("fileRef", ""))
    if file is None:
        raise Unsupported(f"{_WHAT} has a disk without a file, which is not taken", field="file")
    if file.get("compression", "identity") not in ("", "identity") or file.get("chunkSize"):
        raise Unsupported(f"{_WHAT} has a disk that is compressed or in pieces, which is not taken", field="file")
    return file.get("href", "")


# -- written -----------------------------------------------------------------------------------------------------------

_OVF = "http://schemas.dmtf.org/ovf/envelope/1"
_CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"
_RASD, _VSSD = f"{_CIM}/CIM_ResourceAllocationSettingData", f"{_CIM}/CIM_VirtualSystemSettingData"
_VMW = "http://www.vmware.com/schema/ovf"
_VMDK = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_SPACES = {"ovf": _OVF, "rasd": _RASD, "vssd": _VSSD, "vmw": _VMW}


@dataclass(frozen=True, slots=True)
class Image:
    """A disk's image to be told of: its name in the archive, its bytes there, and what a guest sees of it in bytes."""

    name: str
    length: int
    capacity: int


def _name(word: str) -> str:
    space, _, plain = word.partition(":")
    return f"{{{_SPACES[space]}}}{plain}"


def _put(parent: ET.Element, word: str, text: str = "", **attributes: object) -> ET.Element:
    """An element of `ovf:` attributes."""
    told = {_name(f"ovf:{name}"): str(value) for name, value in attributes.items()}
    made = ET.SubElement(parent, _name(word), told)
    made.text = text or None
    return made


def write(appliance: Appliance, images: Sequence[Image]) -> bytes:
    """The descriptor of an appliance with these disks."""
    for prefix, space in _SPACES.items():
        ET.register_namespace(prefix, space)
    root = ET.Element(_name("ovf:Envelope"))
    references = _put(root, "ovf:References")
    disks = _put(root, "ovf:DiskSection")
    _put(disks, "ovf:Info", "Disks")
    for place, image in enumerate(images):
        _put(references, "ovf:File", id=f"file{place}", href=image.name, size=image.length)
        _put(disks, "ovf:Disk", diskId=f"disk{place}", fileRef=f"file{place}", capacity=image.capacity, format=_VMDK)
    networks = _put(root, "ovf:NetworkSection")
    _put(networks, "ovf:Info", "Networks")
    for network in sorted({nic.network for nic in appliance.nics if nic.network}):
        _put(networks, "ovf:Network", name=network)
    system = _put(root, "ovf:VirtualSystem", id="vm")
    _put(system, "ovf:Info", "A virtual machine")
    _put(system, "ovf:Name", appliance.name)
    _hardware(_put(system, "ovf:VirtualHardwareSection"), appliance, len(images))
    made: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return made


def _hardware(section: ET.Element, appliance: Appliance, disks: int) -> None:
    _put(section, "ovf:Info", "Hardware")
    about = _put(section, "ovf:System")
    for word, text in (("ElementName", "Hardware"), ("InstanceID", "0"), ("VirtualSystemType", "vmx-13")):
        _put(about, f"vssd:{word}", text)
    memory = str(appliance.memory // MIB)
    _item(section, 1, _CPU, "CPUs", VirtualQuantity=str(appliance.vcpus))
    _item(section, 2, _MEMORY, "Memory", AllocationUnits="byte * 2^20", VirtualQuantity=memory)
    _item(section, 3, "6", "SCSI controller", ResourceSubType="VirtualSCSI")
    for place in range(disks):
        _item(section, 4 + place, _DISK, f"Disk {place}", AddressOnParent=str(place),
              HostResource=f"ovf:/disk/disk{place}", Parent="3")  # fmt: skip
    for place, nic in enumerate(appliance.nics):
        told = {"Connection": nic.network} if nic.network else {}
        told |= {"Address": nic.mac} if nic.mac else {}
        _item(section, 4 + disks + place, _NIC, f"NIC {place}", **told, ResourceSubType="VmxNet3")
    if appliance.uefi:
        ET.SubElement(section, _name("vmw:Config"), {_name("ovf:required"): "false", _name("vmw:key"): "firmware",
                                                      _name("vmw:value"): "efi"})  # fmt: skip


def _item(section: ET.Element, id: int, kind: str, name: str, **told: str) -> None:
    """Its elements are in the order of their names, as the schema has them."""
    item = _put(section, "ovf:Item")
    words = {**told, "InstanceID": str(id), "ResourceType": kind, "ElementName": name}
    for word in sorted(words):
        _put(item, f"rasd:{word}", words[word])
