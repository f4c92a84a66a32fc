"""Trust in folders that were not made here: they may run no code and name no host.

A config says which code runs and which hosts are contacted, so a run folder from someone else would
decide that for the person who opens it. `fedmeta.config.seals` knows which folders were made here.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedmeta.chain.options import ChainOptions
from fedmeta.config.schema import Config
from fedmeta.config.seals import CONFIG, made_here
from fedmeta.errors import UsageError
from fedmeta.options import declared, parse_options
from fedmeta.registry import run_folder_of

NOT_MADE_HERE = "was not made here or was changed since"


def require_code(folder: Path, config: Config, trust_code: bool) -> None:
    """Refuse to run the code that the config of a folder names which was not made here.

    Args:
        folder: Of the run.
        config: Its config.
        trust_code: Whether the user said that it may run.

    Raises:
        UsageError: Naming the code.
    """
    named = list(code_in(config.model_dump()))
    if named and not trust_code and not made_here(folder):
        raise UsageError(
            f"{folder} {NOT_MADE_HERE}, and its config names code to run, {_shown(named)}: "
            "read that code, then pass --trust-code (from Python: trust_code=True)"
        )


def require_hosts(folder: Path, config: Config, given: Mapping[str, Any]) -> None:
    """Refuse to contact a host, or use keys, that the config of a folder names which was not made here.

    Args:
        folder: Of the run.
        config: Its config, with what the user gave.
        given: Settings of the user by dotted key.

    Raises:
        UsageError: Naming them.
    """
    _require(folder, hosts_in(config), given, {})


def chain_options(
    folder: Path, config: Config, provider: str | None, keystore: str | None = ""
) -> ChainOptions:
    """Return the chain options of a run, for inspection or claims.

    Args:
        folder: Of the run.
        config: Its config.
        provider: The node that the user names; None: the config's.
        keystore: Likewise the folder of encrypted keys; empty: nothing is signed.

    Raises:
        UsageError: If the run has no chain, or was not made here and the user names no node.
    """
    if not config.chain.enabled:
        raise UsageError(f"{folder} has no ledger: it ran with chain.provider = 'none'")
    # Contracts that are on a chain already need no file with their addresses.
    given = {"provider": provider, "keystore": keystore, "addresses": ""}
    given = {key: value for key, value in given.items() if value is not None}
    chain = parse_options(ChainOptions, config.chain.model_dump() | given, "chain")
    options = {"chain.provider": "--provider URL", "chain.keystore": "--keystore DIR"}
    _require(folder, _in_chain(chain), {f"chain.{key}": value for key, value in given.items()}, options)
    return chain


def require_named(
    file: Path, values: Mapping[str, Any], config: Config, given: Mapping[str, Any]
) -> None:
    """Refuse a config within a run folder that was not made here, if it names code or hosts.

    A file that the user names is otherwise the user's own.

    Args:
        file: The TOML file.
        values: What it holds.
        config: The same, with what the user gave.
        given: Settings of the user by dotted key.

    Raises:
        UsageError: Naming what it names.
    """
    folder = run_folder_of(file)
    if folder is None or (file.resolve() == folder / CONFIG and made_here(folder)):
        return
    named = [*code_in(values), *hosts_in(config)]
    if named := [one for one in named if not _is_given(one[0], given)]:
        raise UsageError(
            f"{file}: this run {NOT_MADE_HERE}, and its config names code or hosts, {_shown(named)}: "
            "read it, then copy the file out of the folder to use it as your own"
        )


def why_untrusted(folder: Path, config: Config) -> str | None:
    """Return why resuming a run needs explicit consent; None if it does not."""
    if link := link_out_of(folder):
        return f"{link} is a link that leads out of the folder"
    named = [*code_in(config.model_dump()), *hosts_in(config)]
    return f"it {NOT_MADE_HERE}" if named and not made_here(folder) else None


def code_in(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what may be a dotted path in a config, by key: any text with a dot or a colon in it.

    That is more than what is imported, so that no part can be forgotten here.
    """
    texts = {one.path for one in declared(Config) if not one.key.code}
    for key, value in values.items():
        if key not in texts:
            yield from _texts(key, value)


def hosts_in(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the hosts that a config connects to, and the keys and files it uses for it."""
    yield from _in_chain(config.chain)
    # Whatever the engine: an arm of a comparison may have another one.
    if config.ray.address != "local":
        yield "ray.address", config.ray.address
    if config.engine == "deployment" or config.deployment != type(config.deployment)():
        yield "deployment.address", config.deployment.address
    if config.deployment.certificate:
        yield "deployment.certificate", config.deployment.certificate


def require_no_links(folder: Path) -> None:
    """Refuse a folder with a symbolic link that leads out of it: it would be read, or written to.

    Raises:
        UsageError: Naming the link.
    """
    if link := link_out_of(folder):
        raise UsageError(
            f"{folder}: {link} is a link that leads out of the folder: put there what it leads to"
        )


def link_out_of(folder: Path) -> Path | None:
    """Return a symbolic link in a folder, at any depth, that leads out of it; None if there is none."""
    real = Path(os.path.realpath(folder))
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(real):
                return path.relative_to(folder)
    return None


def _in_chain(chain: ChainOptions) -> Iterator[tuple[str, str]]:
    if chain.is_url:
        for key in ("provider", "keystore", "addresses"):
            if value := getattr(chain, key):
                yield f"chain.{key}", value


def _require(
    folder: Path, hosts: Iterable[tuple[str, str]], given: Mapping[str, Any], options: Mapping[str, str]
) -> None:
    named = [one for one in hosts if not _is_given(one[0], given)]
    if named and not made_here(folder):
        how = " ".join(options.get(key, f"-s {key}=...") for key, _ in named)
        raise UsageError(
            f"{folder} {NOT_MADE_HERE}, and its config says where to connect and with what, "
            f"{_shown(named)}: name it yourself, with {how}"
        )


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str) and ("." in value or ":" in value):
        yield key, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            if name != "description":
                yield from _texts(f"{key}.{name}", one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(key, one)


def _is_given(key: str, given: Mapping[str, Any]) -> bool:
    """Return whether a user set a key, by its name or through a table above it."""
    parts = key.split(".")
    for end in range(1, len(parts) + 1):
        value: Any = given.get(".".join(parts[:end]))
        for part in parts[end:]:
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return True
    return False


def _shown(named: list[tuple[str, str]]) -> str:
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return ", ".join(f"{key} = {value[:80]!r}" for key, value in named[:3]) + more
