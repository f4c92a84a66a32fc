"""Starts a SuperNode with its owner's settings, and with no code but the installed fedmeta's."""

import os
import shlex
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedmeta.federation.engines.deployment.session import QUIET, program

HOST = "127.0.0.1"

_ANSWERS = "flwr-clientapp"
_OTHERS = ("flwr-agentapp", "flwr-serverapp", "flwr-simulation", "flwr-model", "flwr-connector")
"""Programs that a SuperNode may start by name for what a SuperLink sends."""


@dataclass(frozen=True)
class SuperNode:
    """What its owner decides.

    Attributes:
        superlink: Host and port of the SuperLink.
        partition: The partition that it holds.
        port: Of this machine, at which its own processes talk.
        certificate: Of the authority that signed the SuperLink's; None: no TLS.
        key: By which the SuperLink knows it; None: it does not.
        account: The encrypted key that it signs with; None: it does not.
        data: Folder of its data; None: ``FEDMETA_DATA``.
        allow_code: Whether it runs code that a server names by a dotted path, if it is installed here.
        max_seconds: How long it works on one message; None: the default.
        memory: Folder for what it remembers of its work; None: it is gone when the node stops.
        device: What it computes on: ``auto``, ``cpu`` or ``cuda``; None: as the run's config says.
    """

    superlink: str
    partition: int
    port: int
    certificate: str | None = None
    key: Path | None = None
    account: Path | None = None
    data: Path | None = None
    allow_code: bool = False
    max_seconds: float | None = None
    memory: Path | None = None
    device: str | None = None

    def command(self) -> list[str]:
        """Return the command line of Flower's program."""
        trust = ["--root-certificates", self.certificate] if self.certificate else ["--insecure"]
        if self.key:
            trust += ["--auth-supernode-private-key", str(self.key)]
        config = f"partition-id={self.partition}"
        folders = {"account": self.account, "data": self.data, "memory": self.memory}
        for name, path in folders.items():
            config += f' {name}="{path.resolve()}"' if path else ""
        config += " allow-code=true" if self.allow_code else ""
        config += f" max-seconds={self.max_seconds}" if self.max_seconds else ""
        config += f' device="{self.device}"' if self.device else ""
        listen = ["--host", HOST, "--port", str(self.port)]
        names = [program("flower-supernode"), *trust, "--superlink", self.superlink]
        return [*names, *listen, "--node-config", config]


def pinned(folder: Path) -> Mapping[str, str]:
    """Return an environment in which a SuperNode answers by the installed fedmeta alone.

    Flower's SuperNode starts the program that answers a message by its name, and that runs the app that
    the SuperLink sent. Here another one of that name comes first on ``PATH``.

    Args:
        folder: Where its programs go.
    """
    programs = folder / "bin"
    programs.mkdir(mode=0o700, parents=True, exist_ok=True)
    python = shlex.quote(sys.executable)
    answer = f"exec {python} -P -c 'from fedmeta.cli.client_process import answer; answer()' \"$@\""
    refuse = "echo 'this node answers messages and runs no other app' >&2\nexit 1"
    for name, line in {_ANSWERS: answer, **dict.fromkeys(_OTHERS, refuse)}.items():
        path = programs / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o700)
    own = str(Path(program("flower-supernode")).parent)
    path_ = os.pathsep.join([str(programs.resolve()), own, os.environ.get("PATH", "")])
    return {**os.environ, **QUIET, "PATH": path_}


def free_port() -> int:
    """Return a port of this machine that nobody listens at now."""
    with socket.socket() as trial:
        trial.bind((HOST, 0))
        port: int = trial.getsockname()[1]
        return port
