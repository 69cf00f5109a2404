"""Our own API, `/api/v1`: what the CLI and the dashboard speak. FastAPI, because its schema is ours to publish."""

from polyvisor.dialects.native.app import make_app

__all__ = ["make_app"]
