"""Through a company's proxy, whose password is not in the program.

    STABILITY_API_KEY=... COMPANY_PROXY=http://me:password@proxy.company:3128 \
        python -m examples.behind_a_proxy lighthouse.png

Where COMPANY_PROXY is not set, the client reads HTTPS_PROXY, ALL_PROXY and NO_PROXY by itself.
`proxy=False` would mean no proxy at all.
"""

from __future__ import annotations

import asyncio
import os
import sys

from stable_async import APIConnectionError, StabilityClient


async def main(path: str) -> None:
    proxy = os.environ.get("COMPANY_PROXY")
    async with StabilityClient(proxy=proxy) as client:
        try:
            image = await client.generate.core("a lighthouse", timeout=120)
        except APIConnectionError as error:
            sys.exit(f"{error}; {'it may be billed' if error.maybe_billed else 'nothing was paid'}")
        await image.save(path)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
