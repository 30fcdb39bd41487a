"""Results: what they say of themselves, how notebooks show them, how they are saved."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import PIL.Image
import pytest

from stable_async import Audio, ConfigurationError, Image, InvalidResponseError, Model3D
from tests.samples import sample_image, wav

if TYPE_CHECKING:
    from pathlib import Path


def image(kind: str = "png", width: int = 70, height: int = 80) -> Image:
    return Image(data=sample_image(width, height, kind), content_type=f"image/{kind}")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_an_image_knows_its_size(kind: str) -> None:
    assert (image(kind).width, image(kind).height) == (70, 80)
    assert image(kind).to_pil().size == (70, 80)


@pytest.mark.parametrize("data", [b"", b"no image", sample_image()[:12]])
def test_bytes_that_are_no_image_have_no_size(data: bytes) -> None:
    broken = Image(data=data, content_type="image/png", request_id="r-1")
    for use in (lambda: broken.width, lambda: broken.height, broken.to_pil):
        with pytest.raises(InvalidResponseError, match=r"not a PNG, JPEG or WebP image") as caught:
            use()
        assert caught.value.request_id == "r-1"


def test_to_pil_without_pillow_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = image()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigurationError, match="pip install pillow"):
        one.to_pil()


def test_a_notebook_shows_png_and_jpeg_as_they_are_and_webp_in_html() -> None:
    for kind in ("png", "jpeg"):
        shown = image(kind)._repr_mimebundle_()
        assert base64.b64decode(shown[f"image/{kind}"]) == image(kind).data
    shown = image("webp")._repr_mimebundle_()
    assert shown["text/html"].startswith('<img src="data:image/webp;base64,')
    assert shown["text/plain"] == repr(image("webp"))


def test_a_notebook_plays_audio_and_links_models() -> None:
    audio = Audio(data=wav(1), content_type="audio/wav")
    assert "<audio controls" in audio._repr_mimebundle_()["text/html"]
    model = Model3D(data=b"glTF" * 300_000, content_type="model/gltf-binary")
    assert "model.glb, 1.2 MB" in model._repr_mimebundle_()["text/html"]


def test_what_a_notebook_shows_decodes_to_the_bytes() -> None:
    for one in (image("webp"), Audio(data=wav(1), content_type="audio/wav")):
        (encoded,) = re.findall(r"base64,([^\"]+)", one._repr_mimebundle_()["text/html"])
        assert base64.b64decode(encoded) == one.data


async def test_a_name_of_another_format_is_warned_of_and_nothing_is_converted(
    tmp_path: Path,
) -> None:
    with pytest.warns(
        UserWarning, match=r"image/png saved under a name that ends in \.jpg"
    ) as told:
        await image().save(tmp_path / "x.jpg")
    assert told[0].filename == __file__
    assert (tmp_path / "x.jpg").read_bytes() == image().data


@pytest.mark.parametrize("name", ["x.png", "x.PNG", "x", "x.tmp", "x.png.bak"])
async def test_a_name_that_says_nothing_else_is_not_warned_of(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await image().save(tmp_path / name)


async def test_an_unknown_media_type_is_not_warned_of(tmp_path: Path) -> None:
    await Audio(data=b"x", content_type="audio/x-wav").save(tmp_path / "x.wav")


async def test_an_error_of_save_names_the_target_and_not_the_temporary_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "folder.png").mkdir()
    for target in (tmp_path / "missing" / "x.png", tmp_path / "folder.png"):
        with pytest.raises(OSError, match=re.escape(repr(str(target)))) as caught:
            await image().save(target)
        assert str(caught.value).endswith(repr(str(target)))
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.png"]


def test_the_size_is_read_without_pillow() -> None:
    program = (
        "import sys\n"
        "from stable_async import Image\n"
        "data = sys.stdin.buffer.read()\n"
        "print(Image(data=data, content_type='image/png').width, 'PIL' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], input=sample_image(70, 80), capture_output=True, check=True
    )
    assert run.stdout.split() == [b"70", b"False"]


def test_pillow_reads_what_to_pil_returns() -> None:
    pixels = image().to_pil().convert("RGB").tobytes()
    assert pixels == PIL.Image.open(io.BytesIO(image().data)).convert("RGB").tobytes()
