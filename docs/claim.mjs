// Reads what an account has earned and claims it: plain ethers, with what `fedmeta chain proof RUN ACCOUNT --json`
// and `fedmeta chain abi RewardLedger` print.
//
//   node docs/claim.mjs http://127.0.0.1:8545 proof.json RewardLedger.json PRIVATE_KEY
//
// Whoever sends it pays the gas; the account in the proof gets the tokens.
import { readFileSync } from "node:fs";
import { Contract, JsonRpcProvider, Wallet } from "ethers";

const [url, proofFile, abiFile, key] = process.argv.slice(2);
const { ledger, first_round, account, cumulative, proof } = JSON.parse(readFileSync(proofFile, "utf8"));
const wallet = new Wallet(key, new JsonRpcProvider(url));
const contract = new Contract(ledger, JSON.parse(readFileSync(abiFile, "utf8")), wallet);

const before = await contract.claimed(account);
console.log(`${account} was awarded ${cumulative} units and has claimed ${before}`);
if (before < BigInt(cumulative)) {
  const sent = await contract.claim(first_round, account, cumulative, proof);
  await sent.wait();
}
console.log(`claimed ${await contract.claimed(account)}`);
process.exit(0);
