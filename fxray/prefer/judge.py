"""A model as judge: it is shown the same pairs as people, drawn, behind any OpenAI-compatible address.

Its answer must be one word, or it counts for nothing. What it votes is stored as a rater of kind "judge", which results
never mix with people unless that is asked for.
"""

import asyncio
import base64
import io
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from fxray.client import ServiceError, key_headers
from fxray.draw import draw_annotation
from fxray.errors import ConfigError, DeadlineError
from fxray.prefer.marking import Marking
from fxray.prefer.raters import Rater
from fxray.prefer.store import Store
from fxray.prefer.votes import Choice, cast, image_of, note_bad_answer, open_positions, shown

QUESTION = (
    "Two annotators marked what shows that an image is generated, with numbered boxes and a caption for each. The "
    "first picture is the left annotation, the second is the right annotation; both are of the same image. Which is "
    "better: whose boxes and captions fit each other better, and which is better as a whole? If there is no clear "
    "difference, say neutral. Answer with one word and nothing else: left, right or neutral."
)
MAX_TRIES = 4
"""Of a question that is not answered in time, or that the service asks to put later."""
KEY_VARIABLE = "FXRAY_JUDGE_KEY"
"""Environment variable with the key that the address asks for."""
_MAX_PAUSE_S = 30.0
_JPEG_QUALITY = 92
_CHOICES: dict[str, Choice] = {"left": "left", "right": "right", "neutral": "neutral"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the model answers.

    Attributes:
        url: Of the interface, without `/chat/completions`.
        model: As the interface calls it.
        key: Sent as a bearer token; empty for none.
        deadline_s: For a whole answer.
        max_tokens: Of an answer.
    """

    url: str
    model: str
    key: str
    deadline_s: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of it: votes that were cast now, answers that were none."""

    num_votes: int
    num_bad_answers: int


def judge_study(
    store: Store, rater: Rater, endpoint: Endpoint, *, num_parallel: int, told: Callable[[int, int], None]
) -> Judged:
    """Asks about every pair that has no vote of this rater yet.

    Args:
        store: The study.
        rater: Of kind "judge".
        endpoint: Where the model answers.
        num_parallel: Questions at a time.
        told: Called with the number of pairs that are through, and of all that were open.

    Raises:
        ConfigError: The address is none, or the key holds what no HTTP header can.
        DeadlineError: No answer came in time, `MAX_TRIES` times in a row.
        ServiceError: The address refuses, or does not speak the interface. Votes until then are kept.
    """
    if urlsplit(endpoint.url).scheme not in ("http", "https") or not urlsplit(endpoint.url).hostname:
        raise ConfigError(f"{endpoint.url!r} is no http address", where="--url", remedy="give http://HOST:PORT/v1")
    positions = open_positions(store, rater)
    try:
        return asyncio.run(_judge_all(store, rater, endpoint, positions, num_parallel, told))
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


async def _judge_all(
    store: Store,
    rater: Rater,
    endpoint: Endpoint,
    positions: list[int],
    num_parallel: int,
    told: Callable[[int, int], None],
) -> Judged:
    room, num_votes, num_bad = asyncio.Semaphore(num_parallel), 0, 0
    headers = key_headers(endpoint.key, KEY_VARIABLE)

    async def judge(position: int) -> None:
        nonlocal num_votes, num_bad
        async with room:
            body = await asyncio.to_thread(_body, store, rater, position, endpoint)
            began = time.monotonic()
            answer = await _ask(client, endpoint, body)
        choice = read_choice(answer)
        if choice is None:
            note_bad_answer(store, rater, position, answer)
            num_bad += 1
        else:
            cast(store, rater, secrets.token_hex(16), position, choice, time.monotonic() - began)
            num_votes += 1
        told(num_votes + num_bad, len(positions))

    whole = httpx.Timeout(None)  # `_ask` has a deadline for the whole answer, which no wait for a connection may use up
    limits = httpx.Limits(max_connections=num_parallel, max_keepalive_connections=num_parallel)
    client = httpx.AsyncClient(headers=headers, timeout=whole, limits=limits)
    async with client, asyncio.TaskGroup() as tasks:
        for position in positions:
            tasks.create_task(judge(position))
    return Judged(num_votes, num_bad)


def read_choice(answer: str) -> Choice | None:
    """The choice that an answer is; None for anything but one of the three words, in whatever case."""
    return _CHOICES.get(answer.strip().lower())


def _body(store: Store, rater: Rater, position: int, endpoint: Endpoint) -> dict[str, Any]:
    """The question about a pair: both annotations drawn, the left one first."""
    pair = shown(store, rater, position)
    image = Image.open(io.BytesIO(image_of(store, rater, position)))
    pictures = [_drawn(image, "Left", pair.left), _drawn(image, "Right", pair.right)]
    parts = [{"type": "text", "text": QUESTION}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in pictures]  # type: ignore[dict-item]
    return {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": parts}],
        "temperature": 0,
        "max_tokens": endpoint.max_tokens,
    }


def _drawn(image: Image.Image, heading: str, marking: Marking) -> str:
    """The annotation as a `data:` address of a JPEG."""
    out = io.BytesIO()
    drawn = draw_annotation(image, heading=heading, verdict=marking.verdict, regions=marking.regions)
    drawn.save(out, "JPEG", quality=_JPEG_QUALITY, subsampling=0)  # thin lines keep their colours
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


async def _ask(client: httpx.AsyncClient, endpoint: Endpoint, body: dict[str, Any]) -> str:
    """The text of an answer, asked for again where that may help."""
    url = endpoint.url.rstrip("/") + "/chat/completions"
    for tried in range(1, MAX_TRIES + 1):
        pause_s = min(2.0**tried / 4, _MAX_PAUSE_S)
        try:
            async with asyncio.timeout(endpoint.deadline_s):
                response = await client.post(url, json=body)
        except TimeoutError as error:
            if tried == MAX_TRIES:
                raise DeadlineError(
                    f"no answer within {endpoint.deadline_s:g} s, {MAX_TRIES} times",
                    where=url,
                    remedy="give a longer --deadline-s, or fewer questions at a time with --parallel",
                ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if tried == MAX_TRIES:
                raise ServiceError(
                    f"does not answer: {error or type(error).__name__}",
                    where=url,
                    remedy="check that it runs, and --url",
                ) from error
        else:
            if not _may_try_again(response) or tried == MAX_TRIES:
                return _text_of(response, url)
            pause_s = _retry_after_s(response, pause_s)
        await asyncio.sleep(pause_s)
    raise AssertionError("the last try returns or raises")


def _may_try_again(response: httpx.Response) -> bool:
    return response.status_code in (408, 429) or response.is_server_error


def _retry_after_s(response: httpx.Response, otherwise_s: float) -> float:
    said = response.headers.get("Retry-After", "")
    return min(float(said), _MAX_PAUSE_S) if said.isascii() and said.isdigit() else otherwise_s


def _text_of(response: httpx.Response, url: str) -> str:
    if not response.is_success:
        raise ServiceError(
            f"status {response.status_code}: {response.text[:300]}",
            where=url,
            remedy=f"check --url and --model, and the key in {KEY_VARIABLE}",
            status=response.status_code,
        )
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise ServiceError(
            f"no chat completion: {response.text[:200]!r}", where=url, remedy="give the address of a chat interface"
        ) from error
    return content if isinstance(content, str) else ""
