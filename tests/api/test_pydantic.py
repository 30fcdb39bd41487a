"""Request models inside pydantic and FastAPI behave like any other model."""

from __future__ import annotations

import base64
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import pydantic
import pytest
from fastapi import Body, FastAPI
from fastapi.testclient import TestClient

import stable_async
from stable_async import (
    GenerateCore,
    Image,
    InvalidRequestError,
    Outpaint,
    Request,
    UpscaleFast,
)
from tests.samples import sample_image

if TYPE_CHECKING:
    from pathlib import Path

MODELS: list[type[Request[Any]]] = [
    model
    for name in stable_async.__all__
    if inspect.isclass(model := getattr(stable_async, name))
    and issubclass(model, Request)
    and model.model_fields
]
IMAGE = sample_image(64, 64)
IN_JSON = base64.b64encode(IMAGE).decode()


class Order(pydantic.BaseModel):
    """A model of a user's own, with one of ours inside."""

    request: Outpaint


def test_a_program_gets_our_error_and_data_gets_pydantics() -> None:
    with pytest.raises(InvalidRequestError, match="prompt: required, not given"):
        GenerateCore()  # type: ignore[call-arg]
    with pytest.raises(pydantic.ValidationError) as caught:
        GenerateCore.model_validate({"seed": -1})
    assert [error["loc"] for error in caught.value.errors()] == [("prompt",), ("seed",)]


def test_a_rule_between_fields_is_reported_at_its_place() -> None:
    with pytest.raises(InvalidRequestError) as ours:
        Outpaint(image=IMAGE)
    with pytest.raises(pydantic.ValidationError) as theirs:
        Order.model_validate({"request": {"image": IN_JSON}})
    (problem,) = ours.value.problems
    (error,) = theirs.value.errors()
    assert error["loc"] == ("request", *((problem.field,) if problem.field else ()))
    assert problem.allowed in error["msg"]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_has_a_json_schema(model: type[Request[Any]]) -> None:
    schema = model.model_json_schema()
    assert set(schema["properties"]) == set(model.model_fields)
    for name in model.file_parts:
        content = schema["properties"][name]
        assert content["contentEncoding"] == "base64"


@pytest.fixture(scope="module")
def service() -> TestClient:
    app = FastAPI()
    for model in MODELS:

        def endpoint(request: Request[object]) -> int:
            return sum(len(data) for _, data in request.files() if isinstance(data, bytes))

        endpoint.__annotations__["request"] = Annotated[model, Body()]
        app.post(f"/{model.__name__}")(endpoint)
    return TestClient(app)


def test_the_openapi_document_has_every_model(service: TestClient) -> None:
    document = service.get("/openapi.json").json()
    assert {model.__name__ for model in MODELS} <= set(document["components"]["schemas"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": ""},
        {"prompt": "x", "aspect_ratio": "17:9"},
        {"prompt": "x", "negative_promt": "y"},
        [],
        None,
    ],
)
def test_an_invalid_body_is_422(service: TestClient, body: object) -> None:
    answer = service.post("/GenerateCore", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_a_file_comes_as_base64(service: TestClient) -> None:
    for text in (IN_JSON, f"data:image/png;base64,{IN_JSON}"):
        answer = service.post("/UpscaleFast", json={"image": text})
        assert (answer.status_code, answer.json()) == (200, len(IMAGE))


@pytest.mark.parametrize("image", ["/etc/passwd", "in.png", "file:///etc/passwd", [1], {"a": 1}, 7])
def test_a_path_of_the_server_is_never_taken_from_json(
    service: TestClient, image: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.png").write_bytes(IMAGE)
    assert service.post("/UpscaleFast", json={"image": image}).status_code == 422


def test_text_that_is_base64_is_content_and_no_path_even_if_such_a_file_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "abcd").write_bytes(IMAGE)
    data = UpscaleFast.model_validate({"image": "abcd"})
    assert data.image == base64.b64decode("abcd")
    assert UpscaleFast.model_validate_json('{"image": "abcd"}').image == base64.b64decode("abcd")
    (path,) = (value for _, value in UpscaleFast(image="abcd").files())
    assert str(path) == "abcd"


def test_a_request_goes_through_json_and_back() -> None:
    image = Image(data=IMAGE, content_type="image/png")
    for request in (UpscaleFast(image=IMAGE), UpscaleFast(image=image)):
        again = UpscaleFast.model_validate_json(request.model_dump_json())
        assert again.image == IMAGE
    with pytest.raises(ValueError, match="only a file given as bytes"):
        UpscaleFast(image="secret.png").model_dump_json()
