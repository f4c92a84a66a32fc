"""The embedded chain, Anvil and Ganache behave alike: the same tests run on all three."""

import pytest
from hexbytes import HexBytes
from web3.exceptions import TransactionNotFound

from fedmeta.chain import Chain
from fedmeta.chain.chain import Receipt, require_rules
from fedmeta.chain.errors import ChainError, RevertedError, RpcError
from tests.chain.providers.helpers import (
    NOBODY,
    OTHERS,
    SPONSOR,
    SUPPLY,
    TOKEN,
    balance,
    call,
    latest,
    next_nonce,
    number,
    receipt,
    send,
    sign,
)

TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


class TestIdentity:
    def test_it_has_the_usual_chain_id(self, chain: Chain) -> None:
        assert chain.chain_id == 31337
        assert chain.request("eth_chainId") == "0x7a69"

    def test_its_genesis_is_block_0(self, chain: Chain) -> None:
        block = chain.request("eth_getBlockByNumber", ("0x0", False))
        assert block["hash"] == "0x" + chain.genesis.hex()
        assert number(block["number"]) == 0

    def test_its_hard_fork_is_new_enough(self, chain: Chain) -> None:
        require_rules(chain)

    def test_blocks_hold_large_transactions(self, chain: Chain) -> None:
        assert number(latest(chain)["gasLimit"]) >= 60_000_000

    def test_the_development_accounts_have_funds(self, chain: Chain) -> None:
        assert balance(chain, OTHERS[3].address) == 10_000 * 10**18


class TestTransactions:
    def test_value_is_transferred(self, chain: Chain) -> None:
        before, head = balance(chain, NOBODY), number(latest(chain)["number"])
        found = send(chain, sign(next_nonce(chain), to=NOBODY, value=5))
        assert balance(chain, NOBODY) == before + 5
        assert (found["status"], number(found["gasUsed"])) == ("0x1", 21_000)
        assert number(found["blockNumber"]) == head + 1
        assert found["blockHash"] == latest(chain)["hash"]

    def test_a_sender_pays_the_amount_in_the_receipt(self, chain: Chain) -> None:
        before = balance(chain, SPONSOR.address)
        found = send(chain, sign(next_nonce(chain), to=NOBODY, value=7))
        fee = number(found["gasUsed"]) * number(found["effectiveGasPrice"])
        assert before - balance(chain, SPONSOR.address) == fee + 7

    def test_legacy_transactions_are_taken_as_well(self, chain: Chain) -> None:
        raw, digest = SPONSOR.sign_transaction(
            {
                "chainId": 31337,
                "nonce": next_nonce(chain),
                "gas": 21_000,
                "gasPrice": 10 * 10**9,
                "to": NOBODY,
                "value": 1,
            }
        )
        assert send(chain, ("0x" + raw.hex(), "0x" + digest.hex()))["type"] == "0x0"

    def test_a_transaction_is_found_by_its_hash(self, chain: Chain) -> None:
        nonce = next_nonce(chain)
        signed = sign(nonce, to=NOBODY, value=5)
        assert chain.request("eth_getTransactionByHash", (signed[1],)) is None
        assert chain.request("eth_getTransactionReceipt", (signed[1],)) is None
        found = send(chain, signed)
        shown = chain.request("eth_getTransactionByHash", (signed[1],))
        assert (number(shown["nonce"]), number(shown["value"])) == (nonce, 5)
        assert shown["blockHash"] == found["blockHash"]
        assert shown["from"].lower() == SPONSOR.address.lower()

    @pytest.mark.parametrize("raw", ["0x", "0x1234", "0x02c0", "0xff" + "00" * 40])
    def test_an_invalid_transaction_is_refused(self, chain: Chain, raw: str) -> None:
        with pytest.raises(RpcError):
            chain.request("eth_sendRawTransaction", (raw,))

    def test_an_account_without_funds_sends_nothing(self, chain: Chain) -> None:
        poor = type(SPONSOR)(bytes([9] * 32))
        with pytest.raises(RpcError, match=r"fund|afford|balance|cost"):
            chain.request("eth_sendRawTransaction", (sign(0, poor, to=NOBODY, value=1)[0],))
        assert next_nonce(chain, poor) == 0

    def test_another_chains_transaction_is_refused(self, chain: Chain) -> None:
        raw, digest = sign(next_nonce(chain), chainId=1, to=NOBODY, value=1)
        with pytest.raises(RpcError, match="chain"):
            chain.request("eth_sendRawTransaction", (raw,))
        assert chain.request("eth_getTransactionReceipt", (digest,)) is None


class TestContracts:
    def test_a_contract_is_deployed_and_recognised(self, chain: Chain, token: str) -> None:
        code = chain.request("eth_getCode", (token, "latest"))
        assert TOKEN.matches(bytes.fromhex(code[2:]))
        assert chain.request("eth_getCode", (NOBODY, "latest")) == "0x"

    def test_views_are_called(self, chain: Chain, token: str) -> None:
        data = chain.request("eth_call", (call(token, NOBODY, "totalSupply"), "latest"))
        assert TOKEN.decode("totalSupply", bytes.fromhex(data[2:])) == (SUPPLY,)

    def test_events_are_found_by_topic_and_address(self, chain: Chain, token: str) -> None:
        data = TOKEN.encode("transfer", OTHERS[0].address, 12)
        found = send(chain, sign(next_nonce(chain), to=token, data=data))
        wanted = {
            "address": token,
            "topics": [TRANSFER, None, "0x" + OTHERS[0].address[2:].lower().zfill(64)],
            "fromBlock": "0x0",
            "toBlock": "latest",
        }
        logs = chain.request("eth_getLogs", (wanted,))
        assert [log["transactionHash"] for log in logs] == [found["transactionHash"]]
        assert int(logs[0]["data"], 16) == 12
        assert int(found["logs"][0]["data"], 16) == 12
        beyond = {**wanted, "fromBlock": hex(number(found["blockNumber"]) + 1)}
        assert chain.request("eth_getLogs", ({**wanted, "address": NOBODY},)) == []
        assert chain.request("eth_getLogs", ({**wanted, "topics": ["0x" + "11" * 32]},)) == []
        send(chain, sign(next_nonce(chain), to=NOBODY, value=1))
        assert chain.request("eth_getLogs", (beyond,)) == []

    def test_an_estimate_is_enough_and_not_too_much(self, chain: Chain, token: str) -> None:
        wanted = call(token, SPONSOR.address, "transfer", OTHERS[1].address, 3)
        estimate = number(chain.request("eth_estimateGas", (wanted,)))
        data = bytes.fromhex(wanted["data"][2:])
        found = send(chain, sign(next_nonce(chain), to=token, data=data, gas=estimate))
        assert found["status"] == "0x1"
        assert number(found["gasUsed"]) <= estimate <= 2 * number(found["gasUsed"])


class TestRules:
    """All three follow Shanghai's rules: what runs on one runs on the others."""

    def test_push0_is_known(self, chain: Chain) -> None:
        # PUSH0 PUSH0 RETURN, as a contract's creation.
        assert (
            chain.request("eth_call", ({"from": SPONSOR.address, "data": "0x5f5ff3"}, "latest")) == "0x"
        )

    def test_mcopy_which_newer_contracts_need_is_not(self, chain: Chain) -> None:
        # PUSH0 PUSH0 PUSH0 MCOPY STOP.
        with pytest.raises(ChainError):
            chain.request("eth_call", ({"from": SPONSOR.address, "data": "0x5f5f5f5e00"}, "latest"))


class TestRefusals:
    """Whatever the node: the same error, with the same name and arguments."""

    REFUSAL = ("ERC20InsufficientBalance", ("0x" + "33" * 20, 0, 5))

    @pytest.mark.parametrize("method", ["eth_call", "eth_estimateGas"])
    def test_a_custom_error_has_its_name_and_arguments(
        self, chain: Chain, token: str, method: str
    ) -> None:
        wanted = call(token, NOBODY, "transfer", OTHERS[0].address, 5)
        with pytest.raises(RevertedError) as caught:
            chain.request(method, (wanted, "latest"))
        assert (caught.value.name, caught.value.arguments) == self.REFUSAL
        assert len(caught.value.data) == 4 + 3 * 32

    def test_in_a_batch_an_error_takes_the_place_of_its_result(self, chain: Chain, token: str) -> None:
        wanted = call(token, NOBODY, "transfer", OTHERS[0].address, 5)
        answers = chain.batch(
            [("eth_chainId", ()), ("eth_call", (wanted, "latest")), ("no_such", ()), ("net_version", ())]
        )
        assert answers[0] == "0x7a69"
        assert isinstance(answers[1], RevertedError)
        assert (answers[1].name, answers[1].arguments) == self.REFUSAL
        assert isinstance(answers[2], RpcError)
        assert answers[3] == "31337"

    def test_a_refused_transaction_is_mined_and_says_so(self, chain: Chain, token: str) -> None:
        data = TOKEN.encode("transfer", NOBODY, SUPPLY * 2)
        nonce = next_nonce(chain)
        found = send(chain, sign(nonce, to=token, data=data))
        assert (found["status"], found["logs"]) == ("0x0", [])
        assert next_nonce(chain) == nonce + 1

    def test_a_method_that_does_not_exist_is_an_error_of_the_nodes(self, chain: Chain) -> None:
        with pytest.raises(RpcError, match=r"no_such|[Nn]ot found") as caught:
            chain.request("no_such")
        assert caught.value.code < 0

    def test_an_empty_batch_asks_nothing(self, chain: Chain) -> None:
        assert chain.batch([]) == []


class TestTime:
    def test_blocks_are_mined_and_the_clock_set_ahead(self, chain: Chain) -> None:
        before = latest(chain)
        chain.request("evm_increaseTime", (86_400,))
        chain.request("evm_mine")
        after = latest(chain)
        assert number(after["number"]) == number(before["number"]) + 1
        assert after["parentHash"] == before["hash"]
        assert 0 <= number(after["timestamp"]) - number(before["timestamp"]) - 86_400 < 60

    def test_a_snapshot_is_restored_as_by_a_reorganisation(self, chain: Chain) -> None:
        before, nonce, funds = latest(chain), next_nonce(chain), balance(chain, NOBODY)
        snapshot = chain.request("evm_snapshot")
        signed = sign(nonce, to=NOBODY, value=5)
        lost = send(chain, signed)
        assert chain.request("evm_revert", (snapshot,)) is True
        assert latest(chain)["hash"] == before["hash"]
        assert balance(chain, NOBODY) == funds
        assert chain.request("eth_getTransactionReceipt", (signed[1],)) is None
        assert chain.request("eth_getBlockByHash", (lost["blockHash"], False)) is None
        # Another takes its place, and then it is mined after all.
        send(chain, sign(0, OTHERS[4], to=NOBODY, value=1))
        again = send(chain, signed)
        assert number(again["blockNumber"]) == number(before["number"]) + 2
        assert again["blockHash"] != lost["blockHash"]
        assert receipt(chain, signed[1])["blockHash"] == again["blockHash"]


class TestReceipts:
    def test_those_of_mined_transactions_say_what_web3_says(self, chain: Chain, token: str) -> None:
        data = TOKEN.encode("transfer", NOBODY, SUPPLY * 2)
        gift = sign(next_nonce(chain), to=NOBODY, value=3)
        send(chain, gift)
        refused = sign(next_nonce(chain), to=token, data=data)
        send(chain, refused)
        hashes = [bytes.fromhex(one[1][2:]) for one in (gift, refused)]
        found = chain.receipts([*hashes, b"\x07" * 32])
        assert found[2] is None
        for one, digest, succeeded in zip(found, hashes, (True, False), strict=False):
            expected = chain.eth.get_transaction_receipt(HexBytes(digest))
            assert one == Receipt(
                succeeded, expected["blockHash"], expected["blockNumber"], expected["gasUsed"]
            )
            assert expected["status"] == succeeded

    def test_more_than_are_asked_for_at_once_come_in_order(self, chain: Chain) -> None:
        signed = sign(next_nonce(chain), to=NOBODY, value=3)
        send(chain, signed)
        digest = bytes.fromhex(signed[1][2:])
        unknown = [number.to_bytes(32) for number in range(300)]
        found = chain.receipts([*unknown, digest])
        assert found[:300] == [None] * 300
        assert found[300] is not None
        assert found[300].gas == 21_000


class TestWeb3:
    def test_web3_works_on_it(self, chain: Chain, token: str) -> None:
        w3 = chain
        assert w3.eth.chain_id == 31337
        assert w3.is_connected()
        contract = w3.eth.contract(address=w3.to_checksum_address(token), abi=list(TOKEN.abi))
        assert contract.functions.totalSupply().call() == SUPPLY
        assert w3.eth.get_block("latest")["hash"].hex() == latest(chain)["hash"][2:]

    def test_its_errors_are_ours(self, chain: Chain, token: str) -> None:
        w3 = chain
        contract = w3.eth.contract(address=w3.to_checksum_address(token), abi=list(TOKEN.abi))
        transfer = contract.functions.transfer(OTHERS[0].address, 5)
        with pytest.raises(RevertedError) as caught:
            transfer.call({"from": w3.to_checksum_address(NOBODY)})
        assert (caught.value.name, caught.value.arguments) == TestRefusals.REFUSAL
        with pytest.raises(TransactionNotFound):
            w3.eth.get_transaction("0x" + "12" * 32)  # type: ignore[arg-type]
