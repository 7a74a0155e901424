"""An application for pre-fork servers of every kind, which tells how much its workers copy.

Its data is ordinary: 40,000 small records. A worker that is asked reads all of them and collects.
It answers with its process id, the kilobytes that became private to it by that, and the kilobytes
that the data took when it was loaded.
"""

import gc
import json
import os


def private_kb():
    with open("/proc/self/smaps_rollup") as file:
        return int(next(line for line in file if line.startswith("Private_Dirty")).split()[1])


class Data:
    def __init__(self):
        before = private_kb()
        self.records = [{"id": i, "name": f"name {i}", "tags": [i, str(i)]} for i in range(40_000)]
        self.kb = private_kb() - before
        self.loaded_by = os.getpid()


DATA = Data()


def report():
    before = private_kb()
    total = 0
    for record in DATA.records:  # takes a reference to each, and to what is in it
        tags = [*record["tags"]]
        total += len(record["name"]) + tags[0]
    gc.collect()
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "loaded_by": DATA.loaded_by,
        "copied": private_kb() - before,
        "data": DATA.kb,
        "total": total,
    }


def application(environ, start_response):
    body = json.dumps(report()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = json.dumps(report()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
