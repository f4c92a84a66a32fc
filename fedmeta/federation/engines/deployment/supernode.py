"""Starts a SuperNode with its owner's settings; it runs only the installed fedmeta's code."""

import os
import shlex
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedmeta.federation.engines.deployment.superlink import QUIET, program

HOST = "127.0.0.1"

_ANSWERS = "flwr-clientapp"
_OTHERS = ("flwr-agentapp", "flwr-serverapp", "flwr-simulation", "flwr-model", "flwr-connector")
"""Programs that a SuperNode may start by name when a SuperLink asks."""


@dataclass(frozen=True)
class SuperNode:
    """A node owner's settings.

    Attributes:
        superlink: Host and port of the SuperLink.
        partition: The partition that it holds.
        port: Local port on which the node's own processes talk.
        certificate: Certificate of the SuperLink's authority; None: no TLS.
        key: Key that authenticates the node to the SuperLink; None: no authentication.
        account: The encrypted key that it signs with; None: it does not sign.
        data: Its data folder; None: ``FEDMETA_DATA``.
        allow_code: Whether it imports installed code that a server names by a dotted path.
        max_seconds: Time limit of one message; None: the default.
        memory: Folder of its memory between rounds; None: the memory is lost when the node stops.
        device: Device to compute on: ``auto``, ``cpu`` or ``cuda``; None: the run's config decides.
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
    """Return an environment in which a SuperNode answers only with the installed fedmeta.

    Flower's SuperNode answers a message by starting a program by name, which runs the app that the
    SuperLink sent. Here a program of ours with that name comes first on ``PATH``.

    Args:
        folder: Where these programs go.
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
    """Return a free local port."""
    with socket.socket() as trial:
        trial.bind((HOST, 0))
        port: int = trial.getsockname()[1]
        return port
