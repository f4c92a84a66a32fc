"""The file that says where a campaign's contracts are: written by `chain deploy`, read by runs."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedmeta.chain.chain import Chain
from fedmeta.chain.contracts import Contract, load_artifact
from fedmeta.chain.errors import WrongCampaignError
from fedmeta.chain.settle.terms import Terms, read_terms
from fedmeta.errors import UsageError
from fedmeta.files import read_json


@dataclass(frozen=True)
class Addresses:
    """Where a campaign is; hashes and addresses are 0x text.

    Attributes:
        chain_id: Of the chain.
        genesis: Hash of its block 0.
        run_id: Of the run that the campaign is for.
        campaign: Id of the campaign.
        token: Address of the token.
        ledger: Address of the ledger.
        registry: Address of the registry; None without staking.
        block: Nothing of the campaign was mined before it.
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

    def check_chain(self, path: Path, chain: Chain) -> None:
        """Refuse a chain that is not the one the file is about.

        Raises:
            WrongCampaignError: Naming both.
        """
        if chain.chain_id != self.chain_id:
            raise WrongCampaignError(f"{path} is about chain {self.chain_id}, not {chain.chain_id}")
        genesis = f"0x{chain.genesis.hex()}"
        if genesis != self.genesis:
            raise WrongCampaignError(
                f"{path} is about another chain with id {self.chain_id} (genesis {self.genesis[:10]}, "
                f"here {genesis[:10]}): the chain was reset; deploy to another file"
            )


def read_addresses(path: Path) -> Addresses:
    """Read an addresses file.

    Raises:
        UsageError: If it is missing, or is no such file.
    """
    try:
        addresses = Addresses(**read_json(path))
        if len(addresses.run) != 32:
            raise ValueError
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError):
        raise UsageError(f"{path}: not a file that `fedmeta chain deploy` wrote") from None
    return addresses


def check_deployed(path: Path, addresses: Addresses, chain: Chain) -> Terms:
    """Return the terms of the ledger that a file names, once all its contracts are found to be ours.

    Raises:
        WrongCampaignError: If a contract is missing, has other code, or belongs to another campaign.
    """
    for name, address in addresses.contracts().items():
        if not Contract(chain, load_artifact(name), address).exists:
            raise WrongCampaignError(
                f"{path}: at {address} there is no {name} of this version of fedmeta"
            )
    ledger = Contract(chain, load_artifact("RewardLedger"), addresses.ledger)
    token, terms = read_terms(ledger)
    if token.lower() != addresses.token.lower():
        raise WrongCampaignError(f"{path}: the ledger pays in {token}, not in {addresses.token}")
    if f"0x{terms.campaign}" != addresses.campaign:
        raise WrongCampaignError(
            f"{path}: the ledger is of campaign 0x{terms.campaign}, not {addresses.campaign}"
        )
    return terms
