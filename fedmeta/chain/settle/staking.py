"""Stakes: each client's goes in at the start; the committee takes a part of it for misbehaviour."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from fedmeta.chain.contracts import Contract
from fedmeta.chain.keys import open_client_keys
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.journal_rows import Stake
from fedmeta.chain.settle.recording import Recording, attached, record_gas, sign_by
from fedmeta.chain.settle.transactions import Action
from fedmeta.chain.signing import Signer
from fedmeta.chain.typed_data import Slash, registry_domain, slash_digest
from fedmeta.errors import UsageError

_APPROVE_GAS = 100_000
_JOIN_GAS = 200_000
_LEAVE_GAS = 100_000
_SLASH_GAS = 250_000
_TRANSFER_GAS = 21_000
_WITHOUT_LIMIT = 2**256 - 1
_POCKET_MONEY = 10**16


class Stakes:
    """The registry of one campaign.

    In a simulation the sponsor puts down the stakes; the contract gives them back to the accounts alone.

    Args:
        recording: Knows the chain, the journal, the keys and the ledger.
        token: What stakes are paid in.
        registry: The campaign's registry.
        payer: Puts down stakes and sends the transactions; None: the sponsor.
    """

    def __init__(
        self, recording: Recording, token: Contract, registry: Contract, payer: Signer | None = None
    ) -> None:
        self.recording = recording
        self.payer = payer or recording.keys.sponsor
        self.token = token
        self.registry = registry
        self.keys = recording.keys

    def settle(self, stakes: Sequence[Stake]) -> None:
        """Bring the registry to what the journal says; safe to repeat.

        Raises:
            ChainError: See `Transactor.perform`; call again later.
        """
        self.join_all([stake.account for stake in stakes])
        most = int(self.registry.call("slashCap"))
        for stake in stakes:
            # Who has left took the rest along: there is nothing to slash, and no reason to stop.
            if stake.evidence is not None and int(self.registry.call("members", stake.account)[0]):
                self.slash(stake.account, most, stake.evidence)

    def join_all(self, accounts: Sequence[str]) -> int:
        """Put down the stake of each account that never joined; return how many did now.

        Raises:
            ChainError: See `Transactor.perform`; call again later.
        """
        joined = self._joined()
        missing = [account for account in accounts if account.lower() not in joined]
        if missing:
            self._allow()
        for account in missing:
            self._send(f"join {account}", "join", (account,), partial(self._has_joined, account))
        return len(missing)

    def join(self, account: str) -> bool:
        """Put down a stake for one account, also for one that left before; False: it has one.

        Raises:
            RevertedError: If the payer has too few tokens.
        """

        def done() -> bool:
            return int(self.registry.call("members", account)[0]) > 0

        if done():
            return False
        self._allow()
        nonce = self.registry.call("members", account)[2]
        return self._send(f"join {account}, nonce {nonce}", "join", (account,), done)

    def slash(self, account: str, units: int, evidence: bytes) -> bool:
        """Take a part of an account's stake for one piece of evidence, once.

        Args:
            account: Whose stake.
            units: How much; the contract caps what one account can lose.
            evidence: Hash of what shows the misbehaviour, 32 bytes.

        Returns:
            Whether it was done now; False: the evidence was used against the account before.

        Raises:
            RevertedError: If there is no stake, or not so much may be taken.
        """

        def done() -> bool:
            return any(
                event["args"]["account"].lower() == account.lower()
                and bytes(event["args"]["evidenceHash"]) == evidence
                for event in self.registry.events("Slashed", self.recording.journal.founded.block)
            )

        if done():
            return False
        _, _, nonce = self.registry.call("members", account)
        slash = Slash(account=account, amount=units, evidence_hash=evidence, nonce=int(nonce))
        chain = self.recording.transactor.chain
        digest = slash_digest(registry_domain(chain.chain_id, self.registry.address), slash)
        signatures = sign_by(self.keys.committee, self.recording.terms.threshold, digest)
        key = f"slash {account} {evidence.hex()}, nonce {nonce}"
        return self._send(
            key,
            "slash",
            (account, units, evidence, signatures),
            done,
            _SLASH_GAS + record_gas(self.recording.terms.threshold),
        )

    def leave(self, signer: Signer) -> None:
        """Let a participant leave; the sponsor pays for its gas, and its stake waits out the delay."""
        account = signer.address
        if not self.registry.call("isActive", account):
            return
        chain = self.recording.transactor.chain

        def has_gas() -> bool:
            return chain.eth.get_balance(account) >= _POCKET_MONEY

        if self.payer.address != account and not has_gas():
            gift = Action(f"gas for {account}", account, b"", _TRANSFER_GAS, value=_POCKET_MONEY)
            self.recording.transactor.perform(gift, self.payer, has_gas)
        leave = Action(
            f"leave {account}", self.registry.address, self.registry.data("leave"), _LEAVE_GAS
        )
        self.recording.transactor.perform(
            leave, signer, lambda: not self.registry.call("isActive", account)
        )

    def withdraw(self, account: str) -> None:
        """Give an account what is left of its stake, once its delay is over.

        Raises:
            RevertedError: If it has not left, or the delay is not over.
        """

        def done() -> bool:
            return int(self.registry.call("members", account)[0]) == 0

        if not done():
            self._send(f"withdraw {account}", "withdraw", (account,), done)

    def _joined(self) -> set[str]:
        events = self.registry.events("Joined", self.recording.journal.founded.block)
        return {str(event["args"]["account"]).lower() for event in events}

    def _has_joined(self, account: str) -> bool:
        return account.lower() in self._joined()

    def _allow(self) -> None:
        # The registry takes exactly the stake of whoever joins, and only when the sponsor asks.
        payer = self.payer.address

        def allowed() -> bool:
            found = int(self.token.call("allowance", payer, self.registry.address))
            return found > _WITHOUT_LIMIT // 2

        if not allowed():
            data = self.token.data("approve", self.registry.address, _WITHOUT_LIMIT)
            key = f"approve stakes of {payer} to {self.registry.address}"
            action = Action(key, self.token.address, data, _APPROVE_GAS)
            self.recording.transactor.perform(action, self.payer, allowed)

    def _send(
        self,
        key: str,
        function: str,
        arguments: Sequence[object],
        done: Callable[[], bool],
        gas: int = _JOIN_GAS,
    ) -> bool:
        data = self.registry.data(function, *arguments)
        action = Action(key, self.registry.address, data, gas)
        return self.recording.transactor.perform(action, self.payer, done)


StakeStep = Literal["join", "leave", "withdraw"]


def stake(folder: Path, options: ChainOptions, step: StakeStep, who: str, signer: Signer | None) -> str:
    """Join, leave or withdraw by stake, and return the account; errors as of `attached`.

    Args:
        folder: The run's ``chain`` folder.
        options: Of the chain.
        step: What to do.
        who: The account: an address, or a client's number; empty: the signer's.
        signer: Whose key signs and pays; None: the sponsor, and for a simulation's client who leaves the
            client itself.

    Raises:
        UsageError: If the campaign has no registry, or the account is not known.
        RevertedError: If the contract refuses, such as a stake whose unbonding delay still runs.
    """
    with attached(folder, options, signer) as recording:
        registry, journal = recording.deployed.registry, recording.journal
        if registry is None:
            raise UsageError(f"{journal.path}: this campaign has no stakes (chain.staking.enabled)")
        account = who if who.startswith("0x") else ""
        account = account or (signer.address if signer and not who else journal.account(who))
        stakes = Stakes(recording, recording.deployed.token, registry, signer)
        if step == "join":
            stakes.join(account)
        elif step == "withdraw":
            stakes.withdraw(account)
        else:
            stakes.leave(signer or _client(recording, options, account))
        return account


def _client(recording: Recording, options: ChainOptions, account: str) -> Signer:
    """Return the signer of a simulation's client.

    Raises:
        UsageError: If it is not a client of this simulation.
    """
    client = recording.journal.clients().get(account)
    if client is not None:
        chain_id, run = recording.transactor.chain.chain_id, recording.journal.founded.run
        signer = open_client_keys(options, chain_id, run).signer(client)
        if signer.address == account:
            return signer
    raise UsageError(f"{account} is not a client of this simulation: it leaves with its own --key")
