"""The configuration of the ledger: where it is, who signs, and what a round pays."""

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
MOST_TOKENS = (2**128 - 2) // 10**6
"""That a campaign can hold: the ledger counts units of 10^-6 token in 128 bits, and one is nobody's."""


class StakingOptions(Options):
    """What participants put at stake.

    Attributes:
        enabled: Deploy the registry, and let every client join it with a stake.
        stake: Whole tokens that a participant puts in.
        unbonding: Seconds between leaving and the withdrawal of the stake.
        slash_after: Refused updates after which a participant is slashed.
        slash_share: Share of the stake that it then loses.
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
            and its socket's path); environment variables whose names begin with FEDMETA_RPC_ may stand
            in it as ${FEDMETA_RPC_...}.
        chain_id: That the node must have; by default 31337 for the chains we start, any for a URL.
        port: Of a node we start; by default a free one.
        required: A node given by URL must answer before a run starts; false: it may come later.
        addresses: File that `fedmeta chain deploy` wrote; by default the run deploys its own contracts.
        pot: Whole tokens that a round pays; a campaign holds 2^128 - 2 units of 10^-6 token at most.
        budget: Whole tokens put in escrow; 0: pot times rounds.
        committee: Members whose keys sign the records.
        threshold: Signatures that a record needs.
        challenge_delay: Seconds before a record becomes claimable.
        deadline: Seconds from the deployment until the sponsor may take back what was not awarded.
        batch: Rounds that one record covers while the chain keeps up.
        claim: end: for everybody, once the run is over; never: participants claim themselves.
        keystore: Folder of encrypted keys; the password is in FEDMETA_KEYSTORE_PASSWORD.
        staking: What participants put at stake.
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
        """Whether there is a ledger at all."""
        return self.provider != "none"

    @property
    def is_url(self) -> bool:
        """Whether the node is somebody else's to start and stop."""
        return self.provider.startswith(URL_SCHEMES)

    @field_validator("provider")
    @classmethod
    def _known(cls, provider: str) -> str:
        if provider == "none" or provider in PROVIDERS:
            return provider
        if not provider.startswith(URL_SCHEMES):
            known = nearest(provider, ["none", *PROVIDERS])
            raise ValueError(f"no such provider: {known} or an http(s):// or ws:// URL")
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
                "a URL's password would be written to the run folder: put ${FEDMETA_RPC_NAME} for it"
            )
        return provider

    @model_validator(mode="after")
    def _local(self) -> "ChainOptions":
        # Their keys are known to everybody: what they sign must be good nowhere else.
        ours = self.enabled and not self.is_url
        if ours and self.chain_id not in (None, *LOCAL_CHAIN_IDS):
            ids = " or ".join(map(str, LOCAL_CHAIN_IDS))
            raise ValueError(f"chain_id = {self.chain_id}: a chain that we start has {ids}")
        for key in ("keystore", "addresses"):
            if ours and getattr(self, key):
                raise ValueError(f"{key}: a chain that we start has no use for it; it goes with a URL")
        return self

    @model_validator(mode="after")
    def _signable(self) -> "ChainOptions":
        if self.threshold > self.committee:
            raise ValueError(f"threshold = {self.threshold} exceeds the committee of {self.committee}")
        return self


PREFIX = "FEDMETA_RPC_"
"""What the name of an environment variable begins with that a URL may hold."""

_PLACE = re.compile(r"\$\{([^}]*)(\}?)")
_NAME = re.compile(rf"{PREFIX}[A-Za-z0-9_]+", re.ASCII)


def expand(url: str, environment: Mapping[str, str]) -> str:
    """Put environment variables into a URL: ``https://example.org/v3/${FEDMETA_RPC_KEY}``.

    So a key that a provider wants in the URL stays out of the configuration and of run folders. Only
    names that begin with `PREFIX` are looked up: a config must not choose which secrets leave.

    Raises:
        UsageError: If another variable is named, or one is not set.
    """

    def value(match: re.Match[str]) -> str:
        name, closed = match[1], match[2]
        if not (closed and _NAME.fullmatch(name)):
            raise UsageError(
                f"chain.provider: {match[0]!r} is not put into a URL: only variables whose names begin "
                f"with {PREFIX} are, such as ${{{PREFIX}KEY}}"
            )
        found = environment.get(name)
        if not found:
            raise UsageError(f"chain.provider: the environment variable {name} is not set")
        return found

    return _PLACE.sub(value, url)


def shown(url: str) -> str:
    """Return what messages may show of a URL: no path, query or password, which may be secret.

    Raises:
        UsageError: If it has no host, or a port that is no number.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"chain.provider: {error}") from None
    if not host:
        raise UsageError("chain.provider: the URL has no host")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")
