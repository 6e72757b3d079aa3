"""What tests ask of the batches of a service."""

import asyncio
import json

HEADERS = {"authorization": "Bearer fxray_a"}
BEN = {"authorization": "Bearer fxray_b"}
OWNERS = {"fxray_a": "ana", "fxray_b": "ben"}


def images(*contents: bytes):
    return [("images", (f"{n}.png", content, "image/png")) for n, content in enumerate(contents)]


async def until_done(client, url, headers=HEADERS):
    while (state := (await client.get(url, headers=headers)).json())["state"] != "done":
        await asyncio.sleep(0.02)
    return state


async def results_of(client, url):
    return [json.loads(line) for line in (await client.get(url + "/results", headers=HEADERS)).text.splitlines()]
