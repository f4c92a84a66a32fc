"""A process that opens a chain, sends transactions, and then waits to be killed.

Usage: python -m tests.chain.providers.holder PROVIDER FOLDER TRANSACTIONS
"""

import json
import sys
import time
from pathlib import Path

from fedmeta.chain.chain import open_chain
from tests.chain.providers.helpers import NOBODY, latest, options, send, sign


def main(provider: str, folder: str, transactions: str) -> None:
    chain = open_chain(options(provider), Path(folder))
    for nonce in range(int(transactions)):
        send(chain, sign(nonce, to=NOBODY, value=1))
    head = latest(chain)
    said = {"genesis": chain.genesis.hex(), "number": head["number"], "hash": head["hash"]}
    sys.stdout.write(json.dumps({**said, "name": chain.name}) + "\n")
    sys.stdout.flush()
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
