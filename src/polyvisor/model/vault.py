"""Vaults: credentials that a guest uses and never sees. Pure.

A service says at which host a credential is shown and how. In the guest there is a placeholder in its place; the value
is written into the request on its way out, and nowhere else.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from polyvisor.model.egress import parse_domain
from polyvisor.model.faults import Invalid
from polyvisor.model.ids import CredentialId, ProjectId, ServiceId, VaultId

MOST_VAULTS = 100  # of a project
MOST_INSIDE = 100  # credentials of a vault, and services
MOST_BOUND = 16  # vaults of an instance
MOST_REQUESTS = 1000  # of a vault that are remembered
MOST_HEADERS = 16
_LONGEST_NAME, _LONGEST_TEXT, _LONGEST_VALUE = 128, 500, 16 * 1024
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_PRINTED = re.compile(r"[\x20-\x7e]*")
_PATH_WORD = re.compile(r"[A-Za-z0-9._~{}:@!$&'()*+,;=-]{1,128}")
_NAMED = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_FRAMING = frozenset({
    "host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "expect", "te", "trailer",
    "proxy-connection", "proxy-authorization", "proxy-authenticate",
})  # fmt: skip
"""Headers that say how a request is read: another value there would make two of one."""
TRUST = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "AWS_CA_BUNDLE", "GIT_SSL_CAINFO",
    "PIP_CERT", "CARGO_HTTP_CAINFO", "DENO_CERT", "NIX_SSL_CERT_FILE", "PERL_LWP_SSL_CA_FILE",
)  # fmt: skip
"""Variables by which programs know whose certificates they believe."""
_RESERVED = frozenset({*TRUST, "PATH", "HOME", "SHELL", "TERM", "USER", "LOGNAME", "PWD", "IFS", "ENV", "BASH_ENV"})


class AuthKind(StrEnum):
    """How a service wants its credential."""

    BEARER = "bearer"
    API_KEY = "api-key"
    BASIC = "basic"
    CUSTOM = "custom"
    URL_PATH = "url-path"
    PASSTHROUGH = "passthrough"  # not at all


@dataclass(frozen=True, slots=True)
class Auth:
    """`token` and `username` are names of credentials; so are the words in `headers` that stand between braces."""

    kind: AuthKind
    token: str = ""
    username: str = ""
    header: str = ""
    prefix: str = ""
    placeholder: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The credentials that it takes."""
        inside = [name for _, value in self.headers for name in _NAMED.findall(value)]
        return tuple(dict.fromkeys(name for name in (self.token, self.username, *inside) if name))


@dataclass(frozen=True, slots=True)
class Vault:
    """A project's."""

    id: VaultId
    project: ProjectId
    name: str
    created: datetime
    description: str = ""


@dataclass(frozen=True, slots=True)
class VaultCredential:
    """One of a vault. `sealed` is its value as it is kept."""

    id: CredentialId
    vault: VaultId
    name: str
    created: datetime
    kind: str = "api_key"
    description: str = ""
    enabled: bool = True
    sealed: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class VaultEntry:
    """A service of a vault: what is shown at one host, or at all below one (`*.example.com`)."""

    id: ServiceId
    vault: VaultId
    host: str
    auth: Auth
    created: datetime
    description: str = ""
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Binding:
    """A vault whose services an instance uses. `lent`: only as long as something runs that was asked with it."""

    vault: VaultId
    lent: bool = False


@dataclass(frozen=True, slots=True)
class VaultRequest:
    """A request that was seen; `credential` is what the credential is called, or several of them."""

    vault: VaultId
    at: datetime
    host: str
    status: int
    credential: str


@dataclass(frozen=True, slots=True)
class Opening:
    """What is to be done to a request to a host: headers in the place of those of that name, words in the path for
    other words. `hidden` is what must not come back, and what stands for it."""

    vault: VaultId
    credential: str
    headers: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    path: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    hidden: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)


# -- what callers write ------------------------------------------------------------------------------------------------


def check_title(text: str, field: str = "name") -> str:
    """A vault's name. :raise Invalid:"""
    if not text.strip() or len(text) > _LONGEST_NAME or any(ord(c) < 32 for c in text):
        raise Invalid(f"{field}: must be 1 to {_LONGEST_NAME} characters", field=field)
    return text


def check_words(text: str, field: str = "description") -> str:
    """:raise Invalid:"""
    if len(text) > _LONGEST_TEXT or "\0" in text:
        raise Invalid(f"{field}: must be at most {_LONGEST_TEXT} characters", field=field)
    return text


def check_credential(text: str, field: str = "name") -> str:
    """A credential's name, which is a variable's in the guest, too. :raise Invalid:"""
    if not _VARIABLE.fullmatch(text):
        raise Invalid(f"{field}: must be the name of a variable: letters, digits and '_', no digit first", field=field)
    if text.upper() in _RESERVED or text.upper().startswith("LD_"):
        raise Invalid(f"{field}: {text} is a variable that programs need", field=field)
    return text


def check_value(text: str, field: str = "value") -> str:
    """A value, which has to go into a line of a request. What is wrong with it is told without it. :raise Invalid:"""
    if not 0 < len(text) <= _LONGEST_VALUE or not _PRINTED.fullmatch(text) or text != text.strip():
        words = f"{field}: must be 1 to {_LONGEST_VALUE} printable ASCII characters, no blank first or last"
        raise Invalid(words, field=field)
    return text


def parse_host(text: str, field: str = "host") -> str:
    """A name, or all below one. :raise Invalid:"""
    wild = text.strip().startswith("*.")
    name = parse_domain(text, field)
    if "." not in name:
        raise Invalid(f"{field}: {text[:80]!r} is not a name of the public DNS", field=field)
    return f"*.{name}" if wild else name


def check_auth(auth: Auth, field: str = "auth_config") -> Auth:
    """:raise Invalid: naming what of it is wrong, below `field`."""
    needs: dict[AuthKind, tuple[str, ...]] = {
        AuthKind.BEARER: ("token",), AuthKind.API_KEY: ("key", "header"), AuthKind.BASIC: ("username", "password"),
        AuthKind.CUSTOM: ("headers",), AuthKind.URL_PATH: ("token", "placeholder"), AuthKind.PASSTHROUGH: (),
    }  # fmt: skip
    said = {"token": auth.token, "key": auth.token, "password": auth.token, "username": auth.username,
            "header": auth.header, "headers": auth.headers, "placeholder": auth.placeholder}  # fmt: skip
    for name in needs[auth.kind]:
        where = f"{field}.{name}"
        value = said[name]
        if not value:
            raise Invalid(f"{where}: is needed for {auth.kind}", field=where)
        if name in ("token", "key", "password", "username"):
            check_credential(str(value), where)
    if auth.header:
        _check_header(auth.header, f"{field}.header")
    if not _PRINTED.fullmatch(auth.prefix) or len(auth.prefix) > 100:
        raise Invalid(f"{field}.prefix: must be at most 100 printable ASCII characters", field=f"{field}.prefix")
    if auth.placeholder and not _PATH_WORD.fullmatch(auth.placeholder):
        raise Invalid(f"{field}.placeholder: must be a word of a path", field=f"{field}.placeholder")
    _check_headers(auth, field)
    return auth


def _check_headers(auth: Auth, field: str) -> None:
    where = f"{field}.headers"
    if len(auth.headers) > MOST_HEADERS:
        raise Invalid(f"{where}: there are more than {MOST_HEADERS}", field=where)
    if len({name.lower() for name, _ in auth.headers}) < len(auth.headers):
        raise Invalid(f"{where}: one of them is there twice", field=where)
    if sum(len(_NAMED.findall(value)) for _, value in auth.headers) > MOST_HEADERS:
        raise Invalid(f"{where}: name credentials more than {MOST_HEADERS} times", field=where)
    for name, value in auth.headers:
        _check_header(name, f"{where}.{name[:60]}")
        if len(value) > 1000 or not _PRINTED.fullmatch(value):
            raise Invalid(f"{where}.{name}: must be printable ASCII", field=f"{where}.{name}")
    if auth.kind is AuthKind.CUSTOM and not auth.names:
        raise Invalid(f"{where}: none of them names a credential, as in '{{{{ NAME }}}}'", field=where)


def _check_header(name: str, field: str) -> None:
    if not _HEADER.fullmatch(name) or name.lower() in _FRAMING:
        raise Invalid(f"{field}: cannot be the name of such a header", field=field)


# -- what it means -----------------------------------------------------------------------------------------------------


def matches(service: VaultEntry, host: str) -> bool:
    """Whether that host is the service's."""
    if service.host.startswith("*."):
        return host.endswith(service.host[1:])
    return service.host == host


def written_for(host: str) -> list[str]:
    """How services are written whose host that is: a vault may have a hundred others."""
    labels = host.split(".")
    return [host, *("*." + ".".join(labels[place:]) for place in range(1, len(labels)))]


def chosen(services: Iterable[VaultEntry], host: str) -> VaultEntry | None:
    """The service for a host: the nearest, and of those that are as near the first."""
    found = [one for one in services if one.enabled and matches(one, host)]
    return min(found, key=lambda one: (one.host.startswith("*."), -len(one.host)), default=None)


def opening(service: VaultEntry, values: Mapping[str, str]) -> Opening | None:
    """What is done to requests to it, with these values by name; None: nothing is, or one is missing."""
    auth = service.auth
    if auth.kind is AuthKind.PASSTHROUGH or any(name not in values for name in auth.names):
        return None
    headers: list[tuple[str, str]] = []
    path: list[tuple[bytes, bytes]] = []
    hidden = [(values[name], name) for name in auth.names]
    match auth.kind:
        case AuthKind.BEARER:
            headers.append(("Authorization", f"Bearer {values[auth.token]}"))
        case AuthKind.API_KEY:
            headers.append((auth.header, auth.prefix + values[auth.token]))
        case AuthKind.BASIC:
            pair = base64.b64encode(f"{values[auth.username]}:{values[auth.token]}".encode()).decode()
            headers.append(("Authorization", f"Basic {pair}"))
            hidden.append((pair, auth.token))
        case AuthKind.CUSTOM:
            headers += [(name, _NAMED.sub(lambda m: values[m[1]], text)) for name, text in auth.headers]
        case AuthKind.URL_PATH:
            path.append((auth.placeholder.encode(), values[auth.token].encode()))
    return Opening(
        service.vault, ", ".join(auth.names), tuple((name, value.encode()) for name, value in headers), tuple(path),
        tuple((value.encode(), name.encode()) for value, name in hidden),
    )  # fmt: skip


def placeholders(names: Iterable[str], services: Sequence[VaultEntry]) -> dict[str, str]:
    """The variables of a guest: each credential's name for itself, but where a service looks for another word in a
    path; and what programs of a well-known service look for."""
    found = {name: name for name in names}
    for service in services:
        auth = service.auth
        if auth.kind is AuthKind.URL_PATH and auth.token in found:
            found[auth.token] = auth.placeholder
    usual = {template.host: template.credential for template in TEMPLATES}
    for service in services:
        variable, token = usual.get(service.host), service.auth.token
        if variable is not None and service.enabled and token in found:
            found.setdefault(variable, found[token])
    return found


# -- well-known services -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Template:
    """A service that many use: where it is, how it wants its credential, and the variable that programs read."""

    id: str
    name: str
    host: str
    kind: AuthKind
    credential: str
    header: str = ""
    prefix: str = ""

    @property
    def auth(self) -> Auth:
        """As a service has it."""
        if self.kind is AuthKind.BASIC:
            return Auth(self.kind, self.credential, f"{self.credential}_USER")
        placeholder = self.credential if self.kind is AuthKind.URL_PATH else ""
        return Auth(self.kind, self.credential, header=self.header, prefix=self.prefix, placeholder=placeholder)


_BEARER, _KEY, _BASIC, _PATH = AuthKind.BEARER, AuthKind.API_KEY, AuthKind.BASIC, AuthKind.URL_PATH
TEMPLATES = (
    Template("openai", "OpenAI", "api.openai.com", _BEARER, "OPENAI_API_KEY"),
    Template("anthropic", "Anthropic", "api.anthropic.com", _KEY, "ANTHROPIC_API_KEY", "x-api-key"),
    Template("openrouter", "OpenRouter", "openrouter.ai", _BEARER, "OPENROUTER_API_KEY"),
    Template("gemini", "Google Gemini", "generativelanguage.googleapis.com", _KEY, "GOOGLE_API_KEY", "x-goog-api-key"),
    Template("stripe", "Stripe", "api.stripe.com", _BEARER, "STRIPE_API_KEY"),
    Template("github", "GitHub", "api.github.com", _BEARER, "GITHUB_TOKEN"),
    Template("linear", "Linear", "api.linear.app", _KEY, "LINEAR_API_KEY", "Authorization"),
    Template("notion", "Notion", "api.notion.com", _BEARER, "NOTION_API_KEY"),
    Template("groq", "Groq", "api.groq.com", _BEARER, "GROQ_API_KEY"),
    Template("perplexity", "Perplexity", "api.perplexity.ai", _BEARER, "PERPLEXITY_API_KEY"),
    Template("elevenlabs", "ElevenLabs", "api.elevenlabs.io", _KEY, "ELEVENLABS_API_KEY", "xi-api-key"),
    Template("cloudflare", "Cloudflare", "api.cloudflare.com", _BEARER, "CLOUDFLARE_API_TOKEN"),
    Template("datadog", "Datadog", "api.datadoghq.com", _KEY, "DD_API_KEY", "DD-API-KEY"),
    Template("sentry", "Sentry", "sentry.io", _BEARER, "SENTRY_AUTH_TOKEN"),
    Template("slack", "Slack", "slack.com", _BEARER, "SLACK_BOT_TOKEN"),
    Template("vercel", "Vercel", "api.vercel.com", _BEARER, "VERCEL_TOKEN"),
    Template("supabase", "Supabase", "*.supabase.co", _KEY, "SUPABASE_KEY", "apikey"),
    Template("jira", "Jira", "*.atlassian.net", _BASIC, "JIRA_API_TOKEN"),
    Template("hubspot", "HubSpot", "api.hubapi.com", _BEARER, "HUBSPOT_ACCESS_TOKEN"),
    Template("twilio", "Twilio", "api.twilio.com", _BASIC, "TWILIO_AUTH_TOKEN"),
    Template("pagerduty", "PagerDuty", "api.pagerduty.com", _KEY, "PAGERDUTY_API_KEY", "Authorization", "Token token="),
    Template("postmark", "Postmark", "api.postmarkapp.com", _KEY, "POSTMARK_SERVER_TOKEN", "X-Postmark-Server-Token"),
    Template("resend", "Resend", "api.resend.com", _BEARER, "RESEND_API_KEY"),
    Template("sendgrid", "SendGrid", "api.sendgrid.com", _BEARER, "SENDGRID_API_KEY"),
    Template("telegram", "Telegram Bot API", "api.telegram.org", _PATH, "TELEGRAM_BOT_TOKEN"),
)
