"""Stakes: each client stakes at the start; the committee slashes it for misbehaviour."""

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

    In a simulation the sponsor pays the stakes; the contract returns them only to the accounts.

    Args:
        recording: Holds the chain, the journal, the keys and the ledger.
        token: Token of the stakes.
        registry: The campaign's registry.
        payer: Pays stakes and sends the transactions; None: the sponsor.
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
        """Bring the registry up to date with the journal; safe to repeat.

        Raises:
            ChainError: See `Transactor.perform`; call again later.
        """
        self.join_all([stake.account for stake in stakes])
        most = int(self.registry.call("slashCap"))
        for stake in stakes:
            # An account that has withdrawn has no stake left to slash.
            if stake.evidence is not None and int(self.registry.call("members", stake.account)[0]):
                self.slash(stake.account, most, stake.evidence)

    def join_all(self, accounts: Sequence[str]) -> int:
        """Stake for each account that never joined; return how many joined now.

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
        """Stake for one account, including one that left before; return False if it has a stake.

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
        """Slash an account's stake, once per piece of evidence.

        Args:
            account: Owner of the stake.
            units: Token units to take; the contract caps an account's total loss.
            evidence: Hash of the evidence of misbehaviour, 32 bytes.

        Returns:
            Whether it was slashed now; False if the evidence was used against the account before.

        Raises:
            RevertedError: If there is no stake, or `units` exceeds the cap.
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
        """Let a participant leave; the sponsor pays its gas, and the unbonding delay begins."""
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
        """Return an account's remaining stake to it, after the unbonding delay.

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
        # Safe without a limit: the registry takes only the stakes of accounts that the payer lets join.
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
    """Join, leave or withdraw a stake, and return the account; see `attached` for errors.

    Args:
        folder: The run's ``chain`` folder.
        options: Options of the chain.
        step: The step.
        who: The account: an address, or a client's number; empty: the signer's.
        signer: Signs and pays; None: the sponsor, or for a simulation's client that leaves, the client.

    Raises:
        UsageError: If the campaign has no registry, or the account is unknown.
        RevertedError: If the contract refuses, for example during the unbonding delay.
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
