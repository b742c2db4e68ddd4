"""The client of a reward server, against a server on this machine."""

import base64
import http.server
import json
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
            self.server.requests.append((self.path, json.loads(body)))
            status, answer, wait_s = self.server.answers.pop(0) if self.server.answers else (200, b"{}", 0)
            time.sleep(wait_s)
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
    made.requests, made.answers = [], []
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
        ([(302, b"", 0)], "refused the clips: status 302", 1),
        ([(200, b"<html>", 0)], "must answer .*got b'<html>'", 1),
        ([(200, {"score": [1, 2]}, 0)], "must answer", 1),
        ([(200, {"scores": [1]}, 0)], "must answer 2 scores, one a clip, got 1", 1),
        ([(200, {"scores": [1, "2"]}, 0)], "number or None for clip 1, got str", 1),
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
        ({"timeout_s": 0}, "timeout_s must be a number"),
        ({"retries": -1}, "retries must be a number >= 0"),
        ({"clips": "avi"}, "clips must be one of mp4, raw"),
        ({"on_failure": "ignore"}, "on_failure must be one of"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        reward_server(**{"url": "http://127.0.0.1:1", **settings})
