"""A command behind the pipe that floors float64 numbers, and misbehaves as its first argument says at the cases that the second names.

It is run as a script, by itself: nothing of the package is used, so that the protocol is written down twice.
"""

import base64
import json
import math
import os
import signal
import struct
import subprocess
import sys
import time

HELLO = {"protocol": 1, "operations": ["rounding.floor"], "name": "speaker"}


def floor(data, dtype):
    size, letter = (4, "f") if dtype == "float32" else (8, "d")
    numbers = struct.unpack(f"<{len(data) // size}{letter}", data)
    floors = [math.copysign(math.floor(x), x) if math.isfinite(x) else x for x in numbers]
    return struct.pack(f"<{len(floors)}{letter}", *floors)


def say(text):
    sys.stdout.write(text)
    sys.stdout.flush()


def answer(question, behaviour):
    x = question["inputs"]["x"]
    if "file" in x:
        with open(x["file"], "rb") as file:
            data = file.read()
    else:
        data = base64.b64decode(x["data"])
    y = {"dtype": x["dtype"], "shape": x["shape"], "data": base64.b64encode(floor(data, x["dtype"])).decode()}
    tree = {"id": question["id"], "outputs": {"y": y}}
    changes = {
        "other-id": lambda: tree.update(id="rounding.floor/other"),
        "no-id": lambda: tree.pop("id"),
        "no-outputs": lambda: tree.pop("outputs"),
        "outputs-list": lambda: tree.update(outputs=[1]),
        "bad-base64": lambda: y.update(data="#!"),
        "short": lambda: y.update(data=y["data"][:8]),
        "bad-dtype": lambda: y.update(dtype="object"),
        "bad-shape": lambda: y.update(shape=[-1]),
        "huge-shape": lambda: y.update(shape=[10**30]),
        "no-data": lambda: y.pop("data"),
        "lost-file": lambda: (y.pop("data"), y.update(file="nowhere/y.bin")),
        "error": lambda: (tree.pop("outputs"), tree.update(error="cannot\nfloor")),
        "skip": lambda: (tree.pop("outputs"), tree.update(skip="not today")),
    }
    if behaviour in changes:
        changes[behaviour]()
    return json.dumps(tree) + "\n"


def misbehave(behaviour):
    """What is done in the place of an answer."""
    if behaviour == "hang":
        time.sleep(600)
    if behaviour == "exit":
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(3)
    if behaviour == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if behaviour == "half-line":
        say('{"id": "roun')
        os._exit(0)
    if behaviour == "close":
        os.close(1)
        time.sleep(600)
    if behaviour == "garbage":
        say('{"id": oops}\n')
    if behaviour == "deep":
        say("[" * 100_000 + "\n" + '{"a":' * 100_000 + "\n")
    if behaviour == "offspring":  # somebody else holds the pipes
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        os._exit(4)


def main():
    behaviour, _, when = (sys.argv[1] if len(sys.argv) > 1 else "").partition("@")
    hellos = {
        "mute": "",
        "talk-first": "loading...\n",
        "version": json.dumps(HELLO | {"protocol": 2}) + "\n",
        "unknown": json.dumps(HELLO | {"operations": ["rounding.up"]}) + "\n",
        "nothing": json.dumps(HELLO | {"operations": []}) + "\n",
        "arrays": json.dumps(HELLO | {"arrays": "hdf5"}) + "\n",
        "files": json.dumps(HELLO | {"arrays": "files"}) + "\n",
    }
    if behaviour == "stillborn":
        sys.exit("no such device")
    say(hellos.get(behaviour, json.dumps(HELLO) + "\n"))
    if behaviour == "flood":
        sys.stderr.write("x" * 1_000_000)
    for line in sys.stdin:
        question = json.loads(line)
        here = not when or question["id"].endswith(when)
        if here:
            misbehave(behaviour)
        if here and behaviour == "talk":
            say("debug: x = 1\n")
        text = answer(question, behaviour if here else "")
        say(text)
        if here and behaviour == "twice":
            say(text)
    if behaviour == "stay":
        time.sleep(600)
    if behaviour == "bad-end":
        sys.exit(7)


if __name__ == "__main__":
    main()
