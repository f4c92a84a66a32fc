"""Options of the ledger."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from fedmeta.chain.providers import PROVIDERS
from fedmeta.errors import UsageError
from fedmeta.options import Key, Options, nearest

DEFAULT_CHAIN_ID = 31337
LOCAL_CHAIN_IDS = (DEFAULT_CHAIN_ID, 1337)
URL_SCHEMES = ("http://", "https://", "ws://", "wss://", "ipc://")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MOST_MEMBERS = 32
UNITS = 10**6
"""Token units in a whole token."""
MOST_TOKENS = (2**128 - 2) // UNITS
"""Most tokens of a campaign: the ledger counts units of 10^-6 token in 128 bits, and keeps one."""


class StakingOptions(Options):
    """Participants' stakes.

    Attributes:
        enabled: Deploy the registry, and let every client join it with a stake.
        stake: Whole tokens that each participant stakes.
        unbonding: Seconds between leaving and withdrawing the stake.
        slash_after: Refused updates after which a participant is slashed.
        slash_share: Share of the stake lost by slashing.
    """

    enabled: bool = False
    stake: int = Field(1_000, ge=1, le=MOST_TOKENS)
    unbonding: int = Field(86_400, ge=0)
    slash_after: int = Field(3, ge=1)
    slash_share: float = Field(0.5, gt=0, le=1)


class ChainOptions(Options):
    """The optional ledger.

    Attributes:
        provider: none, embedded, anvil, ganache, or the URL of a node (http, https, ws, wss, or ipc://
            and the path of its socket); it may contain environment variables ${FEDMETA_RPC_...}.
        chain_id: Chain id that the node must have; by default 31337 for chains we start, any for a URL.
        port: Port of a node we start; by default a free one.
        required: Whether a node given by URL must answer before a run starts; false: it may come later.
        addresses: File written by `fedmeta chain deploy`; by default the run deploys its own contracts.
        pot: Whole tokens that a round pays; a campaign holds at most 2^128 - 2 units of 10^-6 token.
        budget: Whole tokens put in escrow; 0: pot times rounds.
        committee: Members whose keys sign the records.
        threshold: Signatures that a record needs.
        challenge_delay: Seconds before a record becomes claimable.
        deadline: Seconds after deployment when the sponsor may take back unawarded tokens.
        batch: Rounds that one record covers while the chain keeps up.
        claim: end: the run claims for all participants when it ends; never: they claim themselves.
        keystore: Folder of encrypted keys; the password is in FEDMETA_KEYSTORE_PASSWORD.
        staking: Participants' stakes.
    """

    provider: Annotated[str, Key(resume=True, training="federated")] = "none"
    chain_id: Annotated[int | None, Key(resume=True)] = Field(None, ge=1, lt=2**53)
    port: Annotated[int | None, Key(resume=True)] = Field(None, ge=1, le=65_535)
    required: bool = True
    addresses: Annotated[str, Key(resume=True)] = ""
    pot: Annotated[int, Key(decides="result")] = Field(100, ge=1, le=MOST_TOKENS)
    budget: Annotated[int, Key(resume=True)] = Field(0, ge=0, le=MOST_TOKENS)
    committee: int = Field(5, ge=1, le=MOST_MEMBERS)
    threshold: int = Field(3, ge=1, le=MOST_MEMBERS)
    challenge_delay: int = Field(0, ge=0, lt=2**32)
    deadline: int = Field(365 * 86_400, ge=1, lt=2**32)
    batch: Annotated[int, Key(resume=True)] = Field(1, ge=1, le=10_000)
    claim: Annotated[Literal["end", "never"], Key(resume=True)] = "end"
    keystore: Annotated[str, Key(resume=True)] = ""
    staking: StakingOptions = StakingOptions()

    @property
    def enabled(self) -> bool:
        """Whether there is a ledger."""
        return self.provider != "none"

    @property
    def is_url(self) -> bool:
        """Whether the node is external: given by a URL, not started by us."""
        return self.provider.startswith(URL_SCHEMES)

    @field_validator("provider")
    @classmethod
    def _known(cls, provider: str) -> str:
        if provider == "none" or provider in PROVIDERS:
            return provider
        if not provider.startswith(URL_SCHEMES):
            if re.fullmatch(r"[\w.-]+:\d+", provider):
                raise ValueError(f"did you mean 'http://{provider}'?")
            known = nearest(provider, ["none", *PROVIDERS])
            url = "" if known.endswith("?") else ", or an http(s):// or ws:// URL"
            raise ValueError(f"no such provider: {known}{url}")
        scheme, _, rest = provider.partition("://")
        if scheme == "ipc":
            if not rest.startswith("/"):
                raise ValueError("the path of the socket must be absolute: ipc:///path/to/geth.ipc")
            return provider
        host = rest.partition("/")[0]
        if not host:
            raise ValueError("the URL has no host")
        if "@" in host and "${" not in host:
            raise ValueError(
                "a URL's password would be written to the run folder: use ${FEDMETA_RPC_NAME} instead"
            )
        return provider

    @model_validator(mode="after")
    def _local(self) -> "ChainOptions":
        # Their keys are public: their signatures must not be valid on other chains.
        ours = self.enabled and not self.is_url
        if ours and self.chain_id not in (None, *LOCAL_CHAIN_IDS):
            ids = " or ".join(map(str, LOCAL_CHAIN_IDS))
            raise ValueError(f"chain_id = {self.chain_id}: a chain started by fedmeta has {ids}")
        for key in ("keystore", "addresses"):
            if ours and getattr(self, key):
                raise ValueError(f"{key}: only used with the URL of a node")
        return self

    @model_validator(mode="after")
    def _signable(self) -> "ChainOptions":
        if self.threshold > self.committee:
            raise ValueError(f"threshold = {self.threshold} exceeds the committee of {self.committee}")
        return self


PREFIX = "FEDMETA_RPC_"
"""Prefix of the environment variables allowed in a URL."""

_PLACE = re.compile(r"\$\{([^}]*)(\}?)")
_NAME = re.compile(rf"{PREFIX}[A-Za-z0-9_]+", re.ASCII)


def expand(url: str, environment: Mapping[str, str]) -> str:
    """Substitute environment variables in a URL: ``https://example.org/v3/${FEDMETA_RPC_KEY}``.

    This keeps a key in the URL out of configurations and run folders. Only names that begin with
    `PREFIX` are substituted, so a config cannot leak other secrets; others are a `UsageError`.
    """

    def value(match: re.Match[str]) -> str:
        name, closed = match[1], match[2]
        if not (closed and _NAME.fullmatch(name)):
            raise UsageError(
                f"chain.provider: {match[0]!r} is not allowed in a URL: only variables that begin "
                f"with {PREFIX} are, such as ${{{PREFIX}KEY}}"
            )
        found = environment.get(name)
        if not found:
            raise UsageError(f"chain.provider: the environment variable {name} is not set")
        return found

    return _PLACE.sub(value, url)


def shown(url: str) -> str:
    """Return a URL for messages, without path, query or password, which may be secret."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"chain.provider: {error}") from None
    if not host:
        raise UsageError("chain.provider: the URL has no host")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")
