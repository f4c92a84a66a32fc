"""Terms of a campaign's contracts, and the file with their addresses."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedmeta.chain.chain import Chain
from fedmeta.chain.contracts import Contract, load_artifact
from fedmeta.chain.errors import WrongCampaignError
from fedmeta.chain.hashing import from_address
from fedmeta.chain.keys import Keys
from fedmeta.chain.options import UNITS, ChainOptions
from fedmeta.chain.settle.campaign import require_chain
from fedmeta.chain.settle.journal_rows import Campaign
from fedmeta.errors import UsageError
from fedmeta.files import read_json

LEDGER_VIEWS = (
    *("token", "sponsor", "campaign", "committee", "threshold"),
    *("roundCap", "lifetimeCap", "deadline", "challengeDelay"),
)
"""Views of the ledger, in the order of its constructor: its token, and the fields of `Terms`."""


@dataclass(frozen=True)
class Terms:
    """Terms of a ledger, in the order of its constructor; amounts in token units, times in seconds.

    Attributes:
        sponsor: Address that funds it.
        campaign: Id of the campaign, hexadecimal.
        committee: Addresses in ascending order.
        threshold: Signatures that a record needs.
        round_cap: Most that a round may pay; `lifetime_cap`: that all rounds may pay.
        deadline: Chain time after which the sponsor may take back unawarded tokens.
        challenge_delay: Time before a record becomes claimable.
    """

    sponsor: str
    campaign: str
    committee: tuple[str, ...]
    threshold: int
    round_cap: int
    lifetime_cap: int
    deadline: int
    challenge_delay: int

    def to_json(self) -> str:
        """Return the terms as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Terms":
        """Parse terms written by `to_json`."""
        values = json.loads(text)
        return cls(**values | {"committee": tuple(values["committee"])})

    def struct(self, token: str) -> tuple[object, ...]:
        """Return the constructor's argument for a ledger that pays in `token`."""
        values = vars(self) | {"campaign": bytes.fromhex(self.campaign)}
        return (token, *values.values())


def expected_terms(options: ChainOptions, keys: Keys, campaign: Campaign, deadline: int = 0) -> Terms:
    """Return the terms given by a config and its keys."""
    return Terms(
        sponsor=keys.sponsor.address,
        campaign=campaign.campaign.hex(),
        committee=tuple(sorted((member.address for member in keys.committee), key=from_address)),
        threshold=options.threshold,
        round_cap=campaign.round_cap,
        lifetime_cap=campaign.budget,
        deadline=deadline,
        challenge_delay=options.challenge_delay,
    )


def read_terms(ledger: Contract) -> tuple[str, Terms]:
    """Return the token and the terms of a deployed ledger."""
    token, sponsor, campaign, *rest = ledger.many(*LEDGER_VIEWS)
    return token, Terms(sponsor, campaign.hex(), *rest)


def difference(found: Terms, expected: Terms) -> str | None:
    """Return the first term that differs from the expected ones, as ``name is value, not value``.

    The deadline is not compared, as it depends on the time of deployment.
    """
    for name, value in vars(expected).items():
        other = getattr(found, name)
        if name != "deadline" and value != other:
            return f"{name.replace('_', ' ')} is {_text(name, other)}, not {_text(name, value)}"
    return None


def _text(name: str, value: object) -> str:
    if isinstance(value, int) and name.endswith("_cap"):
        return f"{value / UNITS:g} tokens"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True)
class Addresses:
    """Addresses of a campaign's contracts; ids, hashes and addresses are 0x text.

    Attributes:
        genesis: Hash of the chain's block 0.
        registry: None without staking.
        block: A block before which no transaction of the campaign was mined.
        code: Hash of each contract's code by name.
    """

    chain_id: int
    genesis: str
    run_id: str
    campaign: str
    token: str
    ledger: str
    registry: str | None = None
    block: int = 0
    code: dict[str, str] = field(default_factory=dict)

    @property
    def run(self) -> bytes:
        """The run's id, 32 bytes."""
        return bytes.fromhex(self.run_id.removeprefix("0x"))

    def contracts(self) -> dict[str, str]:
        """Return the address of each contract by name."""
        found = {"FedToken": self.token, "RewardLedger": self.ledger}
        return found | ({"ParticipantRegistry": self.registry} if self.registry else {})

    def to_json(self) -> bytes:
        """Return the file's content."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


def read_addresses(path: Path) -> Addresses:
    """Read an addresses file; a `UsageError` if it is missing, or is not one."""
    try:
        addresses = Addresses(**read_json(path))
        if len(addresses.run) != 32:
            raise ValueError
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError):
        raise UsageError(f"{path}: not a file that `fedmeta chain deploy` wrote") from None
    return addresses


def our_contract(path: Path, chain: Chain, name: str, address: str) -> Contract:
    """Return one of our contracts, which must be at the address that a file names."""
    try:
        contract = Contract(chain, load_artifact(name), address)
    except ValueError as error:
        raise WrongCampaignError(f"{path}: {error}") from None
    if not contract.exists:
        raise WrongCampaignError(f"{path}: at {address} there is no {name} of this version of fedmeta")
    return contract


def check_deployed(
    path: Path, chain: Chain, options: ChainOptions, keys: Keys, campaign: Campaign
) -> tuple[Addresses, Terms]:
    """Check that a file's contracts are those of a campaign, and return it and the ledger's terms.

    Raises:
        WrongCampaignError: If the chain, a contract's code, the campaign or a term is another one.
    """
    addresses = read_addresses(path)
    require_chain(path, addresses.chain_id, addresses.genesis, chain, "deploy to another file")
    found = {
        name: our_contract(path, chain, name, address) for name, address in addresses.contracts().items()
    }
    token, terms = read_terms(found["RewardLedger"])
    if token.lower() != addresses.token.lower():
        raise WrongCampaignError(f"{path}: the ledger pays in {token}, not in {addresses.token}")
    if f"0x{terms.campaign}" != addresses.campaign:
        raise WrongCampaignError(
            f"{path}: the ledger is of campaign 0x{terms.campaign}, not {addresses.campaign}"
        )
    if wrong := difference(terms, expected_terms(options, keys, campaign)):
        raise WrongCampaignError(f"the campaign in {path} has other terms: {wrong}")
    if bool(addresses.registry) != options.staking.enabled:
        has = "a registry of stakes" if addresses.registry else "no registry of stakes"
        raise WrongCampaignError(f"{path} belongs to a campaign with {has}")
    return addresses, terms
