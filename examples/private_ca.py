"""A company gateway: its certificate is from a private CA, and it asks for a client certificate.

    STABILITY_API_KEY=... STABILITY_BASE_URL=https://gateway.company/stability \
        python -m examples.private_ca company-ca.pem client.pem lighthouse.png

If only the CA is private, `StabilityClient(ssl="company-ca.pem")` or SSL_CERT_FILE is enough.
"""

from __future__ import annotations

import asyncio
import ssl
import sys

from stable_async import StabilityClient


async def main(authority: str, certificate: str, path: str) -> None:
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(certificate)
    async with StabilityClient(ssl=context) as client:
        image = await client.generate.core("a lighthouse")
        await image.save(path)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
