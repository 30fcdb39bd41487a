"""Answers: their parts, and the shapes in which the API puts results and refusals."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stable_async.sandbox.faults import Drop
    from stable_async.sandbox.refusals import RefusalError
    from stable_async.sandbox.render.engine import Product

__all__ = ["Answer", "json_answer", "product_answer", "refused", "v1_answer"]


@dataclass(slots=True)
class Answer:
    """A whole answer.

    Attributes:
        status: HTTP status.
        content_type: Of `body`.
        body: The bytes.
        headers: Further headers.
        drop: How the connection is to be cut while it is sent; `None` sends it whole.
    """

    status: int
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    drop: Drop | None = None


def json_answer(status: int, value: object, content_type: str = "application/json") -> Answer:
    """Give `value` as JSON."""
    return Answer(status, content_type, json.dumps(value).encode())


def product_answer(product: Product, accept: str) -> Answer:
    """Give a product as bytes with its facts in headers, or all of it as JSON."""
    if accept != "application/json":
        headers = {"finish-reason": product.finish_reason, "seed": str(product.seed)}
        return Answer(200, product.content_type, product.data, headers)
    kind = product.content_type.partition("/")[0]
    body = {
        kind: base64.b64encode(product.data).decode(),
        "finish_reason": product.finish_reason,
        "seed": product.seed,
    }
    return json_answer(200, body, f"application/json; type={product.content_type}")


def v1_answer(products: Sequence[Product], accept: str) -> Answer:
    """Give v1's products: one as PNG, or all as JSON."""
    if accept == "image/png":
        product = products[0]
        headers = {"Finish-Reason": product.finish_reason, "Seed": str(product.seed)}
        return Answer(200, product.content_type, product.data, headers)
    artifacts = [
        {
            "base64": base64.b64encode(product.data).decode(),
            "finishReason": product.finish_reason,
            "seed": product.seed,
        }
        for product in products
    ]
    return json_answer(200, {"artifacts": artifacts})


def refused(error: RefusalError, api: str, request_id: str) -> Answer:
    """Give an error answer in the shape of `api`."""
    answer = json_answer(error.status, error.body(api, request_id))
    if api == "v2":
        answer.headers["x-request-id"] = request_id
    if error.retry_after is not None:
        answer.headers["retry-after"] = f"{error.retry_after:g}"
    return answer
