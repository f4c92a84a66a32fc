"""Bad options are refused in one line, and importing the options loads nothing heavy."""

import subprocess
import sys
from typing import Any

import pytest

from fedmeta.chain.options import ChainOptions
from fedmeta.errors import ConfigError
from fedmeta.options import parse_options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"provider": "anvill"}, "did you mean 'anvil'?"),
        ({"provider": "ftp://example.org"}, "or an http(s):// or ws:// URL"),
        ({"provider": "http://"}, "the URL has no host"),
        ({"provider": "ipc://geth.ipc"}, "ipc:///path/to/geth.ipc"),
        ({"threshold": 6}, "threshold = 6 exceeds the committee of 5"),
        ({"committee": 2}, "threshold = 3 exceeds the committee of 2"),
        ({"committee": 33}, "chain.committee"),
        ({"pot": 0}, "chain.pot"),
        (
            {"provider": "anvil", "chain_id": 1},
            "chain_id = 1: a chain started by fedmeta has",
        ),
        ({"provider": "embedded", "chain_id": 5}, "31337 or 1337"),
        ({"port": 70_000}, "chain.port"),
        ({"claim": "sometimes"}, "chain.claim"),
        ({"budgett": 1}, "did you mean 'chain.budget'?"),
        ({"staking": {"slash_share": 2.0}}, "chain.staking.slash_share"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(ChainOptions, values, "chain")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "provider",
    [
        "none",
        "embedded",
        "anvil",
        "ganache",
        "http://127.0.0.1:8545",
        "https://x.org/v3/${KEY}",
        "ipc:///run/geth/geth.ipc",
        "wss://x",
    ],
)
def test_providers(provider: str) -> None:
    options = ChainOptions(provider=provider)
    assert options.enabled == (provider != "none")
    assert options.is_url == ("://" in provider)


def test_a_node_by_url_may_have_any_chain_id() -> None:
    assert ChainOptions(provider="https://x.org", chain_id=1).chain_id == 1


def run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_importing_the_room_imports_no_extra() -> None:
    heavy = [
        "web3",
        "eth",
        "eth_abi",
        "eth_account",
        "coincurve",
        "rlp",
        "sha3",
        "websockets",
        "torch",
        "flwr",
    ]
    done = run(
        "import sys, fedmeta.chain, fedmeta.chain.options, fedmeta.chain.errors\n"
        "from fedmeta.chain.providers import PROVIDERS\n"
        "assert list(PROVIDERS) == ['anvil', 'embedded', 'ganache']\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_without_the_extra_one_line_says_what_to_install() -> None:
    done = run(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.partition('.')[0] in ('coincurve', 'eth', 'eth_abi', 'rlp', 'web3'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import fedmeta.chain\n"
        "from fedmeta.errors import UsageError\n"
        "for name in ('open_keys', 'open_chain', 'start_node', 'load_artifact', 'Signer'):\n"
        "    try:\n"
        "        getattr(fedmeta.chain, name)\n"
        "    except UsageError as error:\n"
        "        print(error)\n"
    )
    assert (
        done.stdout.splitlines()
        == ["the chain needs an optional extra: pip install 'fedmeta[chain]'"] * 5
    ), done.stderr
