"""What a campaign's contracts are made with."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fedmeta.chain.contracts import Contract
from fedmeta.chain.hashing import from_address

UNITS = 10**6
"""Token units in a whole token."""

_VIEWS = {
    "token": "token",
    "sponsor": "sponsor",
    "campaign": "campaign",
    "committee": "committee",
    "threshold": "threshold",
    "round_cap": "roundCap",
    "lifetime_cap": "lifetimeCap",
    "deadline": "deadline",
    "challenge_delay": "challengeDelay",
}


@dataclass(frozen=True)
class Terms:
    """Terms of a ledger; amounts in token units, times in seconds.

    Attributes:
        campaign: Id of the campaign, hexadecimal.
        sponsor: Address that funds it.
        committee: Addresses in rising order.
        threshold: Signatures that a record needs.
        round_cap: Most that a round may pay.
        lifetime_cap: Most that all rounds may pay.
        deadline: Chain time until which the sponsor cannot take anything back.
        challenge_delay: Before a record becomes claimable.
    """

    campaign: str
    sponsor: str
    committee: tuple[str, ...]
    threshold: int
    round_cap: int
    lifetime_cap: int
    deadline: int
    challenge_delay: int

    def to_json(self) -> str:
        """Return them as text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Terms":
        """Return the terms that `to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"committee": tuple(values["committee"])})

    def struct(self, token: str) -> tuple[object, ...]:
        """Return the constructor's argument for a ledger that pays in `token`."""
        return (
            token,
            self.sponsor,
            bytes.fromhex(self.campaign),
            self.committee,
            self.threshold,
            self.round_cap,
            self.lifetime_cap,
            self.deadline,
            self.challenge_delay,
        )


def ascending(addresses: Sequence[str]) -> tuple[str, ...]:
    """Return addresses in the order in which the contracts want members and signatures."""
    return tuple(sorted(addresses, key=from_address))


def read_terms(ledger: Contract) -> tuple[str, Terms]:
    """Return the token and the terms of a deployed ledger."""
    values = dict(zip(_VIEWS, ledger.many(*_VIEWS.values()), strict=True))
    token = str(values.pop("token"))
    fields = values | {"campaign": values["campaign"].hex(), "committee": tuple(values["committee"])}
    return token, Terms(**fields)


def difference(found: Terms, expected: Terms) -> str | None:
    """Return the first term in which a ledger is not what is expected, as ``name: value, not value``.

    The deadline depends on when the ledger was deployed, and is not compared.
    """
    for name, value in asdict(expected).items():
        other = asdict(found)[name]
        if name != "deadline" and _plain(value) != _plain(other):
            return f"{name.replace('_', ' ')} is {_text(name, other)}, not {_text(name, value)}"
    return None


def _plain(value: object) -> object:
    if isinstance(value, str):
        return value.lower()
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def _text(name: str, value: object) -> str:
    if isinstance(value, int) and name.endswith("_cap"):
        return f"{value / UNITS:g} tokens"
    return ", ".join(value) if isinstance(value, (tuple, list)) else str(value)
