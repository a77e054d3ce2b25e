import functools
import hashlib
import http.server
import socket
import threading
import time

import pytest

from densely.data import download as module
from densely.data import load
from densely.data.download import Remote, fetch
from densely.errors import DenselyError

NAME = "cifar-10-python.tar.gz"


@pytest.fixture
def offline(monkeypatch):
    """Every address leads to a port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in module.REMOTES:
        monkeypatch.setitem(module.REMOTES, name, Remote(f"http://127.0.0.1:{port}/{name}", "0" * 32))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A web server on this machine that has the file."""
    site = tmp_path / "site"
    site.mkdir()
    (site / NAME).write_bytes(b"content")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield f"http://127.0.0.1:{server.server_port}/{NAME}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cifar100-coarse", "svhn", "svhn-extra"])
def test_no_network_says_what_to_do_at_once_and_leaves_nothing(tmp_path, offline, name):
    told = []
    start = time.monotonic()
    with pytest.raises(DenselyError) as caught:
        load(name, data_dir=tmp_path / "data", notify=told.append)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert str(tmp_path / "data") in message
    assert "--data-dir or $DENSELY_DATA" in message
    assert "refused" in message
    assert message.count("\n") == 0
    assert caught.value.exit_code == 1
    assert list((tmp_path / "data").iterdir()) == []
    assert told == []


def test_fetches_and_checks(tmp_path, web, monkeypatch, capsys):
    monkeypatch.setitem(module.REMOTES, NAME, Remote(web, hashlib.md5(b"content").hexdigest()))
    told = []
    path = fetch(NAME, tmp_path / "data", told.append)
    assert path.read_bytes() == b"content"
    assert [p.name for p in (tmp_path / "data").iterdir()] == [NAME]
    assert told == [f"Downloading {web} to {path}"]
    assert capsys.readouterr().out == ""


def test_a_wrong_checksum_leaves_nothing(tmp_path, web, monkeypatch):
    monkeypatch.setitem(module.REMOTES, NAME, Remote(web, "0" * 32))
    with pytest.raises(DenselyError, match="hash"):
        fetch(NAME, tmp_path / "data", lambda message: None)
    assert list((tmp_path / "data").iterdir()) == []


def test_an_existing_file_is_left_alone(tmp_path, offline):
    (tmp_path / NAME).write_bytes(b"mine")
    assert fetch(NAME, tmp_path).read_bytes() == b"mine"


def test_the_default_timeout_is_put_back(tmp_path, offline):
    before = socket.getdefaulttimeout()
    with pytest.raises(DenselyError):
        fetch(NAME, tmp_path)
    assert socket.getdefaulttimeout() == before
