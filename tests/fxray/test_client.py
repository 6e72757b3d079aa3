import json
import os
import resource
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import httpx
import pytest

from fxray.client import Client, ServiceError
from fxray.errors import ConfigError, DataError, DeadlineError
from fxray.serve.uploads import harmless_name


def client_of(answers: list[httpx.Response], asked: list[httpx.Request]) -> Client:
    def handle(request: httpx.Request) -> httpx.Response:
        request.read()
        asked.append(request)
        return answers.pop(0)

    return Client("http://service", key="fxray_a", transport=httpx.MockTransport(handle))


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"pixels")
    return file


def test_a_refused_request_is_sent_again_whole(image):
    asked: list[httpx.Request] = []
    answers = [
        httpx.Response(503, headers={"Retry-After": "0"}, json={}),
        httpx.Response(200, json={"detections": [{"name": "photo.jpg", "verdict": "real"}]}),
    ]
    assert client_of(answers, asked).detect([image])[0]["verdict"] == "real"
    assert [b"pixels" in request.content for request in asked] == [True, True]
    assert asked[0].headers["authorization"] == "Bearer fxray_a"


def test_a_proxy_without_a_service_is_asked_again_and_a_service_that_knows_no_batch_is_not(image):
    asked: list[httpx.Request] = []
    answers = [
        httpx.Response(404, text="Path '/v1/detect' not found.", headers={"Retry-After": "0"}),
        httpx.Response(200, json={"detections": [{"verdict": "real"}]}),
        httpx.Response(404, json={"detail": "there is no such batch"}),
    ]
    client = client_of(answers, asked)
    assert client.detect([image]) == [{"verdict": "real"}]
    with pytest.raises(ServiceError, match="no such batch"):
        client.batch("0" * 32)
    assert len(asked) == 3


def test_an_image_at_fault_is_a_result_and_a_request_at_fault_an_error(image):
    problem = {"title": "", "status": 422, "detail": "no image", "remedy": "send one"}
    answers = [httpx.Response(422, json=problem), httpx.Response(401, json={"detail": "a key is needed"})]
    client = client_of(answers, [])
    assert client.detect([image]) == [{"name": "photo.jpg", "problem": problem}]
    with pytest.raises(ServiceError, match="a key is needed") as raised:
        client.detect([image])
    assert raised.value.status == 401


def test_a_request_about_several_images_is_at_fault_as_a_whole_and_one_about_none_is_not_sent(image):
    asked: list[httpx.Request] = []
    client = client_of([httpx.Response(422, json={"detail": "65 images, expected at most 64"})], asked)
    with pytest.raises(ServiceError, match="65 images"):
        client.detect([image, image])
    assert client.detect([]) == []
    assert len(asked) == 1


def test_one_path_for_a_list_and_a_file_that_is_not_there_are_told_and_nothing_is_sent(image, tmp_path):
    client = client_of([], [])
    for ask in (client.detect, client.hand_in):
        for one in (image, str(image), b"pixels"):
            with pytest.raises(DataError, match="expected a list of files, got one"):
                ask(one)
        with pytest.raises(DataError, match=r"absent\.jpg: cannot be read: No such file"):
            ask([image, tmp_path / "absent.jpg"])
    with pytest.raises(DataError, match="cannot be read"):
        client.stability(tmp_path / "absent.jpg")


def test_a_batch_may_hold_more_files_than_a_process_may_have_open(tmp_path):
    files = [tmp_path / f"{number}.jpg" for number in range(300)]
    for number, file in enumerate(files):
        file.write_bytes(b"pixels %d," % number)
    asked: list[httpx.Request] = []
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
    try:
        client = client_of(
            [httpx.Response(503, headers={"Retry-After": "0"}), httpx.Response(202, json={"id": "f"})], asked
        )
        assert client.hand_in(files) == "f"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    for request in asked:
        assert int(request.headers["content-length"]) == len(request.content)
        assert all(b"pixels %d," % number in request.content for number in range(300))


def test_a_file_that_is_deleted_before_its_turn_is_told(image):
    class Deleting(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            image.unlink()
            request.read()
            return httpx.Response(200, json={"detections": []})

    with pytest.raises(DataError, match=r"photo\.jpg: cannot be read: No such file"):
        Client("http://service", transport=Deleting()).detect([image])


def test_an_image_at_fault_has_no_stability(image):
    answers = [
        httpx.Response(200, json={"num_flips": 2}), httpx.Response(422, json={"detail": "no image", "status": 422}),
    ]  # fmt: skip
    asked: list[httpx.Request] = []
    client = client_of(answers, asked)
    assert client.stability(image) == {"num_flips": 2}
    with pytest.raises(ServiceError, match="no image"):
        client.stability(image)
    assert {request.url.path for request in asked} == {"/v1/stability"}


def test_a_batch_is_waited_for_no_longer_than_told(image):
    running = {"state": "running", "num_done": 1, "num_images": 2}
    lines = "".join(json.dumps({"name": name}) + "\n" for name in "ab")
    answers = [
        httpx.Response(202, json={"id": "f" * 32}), httpx.Response(200, json=running),
        httpx.Response(200, json=running | {"state": "done"}), httpx.Response(200, text=lines),
        httpx.Response(200, json=running | {"held_up": "cannot be written: No space left"}),
    ]  # fmt: skip
    client = client_of(answers, [])
    batch = client.hand_in([image])
    client.wait(batch, deadline_s=5, every_s=0)
    assert [result["name"] for result in client.results(batch)] == ["a", "b"]
    with pytest.raises(DeadlineError, match=r"1 of 2 images .*, held up: cannot be written: No space left"):
        client.wait(batch, deadline_s=-1)


def test_the_model_is_named_where_one_is_asked_for(image):
    asked: list[httpx.Request] = []
    answers = [httpx.Response(200, json={"detections": [{"verdict": "real"}]}) for _ in range(2)]
    answers += [httpx.Response(200, json={"num_flips": 0}), httpx.Response(202, json={"id": "0" * 32})]
    answers += [httpx.Response(200, json={"models": [{"name": "default"}]})]
    client = client_of(answers, asked)
    client.detect([image])
    client.detect([image], "strict")
    client.stability(image, "strict")
    client.hand_in([image], "strict")
    assert client.models() == [{"name": "default"}]
    paths = ["/v1/detect", "/v1/detect?model=strict", "/v1/stability?model=strict", "/v1/batches?model=strict"]
    assert [request.url.raw_path.decode() for request in asked] == [*paths, "/v1/models"]


@pytest.mark.parametrize(
    "told", ["Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00", "soon", "-1", "inf", ""]
)
def test_a_time_to_wait_may_be_told_in_any_way(told, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr("fxray.client.time", SimpleNamespace(sleep=slept.append))
    answers = [httpx.Response(503, headers={"Retry-After": told}), httpx.Response(200, json={"models": []})]
    assert client_of(answers, []).models() == []
    assert slept == [0.0 if told.endswith("GMT") else 1.0]


def test_a_date_to_wait_for_is_waited_for_up_to_a_limit(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr("fxray.client.time", SimpleNamespace(sleep=slept.append))
    dates = [format_datetime(datetime.now(UTC) + timedelta(seconds=each), usegmt=True) for each in (12, 900)]
    answers = [httpx.Response(503, headers={"Retry-After": date}) for date in dates]
    client_of([*answers, httpx.Response(200, json={"models": []})], []).models()
    assert slept == [pytest.approx(11, abs=1.1), 30.0]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(502, json="bad gateway"), httpx.Response(502, text="<html>"), httpx.Response(500, json=[1]),
        httpx.Response(422, text="<html>"),
        httpx.Response(200, text="<html>log in"), httpx.Response(200, json="ok"), httpx.Response(200, json={}),
    ],
)  # fmt: skip
def test_what_a_proxy_says_is_an_error_of_the_service(answer, image):
    def ask(call):
        with pytest.raises(ServiceError, match=f"status {answer.status_code}") as raised:
            call(client_of([answer], []))
        assert raised.value.status == answer.status_code

    ask(lambda client: client.models())
    ask(lambda client: client.detect([image]))
    ask(lambda client: client.stability(image))
    ask(lambda client: client.hand_in([image]))
    ask(lambda client: client.batch("0" * 32))


def test_results_keep_all_that_unicode_takes_for_the_end_of_a_line():
    results = [{"answer": "a\u2028b\u2029c\x85d"}, {"answer": "e"}]
    lines = "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results)
    client = client_of([httpx.Response(200, text=lines)], [])
    assert list(client.results("0" * 32)) == results


def test_a_file_whose_name_is_no_unicode_is_sent_with_the_others(image):
    odd = image.with_name(os.fsdecode(b"a\xff.jpg"))
    odd.write_bytes(b"odd pixels")
    asked: list[httpx.Request] = []
    problem = {"detail": "no image", "status": 422}
    client = client_of([httpx.Response(200, json={"detections": [1, 2]}), httpx.Response(422, json=problem)], asked)
    assert client.detect([image, odd]) == [1, 2]
    assert b"odd pixels" in asked[0].content
    assert b'filename="a?.jpg"' in asked[0].content
    assert harmless_name("a?.jpg", 1) == "a?.jpg"  # the service takes a backslash for the end of a folder
    assert client.detect([odd]) == [{"name": "a?.jpg", "problem": problem}]


@pytest.mark.parametrize("key", ["fxray\u2013a", "ключ", "fxray_a\n"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(key):
    with pytest.raises(ConfigError, match="characters") as raised:
        Client("http://service", key=key)
    assert key not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["", "nonsense", "localhost:8000", "127.0.0.1:8000", "ftp://host", "http://", "http://h:x"]
)
def test_an_address_that_is_none_is_refused_before_anything_is_asked(url):
    with pytest.raises(ConfigError, match=r"is no address of a service\n  remedy: give http://HOST:PORT"):
        Client(url)


@pytest.mark.parametrize("text", ["<html>log in", "[" * 100_000], ids=["page", "nested"])
def test_results_that_are_a_page_are_an_error(text):
    client = client_of([httpx.Response(200, text=text)], [])
    with pytest.raises(ServiceError, match="not the service's"):
        list(client.results("0" * 32))


def test_an_answer_that_is_nested_without_end_is_an_error():
    client = client_of([httpx.Response(200, text="[" * 100_000)], [])
    with pytest.raises(ServiceError, match="not the service's"):
        client.models()


def test_a_batch_at_fault_is_an_error(image):
    client = client_of([httpx.Response(422, json={"detail": "unknown query parameter", "status": 422})], [])
    with pytest.raises(ServiceError, match="unknown query parameter"):
        client.hand_in([image])
