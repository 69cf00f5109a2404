"""The proxy of this host: Caddy, told by its admin API what to serve, and doors of ours that it knocks at (ADR 28)."""

from polyvisor.host.ingress.document import Settings as Settings
from polyvisor.host.ingress.local import CaddyProxy as CaddyProxy
