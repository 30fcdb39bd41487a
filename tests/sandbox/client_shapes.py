"""Requests as public clients write them, and the answers that the facts require.

Each is rebuilt from what the client's source or its recorded bytes show: the header lines, the
way of its form, and its fields.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.sandbox.support import sample_image

BOUNDARY = "------------------------d74496d66958873e"
AXIOS = "application/json, text/plain, */*"


@dataclass(frozen=True)
class Part:
    """A part of a form; a file has a name or a type."""

    name: str
    value: str | bytes
    filename: str | None = None
    content_type: str = ""
    more: str = ""

    def encode(self) -> bytes:
        named = "" if self.filename is None else f'; filename="{self.filename}"'
        head = f'Content-Disposition: form-data; name="{self.name}"{named}\r\n'
        if self.content_type:
            head += f"Content-Type: {self.content_type}\r\n"
        head += self.more
        data = self.value if isinstance(self.value, bytes) else self.value.encode()
        return f"--{BOUNDARY}\r\n{head}\r\n".encode() + data + b"\r\n"


@dataclass(frozen=True)
class Shape:
    """A request of a client, and the expected answer.

    Attributes:
        client: Who sends it.
        what: What is particular about it.
        line: Method and path.
        headers: Header lines beside `Host`, the lengths and the form's type.
        parts: The form; empty for none.
        body: A body in place of a form.
        status: Of the answer.
        kind: Its content type.
        keys: Keys of its JSON, in order.
        preamble: Bytes before the first boundary.
        result: The path's `{id}` is the id of a finished creative upscale.
    """

    client: str
    what: str
    line: str
    headers: tuple[str, ...]
    parts: tuple[Part, ...] = ()
    body: bytes = b""
    status: int = 200
    kind: str = "image/png"
    keys: tuple[str, ...] = ()
    preamble: bytes = b""
    result: bool = False

    def encode(self, host: str, result_id: str = "") -> bytes:
        body, lines = self.body, list(self.headers)
        if self.parts:
            body = b"".join(part.encode() for part in self.parts)
            body = self.preamble + body + f"--{BOUNDARY}--\r\n".encode()
            lines.append(f"Content-Type: multipart/form-data; boundary={BOUNDARY}")
        if body:
            lines.append(f"Content-Length: {len(body)}")
        path = self.line.replace("{id}", result_id)
        head = [f"{path} HTTP/1.1", f"Host: {host}", *lines, "Connection: close", "", ""]
        return "\r\n".join(head).encode() + body


CORE = "POST /v2beta/stable-image/generate/core"
ERASE = "POST /v2beta/stable-image/edit/erase"
CREATIVE = "POST /v2beta/stable-image/upscale/creative"
PROMPT = Part("prompt", "Lighthouse on a cliff overlooking the ocean")
WEBP = Part("output_format", "webp")
PNG = sample_image(96, 96)
BEARER = "Authorization: Bearer sk-MYAPIKEY"
SMALL = ("authorization: Bearer sk-MYAPIKEY", "accept: image/*")
CREATED = ("image", "finish_reason", "seed")

SHAPES = [
    Shape(
        "curl, the API's sample",
        "`-F prompt=... -F output_format=webp`",
        CORE,
        ("User-Agent: curl/7.88.1", *SMALL),
        (PROMPT, WEBP),
        kind="image/webp",
    ),
    Shape(
        "curl, the mirror's page",
        "prefix `/sd`",
        "POST /sd/v2beta/stable-image/generate/sd3",
        ("User-Agent: curl/7.88.1", *SMALL),
        (PROMPT, Part("model", "sd3-large"), Part("output_format", "jpeg")),
        kind="image/jpeg",
    ),
    Shape(
        "curl, the API's sample for results",
        "bare key, `accept: image/*`",
        "GET /v2beta/results/{id}",
        ("User-Agent: curl/7.88.1", "authorization: sk-MYAPIKEY", "accept: image/*"),
        result=True,
    ),
    Shape(
        "curl, the API's sample for v1",
        "`accept: */*`, set by curl itself",
        "GET /v1/user/balance",
        ("User-Agent: curl/7.88.1", "Accept: */*", BEARER),
        kind="application/json",
        keys=("credits",),
    ),
    Shape(
        "Python requests, the API's sample",
        "an empty part `none`",
        CORE,
        ("User-Agent: python-requests/2.32", "Accept-Encoding: gzip, deflate", *SMALL),
        (Part("none", "", "none"), PROMPT, WEBP),
        kind="image/webp",
    ),
    Shape(
        "Python requests, the API's sample",
        "an upload with a file name and no type",
        ERASE,
        ("User-Agent: python-requests/2.32", *SMALL),
        (Part("image", PNG, "husky.png"), Part("mask", PNG, "mask.png"), WEBP),
        kind="image/webp",
    ),
    Shape(
        "Node axios and form-data, the API's sample",
        "a `Buffer`: a file without a file name",
        ERASE,
        ("User-Agent: axios/1.7", "Accept: image/*", BEARER),
        (Part("image", PNG, content_type="application/octet-stream"), WEBP),
        kind="image/webp",
    ),
    Shape(
        "Node axios and form-data",
        "a stream: file name and type",
        CREATIVE,
        ("User-Agent: axios/1.7", f"Accept: {AXIOS}", BEARER),
        (Part("image", PNG, "a.png", "image/png"), PROMPT),
        kind="application/json",
        keys=("id",),
    ),
    Shape(
        "Go mime/multipart",
        "`CreateFormFile`, `WriteField`",
        ERASE,
        ("User-Agent: Go-http-client/1.1", "Accept: image/*", BEARER, "Accept-Encoding: gzip"),
        (Part("image", PNG, "in.png", "application/octet-stream"), Part("seed", "7")),
    ),
    Shape(
        "npm stability-ai",
        "`Accept: application/json; type=image/png` for a result",
        "GET /v2beta/results/{id}",
        ("User-Agent: axios/1.7", "Accept: application/json; type=image/png", BEARER),
        kind="application/json; type=image/png",
        keys=(*CREATED, "result"),
        result=True,
    ),
    Shape(
        "npm stability-ai",
        "engines, with axios's own accept",
        "GET /v1/engines/list",
        ("User-Agent: axios/1.7", f"Accept: {AXIOS}", BEARER),
        kind="application/json",
    ),
    Shape(
        "litellm",
        "httpx: fields of a form without files",
        "POST /v2beta/stable-image/generate/sd3",
        ("User-Agent: litellm/1.80", "Accept: application/json", BEARER),
        (PROMPT, Part("output_format", "png"), Part("aspect_ratio", "16:9")),
        kind="application/json; type=image/png",
        keys=CREATED,
    ),
    Shape(
        "mcp-server-stability-ai",
        "fields in camel case beside those of the API, which are ignored",
        CORE,
        ("User-Agent: axios/1.7", "Accept: application/json", BEARER),
        (PROMPT, Part("output_format", "png"), Part("aspectRatio", "16:9")),
        kind="application/json; type=image/png",
        keys=CREATED,
    ),
    Shape(
        "mcp-server-stability-ai",
        "reads `result` where the documentation says `image`",
        "GET /v2beta/results/{id}",
        ("User-Agent: axios/1.7", "Accept: application/json", BEARER),
        kind="application/json; type=image/png",
        keys=(*CREATED, "result"),
        result=True,
    ),
    Shape(
        "a browser's fetch of the same origin",
        "a `Blob` named blob",
        ERASE,
        ("User-Agent: Mozilla/5.0", "Accept: image/*", BEARER, "Sec-Fetch-Site: same-origin"),
        (Part("image", PNG, "blob", "image/png"),),
    ),
    Shape(
        "an old mail library",
        "a preamble, and a transfer encoding",
        ERASE,
        SMALL,
        (Part("image", PNG, "in.png", "image/png", "Content-Transfer-Encoding: binary\r\n"),),
        preamble=b"This is a message in MIME format.\r\n",
    ),
    Shape(
        "a program with JSON",
        "v2beta takes forms only",
        CORE,
        (*SMALL, "Content-Type: application/json"),
        body=b'{"prompt": "a lighthouse"}',
        status=400,
        kind="application/json",
        keys=("errors", "id", "name"),
    ),
    Shape(
        "a program that sends nothing",
        "recorded: `content-type: required`",
        CORE,
        SMALL,
        status=400,
        kind="application/json",
        keys=("errors", "id", "name"),
    ),
    Shape(
        "a v1 program with an empty key",
        "recorded: `missing authorization header`",
        "POST /v1/generation/stable-diffusion-xl-1024-v1-0/text-to-image",
        ("Content-Type: application/json", "Accept: application/json"),
        body=b'{"text_prompts": [{"text": "a lighthouse"}]}',
        status=401,
        kind="application/json",
        keys=("id", "message", "name"),
    ),
]
