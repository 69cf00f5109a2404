"""What an administrator decides about this dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from polyvisor.model.faults import Forbidden, Invalid

STANDARD = "standard"


@dataclass(frozen=True, slots=True)
class Settings:
    """`variants`: the image behind each `image_variant`. `longest`: seconds that a VM may be asked to live; 0: any.
    `ssh_host`: where clients find the SSH gateway, `share_host` where shares are, at one of `ports` each.
    `webhooks_private`: webhooks may lead to addresses that are not public. `domains` is what owners point their domains
    to, empty: they bring none; `domain_port` is where these are served. `dns_private`: likewise, of name servers."""

    variants: Mapping[str, str] = field(default_factory=lambda: {STANDARD: STANDARD})
    longest: int = 7 * 86400
    ssh_host: str = ""
    share_host: str = "127.0.0.1"
    ports: tuple[int, int] = (20000, 29999)
    webhooks_private: bool = False
    domains: str = ""
    domain_port: int = 443
    dns_private: bool = False

    def image(self, variant: str | None) -> str:
        """The image to make a VM of. :raise Invalid: nothing is configured for that variant."""
        found = self.variants.get(variant or STANDARD)
        if found is None:
            known = ", ".join(sorted(self.variants))
            raise Invalid(f"image_variant: {(variant or '')[:60]!r} is not configured ({known})", field="image_variant")
        return found

    def admit_lifetime(self, seconds: int | None) -> None:
        """:raise Forbidden: longer than is allowed, in the words that clients read the limit from."""
        if seconds is not None and self.longest and seconds > self.longest:
            raise Forbidden(f"VM lifetime cannot exceed {self.longest}s", field="vm_lifetime_seconds")
