"""Specifics of the embedded chain: its machine, store and methods."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests
import rlp
from eth_account import Account
from web3 import Web3
from web3.exceptions import ContractCustomError
from web3.middleware import (
    ExtraDataToPOAMiddleware,
    GasPriceStrategyMiddleware,
    SignAndSendRawMiddlewareBuilder,
)
from web3.providers.rpc.utils import ExceptionRetryConfiguration
from web3.types import RPCEndpoint

import fedmeta.chain
from fedmeta.chain import Chain, ChainOptions, Node, development_keys, start_node
from fedmeta.chain.chain import open_chain
from fedmeta.chain.errors import RevertedError, RpcError
from fedmeta.chain.evm.store import Store
from fedmeta.chain.hashing import keccak
from tests.chain.providers.helpers import (
    NOBODY,
    OTHERS,
    SPONSOR,
    TOKEN,
    balance,
    call,
    deploy_token,
    latest,
    next_nonce,
    number,
    options,
    send,
    sign,
)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with open_chain(options("embedded"), tmp_path_factory.mktemp("embedded")) as opened:
        yield opened


def field(block: dict[str, Any], name: str) -> bytes:
    text = block[name][2:]
    return bytes.fromhex(text if len(text) % 2 == 0 else "0" + text)


def test_a_blocks_hash_is_that_of_its_header(chain: Chain) -> None:
    send(chain, sign(next_nonce(chain), to=NOBODY, value=1))
    block = latest(chain)
    # The fields of a header in the order of EIP-4895; numbers without leading zeros.
    bytes_ = [
        "parentHash",
        "sha3Uncles",
        "miner",
        "stateRoot",
        "transactionsRoot",
        "receiptsRoot",
        "logsBloom",
    ]
    numbers = ["difficulty", "number", "gasLimit", "gasUsed", "timestamp"]
    tail = ["extraData", "mixHash", "nonce"]
    header: list[object] = [field(block, name) for name in bytes_]
    header += [number(block[name]) for name in numbers] + [field(block, name) for name in tail]
    header += [number(block["baseFeePerGas"]), field(block, "withdrawalsRoot")]
    assert "0x" + keccak(rlp.encode(header)).hex() == block["hash"]


def test_the_base_fee_follows_eip_1559(chain: Chain) -> None:
    chain.request("evm_mine")
    parent = latest(chain)
    chain.request("evm_mine")
    fee, used, target = (
        number(parent["baseFeePerGas"]),
        number(parent["gasUsed"]),
        number(parent["gasLimit"]) // 2,
    )
    assert used == 0
    assert number(latest(chain)["baseFeePerGas"]) == fee - fee * target // target // 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nonce": 10_000}, "nonce too high"),
        ({"nonce": 0}, "nonce too low|already known"),
        ({"maxFeePerGas": 0, "maxPriorityFeePerGas": 0}, "max fee per gas"),
        ({"gas": 61_000_000}, "exceeds gas limit"),
        ({"gas": 20_000}, "[Ii]ntrinsic|gas"),
        ({"value": 10**30}, "insufficient funds"),
    ],
)
def test_invalid_transactions_are_refused_and_leave_no_trace(
    chain: Chain, fields: dict[str, int], message: str
) -> None:
    send(chain, sign(next_nonce(chain), to=NOBODY, value=1))
    before = latest(chain)
    signed = sign(**{"nonce": next_nonce(chain), "to": NOBODY, **fields})  # type: ignore[arg-type]
    with pytest.raises(RpcError, match=message):
        chain.request("eth_sendRawTransaction", (signed[0],))
    assert latest(chain)["hash"] == before["hash"]
    assert chain.request("eth_getTransactionReceipt", (signed[1],)) is None


def test_a_transaction_is_mined_once(chain: Chain) -> None:
    signed = sign(next_nonce(chain), to=NOBODY, value=1)
    found = send(chain, signed)
    with pytest.raises(RpcError, match="already known"):
        chain.request("eth_sendRawTransaction", (signed[0],))
    assert chain.request("eth_getTransactionReceipt", (signed[1],)) == found


def test_a_changed_signature_is_another_sender_or_none(chain: Chain) -> None:
    before = next_nonce(chain)
    raw, _ = sign(before, to=NOBODY, value=1)
    for forged in (raw[:-2] + "00", raw[:-64] + "00" * 32):
        with pytest.raises(RpcError):
            chain.request("eth_sendRawTransaction", (forged,))
    assert next_nonce(chain) == before


def test_the_past_can_be_asked(chain: Chain) -> None:
    token = deploy_token(chain)
    then = latest(chain)["number"]
    before = balance(chain, NOBODY)
    send(chain, sign(next_nonce(chain), to=NOBODY, value=9))
    send(chain, sign(next_nonce(chain), to=token, data=TOKEN.encode("transfer", NOBODY, 4)))
    assert chain.request("eth_getBalance", (NOBODY, then)) == hex(before)
    ask = call(token, NOBODY, "balanceOf", NOBODY)
    assert [number(chain.request("eth_call", (ask, block))) for block in (then, "latest")] == [0, 4]
    # A call leaves no trace.
    chain.request("eth_call", (call(token, SPONSOR.address, "transfer", NOBODY, 5), "latest"))
    assert number(chain.request("eth_call", (ask, "latest"))) == 4


def test_contracts_see_the_last_blocks_hash(chain: Chain) -> None:
    # BLOCKHASH(NUMBER - 1), returned as a word; and the code that deploys these 12 bytes.
    runtime = "4360019003405f5260205ff3"
    creation = bytes.fromhex("6b" + runtime + "5f52600c6014f3")
    made = send(chain, sign(next_nonce(chain), data=creation))
    answer = chain.request("eth_call", ({"to": made["contractAddress"]}, "latest"))
    assert answer == latest(chain)["hash"]


def test_running_out_of_gas_is_not_a_refusal(chain: Chain) -> None:
    token = deploy_token(chain)
    wanted = call(token, SPONSOR.address, "transfer", NOBODY, 1)
    with pytest.raises(RpcError, match="OutOfGas"):
        chain.request("eth_call", ({**wanted, "gas": hex(25_000)}, "latest"))
    with pytest.raises(RevertedError):
        chain.request("eth_call", (call(token, NOBODY, "transfer", OTHERS[0].address, 1), "latest"))


def test_the_next_timestamp_can_be_chosen(chain: Chain) -> None:
    wanted = number(latest(chain)["timestamp"]) + 5_000
    chain.request("evm_setNextBlockTimestamp", (wanted,))
    chain.request("evm_mine")
    assert number(latest(chain)["timestamp"]) == wanted
    chain.request("evm_mine")
    assert 0 <= number(latest(chain)["timestamp"]) - wanted < 10
    with pytest.raises(RpcError, match="is not after the last block's"):
        chain.request("evm_setNextBlockTimestamp", (wanted,))


def test_a_clock_that_was_set_ahead_stays_so(tmp_path: Path) -> None:
    with open_chain(options("embedded"), tmp_path) as chain:
        chain.request("evm_increaseTime", (10_000,))
        start = number(latest(chain)["timestamp"])
    with open_chain(options("embedded"), tmp_path) as chain:
        chain.request("evm_mine")
        assert 10_000 <= number(latest(chain)["timestamp"]) - start < 10_060


def test_whole_transactions_are_shown_on_request(chain: Chain) -> None:
    found = send(chain, sign(next_nonce(chain), to=NOBODY, value=1))
    block = chain.request("eth_getBlockByHash", (found["blockHash"], True))
    assert [t["hash"] for t in block["transactions"]] == [found["transactionHash"]]
    assert chain.request("eth_getBlockByNumber", ("0xffffff", False)) is None


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBalance", ()),
        ("eth_getBalance", ("0x12", "latest")),
        ("eth_getBalance", (NOBODY, "yesterday")),
        ("eth_getBalance", (NOBODY, "0xffffff")),
        ("eth_call", ("0x12", "latest")),
        ("eth_call", ({"to": NOBODY, "data": "12"}, "latest")),
        ("eth_call", ({"to": NOBODY, "data": "0xzz"}, "latest")),
        ("eth_call", ({"to": 5}, "latest")),
        ("eth_getLogs", (5,)),
        ("eth_getLogs", ({"address": 5},)),
        ("eth_getLogs", ({"topics": 5},)),
        ("eth_feeHistory", ("0x2", "latest", 5)),
        ("eth_getStorageAt", (NOBODY, "0x" + "ff" * 40)),
        ("eth_getBalance", (NOBODY, "soon")),
        ("eth_getLogs", ({"blockHash": "0x12"},)),
        ("eth_chainId", (1, 2)),
        ("eth_sendRawTransaction", (None,)),
        ("evm_increaseTime", ("soon",)),
        ("eth_nothing", ()),
    ],
)
def test_bad_requests_are_refused_and_break_nothing(
    chain: Chain, method: str, params: tuple[object, ...]
) -> None:
    with pytest.raises(RpcError) as caught:
        chain.request(method, params)
    assert caught.value.code in (-32602, -32601, -32001, -32000)
    assert chain.request("eth_chainId") == "0x7a69"


def test_a_snapshot_is_used_once(chain: Chain) -> None:
    first, second = (chain.request("evm_snapshot") for _ in range(2))
    assert chain.request("evm_revert", (first,)) is True
    assert chain.request("evm_revert", (second,)) is False
    assert chain.request("evm_revert", (first,)) is False


class TestPlainWeb3:
    """Plain web3.py on the embedded chain, with its own errors, middleware and contracts."""

    @pytest.fixture
    def w3(self, tmp_path: Path) -> Iterator[Web3]:
        provider = fedmeta.chain.embedded(tmp_path)
        yield Web3(provider)
        provider.close()

    def signed_by(self, w3: Web3, secret: bytes) -> str:
        """Let web3's own middleware sign for an account, and return the account."""
        account = Account.from_key(secret)
        w3.middleware_onion.inject(SignAndSendRawMiddlewareBuilder.build(account), layer=0)
        return str(account.address)

    def test_a_contract_is_deployed_and_called_and_its_events_are_read(self, w3: Web3) -> None:
        assert w3.is_connected()
        sponsor = self.signed_by(w3, development_keys(1)[0])
        abi, code = list(TOKEN.abi), TOKEN.bytecode
        made = w3.eth.contract(abi=abi, bytecode=code).constructor("Fed", "FED", 10**6)
        receipt = w3.eth.wait_for_transaction_receipt(made.transact({"from": sponsor}))
        token = w3.eth.contract(receipt["contractAddress"], abi=abi)
        other = w3.to_checksum_address(NOBODY)
        paid = token.functions.transfer(other, 7).transact({"from": sponsor})
        mined = w3.eth.wait_for_transaction_receipt(paid)
        assert token.functions.balanceOf(other).call() == 7
        (event,) = token.events.Transfer().get_logs(from_block=mined["blockNumber"])
        assert (event["args"]["to"], event["args"]["value"]) == (other, 7)
        assert token.events.Transfer().process_receipt(mined)[0]["args"] == event["args"]

    def test_a_refusal_is_web3s_own_error(self, w3: Web3) -> None:
        sponsor = self.signed_by(w3, development_keys(1)[0])
        made = w3.eth.contract(abi=list(TOKEN.abi), bytecode=TOKEN.bytecode).constructor("F", "F", 1)
        receipt = w3.eth.wait_for_transaction_receipt(made.transact({"from": sponsor}))
        token = w3.eth.contract(receipt["contractAddress"], abi=list(TOKEN.abi))
        with pytest.raises(ContractCustomError) as caught:
            token.functions.transfer(sponsor, 1).call({"from": w3.to_checksum_address(NOBODY)})
        # ERC20InsufficientBalance(address,uint256,uint256) of IERC6093.
        assert str(caught.value.data).startswith("0xe450d38c")

    def test_its_batches_and_fees_work(self, w3: Web3) -> None:
        with w3.batch_requests() as batch:
            batch.add(w3.eth.get_block("latest"))
            batch.add(w3.eth.get_balance(w3.to_checksum_address(SPONSOR.address)))
            block, funds = batch.execute()
        assert (block["number"], funds) == (0, 10_000 * 10**18)
        assert w3.eth.fee_history(1, "latest", [50])["baseFeePerGas"][0] == block["baseFeePerGas"]

    def test_it_is_the_chain_that_a_run_has_in_that_folder(self, tmp_path: Path) -> None:
        with open_chain(options("embedded"), tmp_path / "run") as chain:
            send(chain, sign(0, to=NOBODY, value=3))
            head = latest(chain)["hash"]
        provider = fedmeta.chain.embedded(str(tmp_path / "run"))
        block = Web3(provider).eth.get_block("latest")
        provider.close()
        assert block["hash"].to_0x_hex() == head


class TestMiddlewareOfAUser:
    """web3's own middleware, put on a `Web3` that fedmeta opened."""

    def test_retries_are_made_by_web3s_provider(self, tmp_path: Path, monkeypatch: Any) -> None:
        with start_node("anvil", tmp_path) as node, open_chain(url_of(node), tmp_path) as chain:
            http: Any = chain.provider
            http.exception_retry_configuration = ExceptionRetryConfiguration(
                errors=[requests.ConnectionError], retries=3, backoff_factor=0
            )
            post, tried = http._request_session_manager.make_post_request, []

            def twice_broken(*arguments: Any, **limits: Any) -> Any:
                tried.append(1)
                if len(tried) < 3:
                    raise requests.ConnectionError
                return post(*arguments, **limits)

            monkeypatch.setattr(http._request_session_manager, "make_post_request", twice_broken)
            assert chain.eth.block_number == 0
        assert len(tried) == 3

    def test_blocks_with_a_proof_of_authority_are_read_with_it(self, chain: Chain) -> None:
        chain.middleware_onion.inject(ExtraDataToPOAMiddleware, "poa", layer=0)
        try:
            assert len(chain.eth.get_block(0)["proofOfAuthorityData"]) == 32
        finally:
            chain.middleware_onion.remove("poa")

    def test_a_gas_strategy_sets_the_price(self, chain: Chain) -> None:
        account = Account.from_key(development_keys(1)[0])
        chain.middleware_onion.inject(SignAndSendRawMiddlewareBuilder.build(account), "sign", layer=0)
        chain.middleware_onion.inject(GasPriceStrategyMiddleware, "price", layer=0)
        chain.eth.set_gas_price_strategy(lambda w3, transaction: w3.to_wei(9, "gwei"))
        try:
            order = {"from": account.address, "to": chain.to_checksum_address(NOBODY), "value": 1}
            sent = chain.eth.send_transaction({**order, "gas": 21_000})  # type: ignore[typeddict-item]
        finally:
            chain.middleware_onion.remove("price")
            chain.middleware_onion.remove("sign")
        receipt = chain.eth.wait_for_transaction_receipt(sent)
        assert receipt["effectiveGasPrice"] == 9 * 10**9


def url_of(node: Node) -> ChainOptions:
    return ChainOptions(provider=node.url)


def test_a_fault_of_ours_is_not_a_refusal_of_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Store, column: str, value: object) -> None:
        raise ValueError(f"{column} {value} is damaged")

    monkeypatch.setattr(Store, "block", broken)
    with (
        closing(fedmeta.chain.embedded(tmp_path)) as provider,
        pytest.raises(ValueError, match="is damaged"),
    ):
        provider.make_request(RPCEndpoint("eth_getBlockByNumber"), ["0x1", False])
