"""Mistakes that a type checker finds: each line ends in a comment that only a mistake needs.

Every checker says so if one is not needed: mypy by `warn_unused_ignores`, pyright by
`reportUnnecessaryTypeIgnoreComment`.
"""

from __future__ import annotations

from stable_async import Audio, GenerateCore, Quota, StabilityClient


async def keep_audio(audio: Audio) -> None:
    await audio.save("x.mp3")


async def mistakes(client: StabilityClient) -> None:
    await client.generate.core("x", negative_promt="y")  # type: ignore[call-arg]
    await client.generate.core("x", aspect_ratio="17:9")  # type: ignore[arg-type]
    await client.generate.core("x", deadlin=1)  # type: ignore[call-arg]
    await client.generate.core("x", priority="bulkk")  # type: ignore[arg-type]
    await client.generate.core("x", timeout="5")  # type: ignore[arg-type]
    await client.generate.core("x", on_finished=keep_audio)  # type: ignore[arg-type]
    await client.send(GenerateCore(prompt="x"), on_finished=keep_audio)  # type: ignore[arg-type]
    await client.upscale.fast(7)  # type: ignore[arg-type]
    await client.poll(GenerateCore(prompt="x"))  # type: ignore[arg-type]
    client.map([GenerateCore(prompt="x")], max_inflight=2)  # type: ignore[call-arg]
    client.with_options(tennant="x")  # type: ignore[call-arg]
    StabilityClient(tiemout=3)  # type: ignore[call-arg]
    Quota(reqests=3)  # type: ignore[call-arg]
    GenerateCore(promt="x")  # type: ignore[call-arg]
