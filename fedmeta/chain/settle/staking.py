"""Stakes: each client stakes at the start; the committee slashes it for misbehaviour."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from fedmeta.chain.hashing import from_address, to_address
from fedmeta.chain.keys import open_client_keys
from fedmeta.chain.options import ChainOptions
from fedmeta.chain.settle.recording import Recording, attached, record_gas
from fedmeta.chain.settle.transactions import Action
from fedmeta.chain.signing import Signer, registry_domain, typed_digest
from fedmeta.errors import UsageError

_APPROVE_GAS = 100_000
_JOIN_GAS = 200_000
_LEAVE_GAS = 100_000
_SLASH_GAS = 250_000
_TRANSFER_GAS = 21_000
_WITHOUT_LIMIT = 2**256 - 1
_POCKET_MONEY = 10**16


class Stakes:
    """The registry of one campaign; each method may be called again after an error.

    In a simulation the sponsor pays the stakes; the contract returns them only to the accounts. An
    account's nonce counts its withdrawals and slashings, so an action's key is not used a second time.

    The `payer` pays stakes and sends the transactions; None: the sponsor.
    """

    def __init__(self, recording: Recording, payer: Signer | None = None) -> None:
        registry = recording.deployed.registry
        if registry is None:
            raise UsageError(
                f"{recording.journal.path}: this campaign has no stakes (chain.staking.enabled)"
            )
        self.recording = recording
        self.registry = registry
        self.payer = payer or recording.keys.sponsor

    def settle(self, stakes: Mapping[str, bytes | None]) -> None:
        """Let accounts that never joined join, and slash those with evidence against them."""
        events = self.registry.events("Joined", self.recording.journal.founded.block)
        joined = {event["args"]["account"].lower() for event in events}
        self.join([account for account in stakes if account.lower() not in joined])
        most = int(self.registry.call("slashCap"))
        for account, evidence in stakes.items():
            # An account that has withdrawn has no stake left to slash.
            if evidence is not None and self._has_stake(account):
                self.slash(account, most, evidence)

    def join(self, accounts: Sequence[str]) -> None:
        """Stake for those of the accounts that have no stake."""
        members = self.registry.each("members", accounts)
        missing = [account for account in accounts if not members[account][0]]
        if missing:
            self._allow()
        for account in missing:
            key = f"join {account}, nonce {members[account][2]}"
            self._send(key, ("join", account), partial(self._has_stake, account))

    def slash(self, account: str, units: int, evidence: bytes) -> bool:
        """Slash an account's stake, once per piece of evidence; return whether it was slashed now.

        Args:
            units: Token units to take; the contract caps an account's total loss.
            evidence: Hash of the evidence of misbehaviour, 32 bytes.
        """

        def done() -> bool:
            return any(
                event["args"]["account"].lower() == account.lower()
                and bytes(event["args"]["evidenceHash"]) == evidence
                for event in self.registry.events("Slashed", self.recording.journal.founded.block)
            )

        if done():
            return False
        nonce = self._nonce(account)
        domain = registry_domain(self.recording.chain.chain_id, self.registry.address)
        digest = typed_digest(domain, "Slash", account, units, evidence, nonce)
        threshold = self.recording.deployed.terms.threshold
        call = ("slash", account, units, evidence, self.recording.keys.sign(threshold, digest))
        key = f"slash {account} {evidence.hex()}, nonce {nonce}"
        return self._send(key, call, done, _SLASH_GAS + record_gas(threshold))

    def leave(self, signer: Signer) -> None:
        """Let a participant leave; the sponsor pays its gas, and the unbonding delay begins."""
        account, transactor = signer.address, self.recording.transactor
        eth = self.recording.chain.eth

        def has_left() -> bool:
            return not self.registry.call("isActive", account)

        def has_gas() -> bool:
            return eth.get_balance(account) >= _POCKET_MONEY

        if has_left():
            return
        nonce = self._nonce(account)
        if self.payer.address != account and not has_gas():
            # Earlier journals have the first key.
            key = f"gas for {account}, nonce {nonce}" if nonce else f"gas for {account}"
            gift = Action(key, account, b"", _TRANSFER_GAS, value=_POCKET_MONEY)
            transactor.perform(gift, self.payer, has_gas)
        key = f"leave {account}, nonce {nonce}"
        leave = Action(key, self.registry.address, self.registry.data("leave"), _LEAVE_GAS)
        transactor.perform(leave, signer, has_left)

    def withdraw(self, account: str) -> None:
        """Return an account's remaining stake to it, after the unbonding delay."""
        if self._has_stake(account):
            key = f"withdraw {account}, nonce {self._nonce(account)}"
            self._send(key, ("withdraw", account), lambda: not self._has_stake(account))

    def _has_stake(self, account: str) -> bool:
        return bool(self.registry.call("members", account)[0])

    def _nonce(self, account: str) -> int:
        return int(self.registry.call("members", account)[2])

    def _allow(self) -> None:
        # Safe without a limit: the registry takes only the stakes of accounts that the payer lets join.
        token, payer = self.recording.deployed.token, self.payer

        def allowed() -> bool:
            found = int(token.call("allowance", payer.address, self.registry.address))
            return found > _WITHOUT_LIMIT // 2

        if not allowed():
            data = token.data("approve", self.registry.address, _WITHOUT_LIMIT)
            key = f"approve stakes of {payer.address} to {self.registry.address}"
            action = Action(key, token.address, data, _APPROVE_GAS)
            self.recording.transactor.perform(action, payer, allowed)

    def _send(
        self, key: str, call: Sequence[object], done: Callable[[], bool], gas: int = _JOIN_GAS
    ) -> bool:
        function, *arguments = call
        data = self.registry.data(str(function), *arguments)
        action = Action(key, self.registry.address, data, gas)
        return self.recording.transactor.perform(action, self.payer, done)


StakeStep = Literal["join", "leave", "withdraw"]


def stake(folder: Path, options: ChainOptions, step: StakeStep, who: str, signer: Signer | None) -> str:
    """Join, leave or withdraw a stake, and return the account; see `attached` for errors.

    Args:
        who: The account: an address, or a client's number; empty: the signer's.
        signer: Signs and pays; None: the sponsor, or for a simulation's client that leaves, the client.

    Raises:
        UsageError: If the campaign has no registry, or the account is unknown.
        RevertedError: If the contract refuses, for example during the unbonding delay.
    """
    with attached(folder, options, signer) as recording:
        stakes, journal = Stakes(recording, signer), recording.journal
        if who.startswith("0x"):
            account = _address(who)
        else:
            account = signer.address if signer and not who else journal.account(who)
        if step == "join":
            stakes.join([account])
        elif step == "withdraw":
            stakes.withdraw(account)
        else:
            stakes.leave(signer or _client(recording, account))
        return account


def _address(who: str) -> str:
    try:
        return to_address(from_address(who))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _client(recording: Recording, account: str) -> Signer:
    client = recording.journal.clients().get(account)
    if client is not None:
        run, chain_id = recording.journal.founded.run, recording.chain.chain_id
        signer = open_client_keys(recording.options, chain_id, run).signer(client)
        if signer.address == account:
            return signer
    raise UsageError(f"{account} is not a client of this simulation: it leaves with its own --key")
