"""Prints each record and payment of a campaign as it happens: plain web3.py, nothing of fedmeta.

    fedmeta chain abi > abi.json
    python docs/watch_ledger.py ws://127.0.0.1:8545 addresses.json abi.json

It ends after the number of events given as a fourth argument, or by Ctrl-C.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from web3 import AsyncWeb3, WebSocketProvider
from web3.utils.subscriptions import LogsSubscription


async def main(url: str, addresses: str, abi: str, most: str = "0") -> None:
    """Subscribe to the ledger's records and the token's transfers."""
    where, abis = (json.loads(Path(file).read_text("utf-8")) for file in (addresses, abi))
    async with AsyncWeb3(WebSocketProvider(url)) as w3:
        ledger = w3.eth.contract(where["ledger"], abi=abis["RewardLedger"])
        token = w3.eth.contract(where["token"], abi=abis["FedToken"])
        seen = 0

        async def tell(context: Any) -> None:
            nonlocal seen
            event = {"RewardLedger": ledger.events.Recorded, "FedToken": token.events.Transfer}
            values = event[context.subscription.label]().process_log(context.result)["args"]
            if context.subscription.label == "RewardLedger":
                print(f"rounds {values['firstRound']} to {values['lastRound']}: total {values['total']}")
            elif values["from"] == where["ledger"]:
                print(f"paid {values['value']} units to {values['to']}")
            else:
                return
            sys.stdout.flush()
            seen += 1
            if seen == int(most):
                await w3.subscription_manager.unsubscribe_all()

        await w3.subscription_manager.subscribe(
            [
                LogsSubscription(
                    label=label,
                    address=contract.address,
                    topics=[event().topic],
                    handler=tell,
                )
                for label, contract, event in (
                    ("RewardLedger", ledger, ledger.events.Recorded),
                    ("FedToken", token, token.events.Transfer),
                )
            ]
        )
        print("watching", flush=True)
        await w3.subscription_manager.handle_subscriptions()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
