"""Parameters of a query: those that the description of a route names, and no other."""

import asyncio

from fake_service import running

from fxray.serve.parameters import PROBED


def test_no_route_takes_a_query_parameter_that_its_description_does_not_name(make_service):
    async def go():
        async with running(make_service()) as client:
            spec = (await client.get("/openapi.json")).json()
            routes = [
                (path.replace("{batch_id}", "0" * 32), method)
                for path in spec["paths"]
                if path not in PROBED
                for method in spec["paths"][path]
            ]
            asked = [(path, await client.request(method, f"{path}?after=1")) for path, method in routes]
            described = [route["responses"]["422"] for path in spec["paths"].values() for route in path.values()]
            pages = [
                (await client.get(f"{path}?after=1")).status_code
                for path in ("/", "/static/app.js", "/openapi.json", *PROBED)
            ]
            return asked, described, pages

    asked, described, pages = asyncio.run(asyncio.wait_for(go(), 30))
    for path, answer in asked:
        assert answer.status_code == 422, path
        assert answer.json()["detail"] == "unknown query parameter 'after'"
        known = "`model`" if path in ("/v1/detect", "/v1/stability") or answer.request.method == "POST" else "none"
        assert answer.json()["remedy"] == f"leave it out; there is {known} here"
    assert all(response["content"] for response in described)
    assert pages == [200] * 6


def test_a_parameter_that_is_given_twice_is_refused_since_only_one_of_them_would_count(make_service):
    async def go():
        async with running(make_service()) as client:
            return await client.post("/v1/detect?model=other&model=default")

    answer = asyncio.run(asyncio.wait_for(go(), 30))
    assert (answer.status_code, answer.json()["detail"]) == (422, "query parameter 'model' is given more than once")
