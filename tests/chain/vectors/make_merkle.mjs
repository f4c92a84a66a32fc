// Made merkle.json, in a temporary folder: npm install @openzeppelin/merkle-tree@1.0.8 && node make_merkle.mjs > merkle.json
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";

const address = (i) => "0x" + ((BigInt(i) + 1n) * 0x9e3779b97f4a7c15f39cc0605cedc835n % (1n << 160n)).toString(16).padStart(40, "0");
const word = (i) => "0x" + (BigInt(i) * BigInt(i) + 7n).toString(16).padStart(64, "0");
const rewards = (n) => [...Array(n).keys()].map((i) => [address(i), String(BigInt(i) * 1000003n)]);
const contributions = (n) =>
  [...Array(n).keys()].map((i) => [address(i), String(1 + (i % 5)), String(i), word(i), String(BigInt(i) ** 3n)]);

const tree = (values, types) => {
  const built = StandardMerkleTree.of(values, types);
  const proofs = values.length > 20 ? [] : values.map((_, i) => built.getProof(i));
  const leaf = built.leafHash(values[0]);
  return { count: values.length, root: built.root, leaf, proofs };
};
const sizes = [1, 2, 3, 5, 8, 13, 1000];
console.log(JSON.stringify({
  command: "npm install @openzeppelin/merkle-tree@1.0.8 && node make_merkle.mjs > merkle.json",
  rewards: sizes.map((n) => tree(rewards(n), ["address", "uint256"])),
  contributions: sizes.map((n) => tree(contributions(n), ["address", "uint64", "uint64", "bytes32", "uint256"])),
}, null, 1));
