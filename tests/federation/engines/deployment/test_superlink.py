"""Failures of `flwr` are reported in one line."""

import http.server
import threading
from pathlib import Path

import pytest

from fedmeta.errors import UsageError
from fedmeta.federation.engines.deployment import DeploymentOptions
from fedmeta.federation.engines.deployment.superlink import submit


def test_a_server_that_is_not_a_superlink_is_refused_in_one_line(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        options = DeploymentOptions(address=f"127.0.0.1:{server.server_port}")
        with pytest.raises(UsageError) as caught:
            submit(options, {"config": "", "line": ""}, tmp_path)
        server.shutdown()
        thread.join()
    assert str(caught.value).startswith("`flwr run` failed: Server error '501")
    assert "\n" not in str(caught.value)
