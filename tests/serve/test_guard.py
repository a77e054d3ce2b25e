"""Every limit of the server, tried on a raw socket."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served, coloured, everything, raw, served, write_model

RED = coloured(220, 10, 20)
HEAD, BODY, ANSWER = 1.0, 1.5, 6.0


@pytest.fixture(scope="module")
def strict(tiny: Path) -> Iterator[Served]:
    """A server with little patience and little room."""
    options = ("--head-timeout", HEAD, "--body-timeout", BODY, "--max-megabytes", 0.1, "--max-connections", 20)
    with served(tiny, *options) as found:
        yield found


def head(
    length: int | None = None, *more: str, method: str = "POST", path: str = "/predict", host: str = "localhost"
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Content-Type: image/png", *more]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def told(answer: bytes) -> str:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def well(server: Served) -> bool:
    """Whether it goes on answering."""
    return server.client.post("predict", content=RED, headers={"Content-Type": "image/png"}).status_code == 200


def test_a_body_that_says_it_is_too_large_is_not_waited_for(strict: Served) -> None:
    answer, seconds = raw(strict, head(10**12, "Expect: 100-continue"))
    assert status(answer) == 413
    assert told(answer) == "The body is larger than 104,858 bytes: send a smaller image."
    assert b"connection: close" in answer.lower()
    assert b"100 Continue" not in answer
    assert seconds < 1
    assert well(strict)


def test_a_body_that_turns_out_too_large_is_cut_off_and_its_sender_told(strict: Served) -> None:
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    answer, _ = raw(strict, head(None, "Transfer-Encoding: chunked") + 3 * chunk + b"0\r\n\r\n")
    assert status(answer) == 413
    answer, _ = raw(strict, head(300_000) + bytes(300_000))
    assert status(answer) == 413
    assert well(strict)


def test_a_sender_without_end_is_cut_off(strict: Served) -> None:
    chunk, sent = b"10000\r\n" + bytes(0x10000) + b"\r\n", 0
    with strict.connected() as connection:
        connection.sendall(head(None, "Transfer-Encoding: chunked"))
        with pytest.raises(OSError):  # noqa: PT011, PT012 (a pipe that is broken, or a reset)
            for _ in range(2000):
                connection.sendall(chunk)
                sent += len(chunk)
    assert sent < 60e6
    assert well(strict)


@pytest.mark.parametrize("first", [b"", b"P", b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_who_does_not_finish_a_head_is_cut_off(strict: Served, first: bytes) -> None:
    before = strict.metric('densely_errors_total{kind="slow_head"}')
    began = time.monotonic()
    with strict.connected() as connection:
        connection.sendall(first)
        connection.settimeout(0.2)
        while True:  # a letter now and then must not set the clock back
            try:
                if connection.recv(100) == b"":
                    break
            except TimeoutError:
                if first:
                    connection.sendall(b"x")
            except ConnectionError:
                break
    assert HEAD * 0.8 < time.monotonic() - began < HEAD + 1.5
    if first:
        assert strict.metric('densely_errors_total{kind="slow_head"}') == before + 1
    assert well(strict)


def test_a_second_head_on_a_connection_is_waited_for_no_longer(strict: Served) -> None:
    with strict.connected() as connection:
        connection.sendall(head(len(RED)) + RED)
        answer = b""
        while not answer.endswith(b"}]}"):
            answer += connection.recv(65536)
        assert status(answer) == 200
        began = time.monotonic()
        connection.sendall(b"POST /pre")
        assert everything(connection) == b""
    assert time.monotonic() - began < HEAD + 1.5


def test_a_head_without_end_is_refused(strict: Served) -> None:
    answer, seconds = raw(strict, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + 200_000 * b"y")
    assert answer == b"" or status(answer) in (400, 431)
    assert seconds < HEAD + 1.5
    assert well(strict)


@pytest.mark.parametrize("sent", [b"rubbish\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300)])
def test_what_is_no_http_is_refused(strict: Served, sent: bytes) -> None:
    answer, _ = raw(strict, sent)
    assert answer == b"" or status(answer) == 400
    assert well(strict)


def test_a_body_that_does_not_come_is_waited_for_so_long(strict: Served) -> None:
    with strict.connected() as connection:
        began = time.monotonic()
        connection.sendall(head(1000))
        for _ in range(50):
            time.sleep(0.1)
            try:
                connection.sendall(b"x")
            except OSError:
                break
            if time.monotonic() - began > BODY + 0.5:
                break
        answer = everything(connection)
    assert BODY * 0.8 < time.monotonic() - began < BODY + 2
    assert status(answer) == 408
    assert told(answer) == f"The body did not come within {BODY:g} seconds."
    assert well(strict)


def test_slow_senders_hold_nobody_up(tiny: Path) -> None:
    with served(tiny, "--max-requests", 1, "--body-timeout", 30) as one_at_a_time:
        senders = [one_at_a_time.connected() for _ in range(30)]
        for sender in senders:
            sender.sendall(head(1000) + b"x")
        assert all(well(one_at_a_time) for _ in range(5))
        for sender in senders:
            sender.close()
        assert well(one_at_a_time)


def test_more_connections_than_allowed_are_turned_away(strict: Served) -> None:
    open_ = [strict.connected() for _ in range(19)]  # and one that is kept alive by the client
    assert well(strict)
    more = [strict.connected() for _ in range(5)]
    answers = [everything(one) for one in more]
    assert {status(answer) for answer in answers if answer} == {503}
    assert all("Too many connections" in told(answer) for answer in answers if answer)
    for one in open_ + more:
        one.close()
    deadline = time.monotonic() + 10
    while strict.metric("densely_connections") > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert well(strict)


def test_a_reader_who_does_not_read_is_left(tiny: Path) -> None:
    with served(tiny, "--answer-timeout", 1, "--head-timeout", 1) as impatient:
        with impatient.connected() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(0.5)
            asked = head(None, method="GET", path="/", host="localhost")
            try:
                for _ in range(5000):
                    connection.sendall(asked)
            except OSError:
                pass  # it reads no more, or has gone
            deadline = time.monotonic() + 15
            while impatient.metric("densely_connections") > 1:
                assert time.monotonic() < deadline, "it is still there"
                time.sleep(0.2)
        assert well(impatient)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A network that takes its time."""
    model = write_model(tmp_path_factory.mktemp("slow") / "slow.onnx", wait=60)
    options = ("--max-requests", 3, "--max-queue", 2, "--max-images", 2, "--max-batch", 1, "--threads", 1)
    with served(model, *options, "--answer-timeout", ANSWER) as found:
        yield found


def together(server: Served, count: int, files: int = 1) -> list[bytes]:
    """Answers to requests that arrive at one time."""
    parts = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n' + RED + b"\r\n"
        for _ in range(files)
    )
    body = parts + b"--x--\r\n"
    lines = ["POST /predict HTTP/1.1", "Host: localhost", "Content-Type: multipart/form-data; boundary=x"]
    sent = "\r\n".join([*lines, f"Content-Length: {len(body)}", "Connection: close", "", ""]).encode() + body
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(raw(server, sent, 60)[0])) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_more_requests_than_allowed_at_one_time_are_told_to_come_again(slow: Served) -> None:
    answers = together(slow, 8)
    refused = [answer for answer in answers if status(answer) == 503]
    assert len(answers) == 8 and 3 <= len(refused) < 8
    for answer in refused:
        assert b"retry-after: 1" in answer.lower()
        assert told(answer).endswith(": ask again in a second.")
    assert {status(answer) for answer in answers} == {200, 503}
    assert well(slow)


def test_the_queue_is_bounded(slow: Served) -> None:
    answers = together(slow, 3, files=2)
    said = [told(answer) for answer in answers if status(answer) == 503]
    assert said and set(said) == {"Too many images are waiting: ask again in a second."}
    assert well(slow)


def test_an_answer_that_does_not_come_is_told_so(tmp_path: Path) -> None:
    with served(write_model(tmp_path / "m.onnx", wait=60), "--answer-timeout", 0.1, "--threads", 1) as late:
        (answer,) = together(late, 1)
        assert status(answer) == 503
        assert told(answer) == "There was no answer within 0.1 seconds: ask again."
        assert late.metric('densely_errors_total{kind="timeout"}') == 1


def test_only_this_machine_s_names_lead_here(server: Served) -> None:
    for host in ("localhost", "LOCALHOST:9", "127.0.0.1:1234", "[::1]:8000"):
        assert status(raw(server, head(None, "Connection: close", method="GET", path="/model", host=host))[0]) == 200
    for host in ("example.org", "127.0.0.1.example.org", "localhost.example.org", "localhost@example.org", ""):
        for path in ("/", "/model", "/predict"):
            answer, _ = raw(server, head(None, "Connection: close", method="GET", path=path, host=host))
            assert status(answer) == 403, host
    two = head(None, "Host: example.org", "Connection: close", method="GET", path="/model")
    assert status(raw(server, two)[0]) in (400, 403)


def test_a_proxy_s_name_can_be_let_in(tiny: Path) -> None:
    with served(tiny, "--allow-host", "digits.example.org") as known:
        for host, right in (("digits.example.org", 200), ("Digits.example.org:443", 200), ("example.org", 403)):
            asked = head(None, "Connection: close", method="GET", path="/model", host=host)
            assert status(raw(known, asked)[0]) == right


def test_another_site_s_page_may_not_ask(server: Served) -> None:
    for where, right in (("same-origin", 200), ("none", 200), ("cross-site", 403), ("same-site", 403)):
        found = server.client.post(
            "predict", content=RED, headers={"Content-Type": "image/png", "Sec-Fetch-Site": where}
        )
        assert found.status_code == right
    assert server.client.get("", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200  # a link to the page


def test_a_body_where_none_belongs_is_not_read(strict: Served) -> None:
    for path in ("/", "/health", "/nothing"):
        answer, _ = raw(strict, head(50, path=path) + 50 * b"x")
        assert status(answer) == 413, path
        answer, _ = raw(strict, head(None, "Transfer-Encoding: chunked", path=path) + b"5\r\nabcde\r\n0\r\n\r\n")
        assert status(answer) in (404, 405), path
        assert b"connection: close" in answer.lower()


def test_a_token_opens(tiny: Path) -> None:
    with served(tiny, env={"DENSELY_TOKEN": "correct-horse"}) as locked:
        for path in ("", "health"):
            assert locked.client.get(path).status_code == 200
        for path in ("model", "metrics", "openapi.json", "samples/0", "nothing"):
            assert locked.client.get(path).status_code == 401, path
        for shown in (
            "Bearer wrong-horse",
            "Bearer",
            "correct-horse",
            "Basic correct-horse",
            "Bearer correct-hors\xe9",
        ):
            headers = {"Content-Type": "image/png", "Authorization": shown.encode("latin-1")}
            found = locked.client.post("predict", content=RED, headers=headers)
            assert found.status_code == 401
            assert found.headers["WWW-Authenticate"] == "Bearer"
            assert "correct-horse" not in found.text
        for shown in ("Bearer correct-horse", "bearer  correct-horse"):
            headers = {"Content-Type": "image/png", "Authorization": shown}
            assert locked.client.post("predict", content=RED, headers=headers).status_code == 200


def test_one_who_hangs_up_is_no_trouble(server: Served) -> None:
    for sent in (head(1000) + b"x", head(len(RED)) + RED, head(len(RED)), b"POST"):
        for _ in range(10):
            connection = server.connected()
            connection.sendall(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # by a reset
            connection.close()
    assert well(server)
    until = time.monotonic() + 20
    while server.metric("densely_requests_in_flight") and time.monotonic() < until:
        time.sleep(0.05)  # what they asked for is answered to nobody, and then forgotten
    assert server.metric("densely_requests_in_flight") == 0
