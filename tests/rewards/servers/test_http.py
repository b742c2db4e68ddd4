"""The client of a reward server, against a server on this machine."""

import base64
import http.server
import json
import socket
import threading
import time

import numpy as np
import pytest
import torch
from discs import free_fall, make_world

from reward_physics.files.io import read_video, to_uint8
from reward_physics.observation import Observation
from rewards.recipe.combine import Term, combine
from rewards.servers.http import http as reward_server


@pytest.fixture
def server():
    """Answers with what `answers` holds, one after another, and keeps the requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.bodies.append(body)
            self.server.requests.append((self.path, json.loads(body)))
            status, answer, wait_s = self.server.answers.pop(0) if self.server.answers else (200, b"{}", 0)
            time.sleep(wait_s)
            if isinstance(answer, str):  # as it is, without a header that is not in it
                self.wfile.write(answer.encode())
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", self.server.elsewhere)
            self.end_headers()
            self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        def log_message(self, *arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *arguments):
            """A client that has hung up is no news."""

    made = Server(("127.0.0.1", 0), Handler)
    made.requests, made.bodies, made.answers = [], [], []
    made.url = f"http://127.0.0.1:{made.server_port}/score"
    made.elsewhere = made.url
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


VIDEO = make_world(free_fall(batch=2, frames=6)).video
WORLD = make_world(free_fall(batch=2, frames=6))
COLUMNS = {"caption": ["a", "b"], "height_m_B": torch.tensor([1.5, 2.5]), "mask_BTHW": torch.zeros(2, 6, 4, 4)}


def judge(server, **settings):
    reward = reward_server(url=server.url, **{"backoff_s": 0.01, **settings})
    observation = Observation(VIDEO, WORLD.instruments(), grad=False)
    return combine(observation, [Term(name="http", reward=reward)], COLUMNS, unmeasurable=-1.0)


def test_scores_come_back_and_null_is_not_measured(server):
    server.answers = [(200, {"scores": [0.5, None]}, 0)]
    result = judge(server, parameters={"style": "strict"})
    assert result.total_B.tolist() == [0.5, -1.0]
    ((path, body),) = server.requests
    assert path == "/score" and body["version"] == 1 and body["prompts"] == ["a", "b"]
    assert body["columns"] == {"caption": ["a", "b"], "height_m_B": [1.5, 2.5]}
    assert body["parameters"] == {"style": "strict"}


def test_raw_clips_are_exact_and_mp4_plays(server, tmp_path):
    for clips in ("raw", "mp4"):
        server.answers = [(200, {"scores": [0, 1]}, 0)]
        judge(server, clips=clips)
    raw, mp4 = (body["clips"][1] for _, body in server.requests)
    pixels = np.frombuffer(base64.b64decode(raw["data"]), np.uint8).reshape(raw["shape"])
    assert raw["dtype"] == "uint8" and raw["shape"] == [6, 64, 64, 3] and raw["fps"] == 16.0
    assert np.array_equal(pixels, to_uint8(VIDEO.frames_BTCHW[1]).movedim(1, -1).numpy())
    (tmp_path / "clip.mp4").write_bytes(base64.b64decode(mp4["data"]))
    seen = read_video(tmp_path / "clip.mp4")
    assert seen.frames_BTCHW.shape == (1, 6, 3, 64, 64) and seen.fps_B.tolist() == [16.0]


def test_what_may_pass_is_tried_again(server):
    server.answers = [(503, b"busy", 0), (429, b"", 0), (200, {"scores": [1, 2]}, 0)]
    assert judge(server).total_B.tolist() == [1.0, 2.0]
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("answers", "message", "requests"),
    [
        ([(500, b"out of memory", 0)] * 3, "gave no scores in 3 tries: status 500 out of memory", 3),
        ([(404, b"no such path", 0)], "refused the clips: status 404 no such path", 1),
        ([(302, b"", 0)] * 3, "gave no scores in 3 tries: status 302", 3),
        ([(200, b"<html>", 0)] * 3, "must answer .*got b'<html>'", 3),
        ([(200, {"score": [1, 2]}, 0)] * 3, "must answer", 3),
        ([(200, {"scores": [1]}, 0)] * 3, "must answer 2 scores, one a clip, got 1", 3),
        ([(200, {"scores": [1, "2"]}, 0)] * 3, "number or None for clip 1, got str", 3),
        ([(200, {"scores": [1, 2]}, 1.0)] * 3, r"no answer within 0\.2 s: start the server, or raise timeout_s", 3),
    ],
)
def test_failures_are_one_line_with_the_address(server, answers, message, requests):
    server.answers = list(answers)
    with pytest.raises(
        ValueError, match=f"reward http failed: ValueError: {server.url}:? {message}|{message}"
    ) as caught:
        judge(server, retries=2, timeout_s=0.2)
    assert "\n" not in str(caught.value) and server.url in str(caught.value)
    assert len(server.requests) == requests


GARBAGE = {
    "a document of an error": {"error": "out of memory"},
    "no JSON": b"<html>bad gateway</html>",
    "nothing": b"",
    "JSON that ends early": b'{"scores": [0.5, 0.',
    "bytes": b"\xff\xfe\x00\x80",
    "a list": [0.5, 1],
    "null": b"null",
    "a text for the list": {"scores": "12"},
    "a table for the list": {"scores": {"0": 1, "1": 2}},
    "too few": {"scores": [0.5]},
    "too many": {"scores": [1, 2, 3]},
    "none": {"scores": []},
    "NaN": b'{"scores": [0.5, NaN]}',
    "infinity": b'{"scores": [0.5, -Infinity]}',
    "more than a float": b'{"scores": [0.5, 1e999]}',
    "more than a float32": b'{"scores": [0.5, 1e200]}',
    "an integer beyond all": b'{"scores": [0.5, ' + b"9" * 400 + b"]}",
    "a text": {"scores": [0.5, "1.0"]},
    "a truth": {"scores": [0.5, True]},
    "lists": {"scores": [[0.5], [1]]},
    "a deep list": b'{"scores": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "more than is read": b'{"scores": [1, 2]' + b" " * (1 << 24) + b"}",
    "a body that breaks off": "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{",
    "a chunk that breaks off": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1f4\r\n{",
    "no HTTP": "SSH-2.0-OpenSSH\r\n",
    "a closed door": "",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_a_broken_answer_is_a_failure_like_any_other(server, answer):
    server.answers = [(200, answer, 0), (200, {"scores": [1, 2]}, 0)]
    assert judge(server).total_B.tolist() == [1.0, 2.0], "tried again"
    server.answers = [(200, answer, 0)] * 2
    with pytest.raises(ValueError, match="gave no scores in 2 tries") as caught:
        judge(server, retries=1)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    server.answers = [(200, answer, 0)]
    with pytest.warns(UserWarning, match="gave no scores"):
        assert judge(server, retries=0, on_failure="unmeasurable").total_B.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("lines", [b"HTTP/1.1 200 OK\r\n\r\n", b""], ids=["body", "header"])
def test_bytes_that_trickle_do_not_stretch_the_timeout(lines):
    """Each byte comes well within the timeout, the whole answer never does."""
    stop = threading.Event()

    def trickle(listening):
        door, _ = listening.accept()
        with door:
            try:
                door.sendall(lines)
                while not stop.wait(0.05):
                    door.sendall(b"H")
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=trickle, args=(listening,), daemon=True).start()
        reward = reward_server(url=f"http://127.0.0.1:{listening.getsockname()[1]}", retries=0, timeout_s=0.4)
        begun = time.monotonic()
        with pytest.raises(ValueError, match=r"no answer within 0\.4 s"):
            reward(Observation(VIDEO, WORLD.instruments(), grad=False))
        assert time.monotonic() - begun < 5
        stop.set()


def test_what_is_no_number_is_sent_as_null(server):
    """The body is read by a strict reader, as servers in other languages have."""
    nan, inf = float("nan"), float("inf")
    columns = {
        "height_m_B": torch.tensor([nan, 2.5]),
        "speed_B": torch.tensor([inf, -inf], dtype=torch.float64),
        "listed": [nan, 1],
        "unknown": [None, "a"],
        "caption": ["a", "b"],
    }
    server.answers = [(200, {"scores": [1, 2]}, 0)]
    reward_server(url=server.url)(Observation(VIDEO, WORLD.instruments(), grad=False), **columns)
    (body,) = server.bodies

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    sent = json.loads(body, parse_constant=refuse)["columns"]
    assert sent == {
        "height_m_B": [None, 2.5],
        "speed_B": [None, None],
        "listed": [None, 1],
        "unknown": [None, "a"],
        "caption": ["a", "b"],
    }


def test_nobody_listens(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match=r"gave no scores in 1 tries: .*refused"):
        judge(server, retries=0)
    with pytest.warns(UserWarning, match="gave no scores"):
        result = judge(server, retries=0, on_failure="unmeasurable")
    assert result.total_B.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "file:///etc/passwd"}, "url must be an http"),
        ({"url": "host:80"}, "url must be an http"),
        ({"url": 3}, "url must be an http"),
        ({"url": "http://user:word@host/"}, "url must be an http.*without user"),
        ({"url": "http://host:port/"}, "url must be an http"),
        ({"url": "http://[::1/"}, "url must be an http"),
        ({"url": "http://host/a b"}, "url must be an http"),
        ({"parameters": {"a": float("nan")}}, "parameters must hold what JSON can"),
        ({"parameters": {"a": object()}}, "parameters must hold what JSON can"),
        ({"timeout_s": 0}, "timeout_s must be a number"),
        ({"retries": -1}, "retries must be a number >= 0"),
        ({"clips": "avi"}, "clips must be one of mp4, raw"),
        ({"on_failure": "ignore"}, "on_failure must be one of"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        reward_server(**{"url": "http://127.0.0.1:1", **settings})
