"""stomp.py: story.py 1.0|1.1|1.2|websocket. The story is that of ../story.mjs."""

import itertools
import os
import platform
import queue as queues
import sys
import threading
from importlib.metadata import version

import stomp

PATIENCE = 25
LARGE = 40_000
HOST, PORT = os.environ["RELAY_HOST"], int(os.environ["RELAY_PORT"])
STORY = os.environ["STORY"]
TOPIC, QUEUE = f"/topic/rec.{STORY}", f"/queue/rec-{STORY}"
KIND = sys.argv[1]

receipts = itertools.count(1)


class Ears(stomp.ConnectionListener):
    """What came: messages by subscription, receipts, a heart-beat each way."""

    def __init__(self):
        self.news, self.jobs = queues.Queue(), queues.Queue()
        self.receipts = queues.Queue()
        self.beat_came, self.beat_went = threading.Event(), threading.Event()
        self.gone = threading.Event()

    def on_message(self, frame):
        # stomp.py does not know which subscription a message of 1.0 belongs to either.
        to = self.news if frame.headers["destination"] == TOPIC else self.jobs
        to.put(frame)

    def on_receipt(self, frame):
        self.receipts.put(frame.headers["receipt-id"])

    def on_error(self, frame):
        print(frame, file=sys.stderr)
        os._exit(1)

    def on_disconnected(self):
        self.gone.set()

    def on_heartbeat(self):
        self.beat_came.set()

    def on_send(self, frame):
        if frame.cmd is None:
            self.beat_went.set()

    def receipt(self, expected):
        came = self.receipts.get(timeout=PATIENCE)
        assert came == expected, f"{came} came, {expected} was asked for"


def connection():
    where = [(HOST, PORT)]
    beats = (10000, 10000)
    # Otherwise bodies that are not UTF-8 are decoded all the same.
    options = {"auto_decode": False}
    if KIND == "1.0":
        return stomp.Connection10(where, **options)
    if KIND == "1.1":
        return stomp.Connection11(where, heartbeats=beats, **options)
    if KIND == "1.2":
        return stomp.Connection12(where, heartbeats=beats, **options)
    return stomp.WSStompConnection(where, heartbeats=beats, ws_path="/ws", **options)


def text(frame):
    return frame.body if isinstance(frame.body, str) else frame.body.decode()


class Story:
    def __init__(self):
        self.ears = Ears()
        self.inner = connection()
        self.inner.set_listener("story", self.ears)

    def receipt(self, call, **headers):
        name = f"receipt-{next(receipts)}"
        call(receipt=name, **headers)
        self.ears.receipt(name)

    def send(self, destination, body, **headers):
        self.receipt(lambda **more: self.inner.send(destination, body, **more), **headers)

    def answer(self, call, frame, **headers):
        """ACK or NACK, with the arguments of the version."""
        if KIND in ("1.0", "1.1"):
            arguments = [frame.headers["message-id"]]
        else:
            arguments = [frame.headers["ack"]]
        if KIND == "1.1":
            arguments.append(frame.headers["subscription"])
        self.receipt(lambda **more: call(*arguments, **more), **headers)

    def end(self, call, transaction):
        self.receipt(lambda **more: call(transaction, **more))

    def play(self):
        inner, ears = self.inner, self.ears
        inner.connect("guest", "guest", wait=True)
        self.receipt(lambda **more: inner.subscribe(TOPIC, id="1", **more))
        self.receipt(
            lambda **more: inner.subscribe(QUEUE, id="2", ack="client-individual", **more)
        )

        x_text = "a:b" if KIND == "1.0" else "a:b\\ c\nd"
        greeting = {"content-type": "text/plain", "x-text": x_text}
        self.send(TOPIC, "Grüße, 世界", headers=greeting)
        came = ears.news.get(timeout=PATIENCE)
        assert text(came) == "Grüße, 世界", came
        assert came.headers["x-text"] == x_text, came
        self.binary()

        self.send(QUEUE, "one")
        self.answer(inner.ack, ears.jobs.get(timeout=PATIENCE))
        if KIND != "1.0":
            self.send(QUEUE, "two")
            self.answer(inner.nack, ears.jobs.get(timeout=PATIENCE))
            again = ears.jobs.get(timeout=PATIENCE)
            assert text(again) == "two", again
            self.answer(inner.ack, again)

        kept = inner.begin()
        self.send(QUEUE, "three", transaction=kept)
        self.end(inner.commit, kept)
        third = ears.jobs.get(timeout=PATIENCE)
        taken = inner.begin()
        self.answer(inner.ack, third, transaction=taken)
        self.end(inner.commit, taken)
        dropped = inner.begin()
        self.send(QUEUE, "never", transaction=dropped)
        self.end(inner.abort, dropped)

        self.send(TOPIC, "x" * LARGE)
        assert len(ears.news.get(timeout=PATIENCE).body) == LARGE

        if KIND != "1.0":
            assert ears.beat_came.wait(PATIENCE) and ears.beat_went.wait(PATIENCE)
        self.receipt(lambda **more: inner.unsubscribe(id="2", **more))
        self.receipt(lambda **more: inner.unsubscribe(id="1", **more))
        inner.disconnect()
        assert ears.gone.wait(PATIENCE)

    def binary(self):
        body = bytes([0, 1, 10, 0, 253, 254, 255])
        if KIND == "websocket":
            # Everything goes out as text there.
            return
        self.send(TOPIC, body)
        came = self.ears.news.get(timeout=PATIENCE)
        assert came.body == body, came


print("@client stomp.py")
print(f"@version {version('stomp.py')}")
print("@registry PyPI")
socket = f", websocket-client {version('websocket-client')}" if KIND == "websocket" else ""
print(f"@runtime Python {platform.python_version()}{socket}")
Story().play()
