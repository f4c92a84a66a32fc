// Builds the contracts and writes the artifacts that ship with the Python package.
//
//   node build.mjs [folder]     (default: ../fedmeta/chain/artifacts)
//
// The compiler's settings are the profile `ship` of foundry.toml; the compiler is the solcjs of package.json.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const SHIPPED = ["FedToken", "RewardLedger", "ParticipantRegistry"];
const here = dirname(fileURLToPath(import.meta.url));
const target = resolve(process.argv[2] ?? join(here, "../fedmeta/chain/artifacts"));

// Builds in a folder of its own: an incremental build would number the immutables differently.
function forgeBuild(folder) {
  const platform = `@foundry-rs/forge-${process.platform}-${{ x64: "amd64", arm64: "arm64" }[process.arch]}`;
  const forge = createRequire(import.meta.url).resolve(`${platform}/bin/forge`);
  const flags = ["--out", folder, "--cache-path", join(folder, "cache"), "--extra-output", "metadata"];
  const env = { ...process.env, FOUNDRY_PROFILE: "ship" };
  const build = spawnSync(forge, ["build", "src", ...flags], { cwd: here, env, encoding: "utf8" });
  if (build.status !== 0) throw new Error(`forge build failed\n${build.stdout}${build.stderr}`);
}

// One hash over the path and the content of every source that went in, OpenZeppelin's too.
function sourceHash(sources) {
  const lines = Object.keys(sources).sort().map((path) => `${path} ${sources[path].keccak256}\n`);
  return "0x" + createHash("sha256").update(lines.join("")).digest("hex");
}

function artifact(name, folder) {
  const built = JSON.parse(readFileSync(join(folder, `${name}.sol/${name}.json`), "utf8"));
  const { compiler, settings, sources } = built.metadata;
  return {
    name,
    abi: built.abi,
    bytecode: built.bytecode.object,
    deployedBytecode: built.deployedBytecode.object,
    immutableReferences: built.deployedBytecode.immutableReferences ?? {},
    compiler: { version: compiler.version, settings },
    sourceHash: sourceHash(sources),
  };
}

const folder = mkdtempSync(join(tmpdir(), "fedmeta-contracts-"));
try {
  forgeBuild(folder);
  mkdirSync(target, { recursive: true });
  for (const name of SHIPPED) {
    writeFileSync(join(target, `${name}.json`), JSON.stringify(artifact(name, folder), null, 1) + "\n");
  }
} finally {
  rmSync(folder, { recursive: true });
}
