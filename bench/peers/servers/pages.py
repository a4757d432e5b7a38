# The pages of pages.mjs for gunicorn with threads.
import os
import time

U32 = 0xFFFFFFFF


def mixed(a, b):
    state = (((a ^ 0x9E3779B9) * 0x85EBCA6B) ^ ((b + 1) * 0xC2B2AE35)) & U32
    state ^= state >> 15
    state = (state * 0x2C1B3CE5) & U32
    return state ^ (state >> 13)


def event_text(name, number):
    return f"id: {number}\ndata: {name} {'x' * (mixed(int(name), number) % 200)}\n\n".encode()


def events(name, every):
    number = 0
    while True:
        yield event_text(name, number)
        number += 1
        time.sleep(every)


def app(environ, start_response):
    parts = environ["PATH_INFO"].split("/")
    page, name = parts[1], parts[2] if len(parts) > 2 else ""
    value = environ.get("QUERY_STRING", "").partition("=")[2]
    headers = [("X-Gen", str(os.getpid()))]
    if page == "events":
        start_response("200 OK", headers + [("Content-Type", "text/event-stream")])
        return events(name, int(value) / 1000)
    if page == "slow":
        time.sleep(int(value) / 1000)
        body = f"{name} slow but sure\n"
    else:
        body = f"{name} {parts[3]}\n" if page == "n" else "ok\n"
    start_response("200 OK", headers + [("Content-Length", str(len(body)))])
    return [body.encode()]
