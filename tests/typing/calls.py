"""Calls, options and results."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from ssl import SSLContext
from typing import assert_type

from stable_async import (
    Account,
    AccountDetails,
    Audio,
    Balance,
    CallOptions,
    Engine,
    Failure,
    GenerateCore,
    Image,
    ImageResult,
    MediaStream,
    Model3D,
    Outcome,
    Quota,
    QuotaStatistics,
    Request,
    ResponseHead,
    ResultRequest,
    RetryPolicy,
    SharedQuota,
    StabilityClient,
    StabilityError,
    StableFast3D,
    Success,
    TextToAudio,
    Timeouts,
    UpscaleCreative,
    V1Engines,
)


async def coroutines(client: StabilityClient) -> None:
    assert_type(await client.generate.core("a lighthouse", aspect_ratio="16:9", seed=7), Image)
    assert_type(await client.upscale.fast("in.png"), Image)
    assert_type(await client.audio.text_to_audio("rain"), Audio)
    assert_type(await client.model3d.fast("in.png"), Model3D)
    assert_type(await client.results.get("a" * 64), Image)
    assert_type(await client.account.balance(), Balance)
    assert_type(await client.account.details(), Account)
    assert_type(await client.v1.engines(), list[Engine])


async def results(client: StabilityClient) -> None:
    image = await client.send(GenerateCore(prompt="x"))
    assert_type(image, Image)
    assert_type(image.data, bytes)
    assert_type(image.seed, int | None)
    assert_type((image.width, image.height), tuple[int, int])
    assert_type(await image.save(Path("x.png")), Path)
    assert_type(await client.send(TextToAudio(prompt="rain")), Audio)
    assert_type(await client.send(StableFast3D(image=b"")), Model3D)
    assert_type(await client.send(AccountDetails()), Account)
    assert_type(await client.send(V1Engines()), list[Engine])


async def streams(client: StabilityClient) -> None:
    async with client.stream(GenerateCore(prompt="x"), deadline=5) as stream:
        assert_type(stream, MediaStream[Image])
        async for chunk in stream:
            assert_type(chunk, bytes)
        assert_type(await stream.read(), Image)
        assert_type(await stream.save("x.png"), Path)


async def submissions(client: StabilityClient) -> None:
    submitted = await client.submit(UpscaleCreative(image=b"", prompt="x"))
    assert_type(submitted, ResultRequest[Image])
    assert_type(await client.poll(submitted), Image | None)
    assert_type(await client.send(submitted), Image)
    assert_type(await client.poll(ImageResult(id=submitted.id)), Image | None)


async def outcomes(client: StabilityClient, requests: AsyncIterator[GenerateCore]) -> None:
    async with aclosing(client.map(requests, max_in_flight=8)) as mapped:
        async for outcome in mapped:
            assert_type(outcome, Success[Image] | Failure[Image])
            if outcome.error is None:
                assert_type(outcome.result, Image)
            else:
                assert_type(outcome.error, StabilityError)
                assert_type(outcome.result, None)
            match outcome:
                case Success(result=image):
                    assert_type(image, Image)
                case Failure(error=error):
                    assert_type(error, StabilityError)


def named(outcome: Outcome[Image], request: Request[Image]) -> bool:
    return outcome.request is request


async def keep(image: Image) -> None:
    await image.save("kept.png")


async def keep_submitted(submitted: ResultRequest[Image]) -> None:
    print(submitted.id)


def on_response(head: ResponseHead) -> None:
    print(head.status, head.headers["x-request-id"])


async def options(client: StabilityClient) -> None:
    await client.generate.core(
        "x",
        timeout=60,
        max_retries=0,
        deadline=30.0,
        priority="bulk",
        tenant=7,
        extra_headers={"x-trace": "1"},
        raise_on_filtered=True,
        on_response=on_response,
        on_disconnect="finish",
        on_finished=keep,
    )
    request = UpscaleCreative(image=b"", prompt="x")
    await client.submit(request, on_disconnect="finish", on_finished=keep_submitted)
    slow = client.with_options(timeout=Timeouts(first_byte=300), priority="bulk", tenant="u7")
    assert_type(slow, StabilityClient)
    assert_type(await slow.generate.ultra("x"), Image)
    given: CallOptions[Image] = {"timeout": None, "tenant": None}
    await client.send(GenerateCore(prompt="x"), **given)


async def settings(context: SSLContext, bundle: Path) -> None:
    client = StabilityClient(timeout=30, retry=3, proxy="http://proxy.test:3128", ssl=context)
    opened = await client.open()
    assert_type(opened, StabilityClient)
    assert_type(client.quota_statistics(), QuotaStatistics | None)
    await client.aclose()
    StabilityClient("sk-key", quota=Quota(requests=100), ssl=bundle, proxy=False)
    StabilityClient("sk-key", quota=SharedQuota.file(bundle), retry=RetryPolicy(attempts=2))
    StabilityClient("sk-key", quota=Quota(scope="client"), timeout=None)


class Subclass(StabilityClient):
    """A user may derive."""

    async def portrait(self, prompt: str) -> Image:
        return await self.generate.core(prompt, aspect_ratio="2:3")


async def derived(client: Subclass) -> None:
    assert_type(client.with_options(tenant=1), Subclass)
    async with client as entered:
        assert_type(entered, Subclass)


Maker = Callable[[str], Awaitable[Image]]


def a_coroutine_is_a_value(client: StabilityClient) -> Maker:
    return client.generate.core
