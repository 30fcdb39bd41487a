"""Images made from uploaded images: what upscaling, editing and control return."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, cast

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from stable_async.sandbox.render import images

if TYPE_CHECKING:
    from stable_async.sandbox.forms import Upload
    from stable_async.sandbox.render.images import ImageSpec
    from stable_async.sandbox.spec.facts import Operation
    from stable_async.sandbox.spec.fields import Parameters

__all__ = ["UnreadableError", "edit", "load"]

BACKGROUND_TOLERANCE = 40


class UnreadableError(Exception):
    """An uploaded image has a valid header but cannot be decoded. The message is the field's
    name.
    """


def edit(operation: Operation, parameters: Parameters, spec: ImageSpec) -> Image.Image:
    """Return the output of `operation` for the uploaded images, in the size of `spec`.

    Raises:
        UnreadableError: An image cannot be decoded.
    """
    image = load(parameters, next(iter(parameters.images)))
    size = (spec.width, spec.height)
    match operation.id:
        case "upscale_fast":
            return image.resize(size, Image.Resampling.BICUBIC)
        case "edit_remove_background":
            return _cut_out(image)
        case "edit_erase":
            smooth = image.filter(ImageFilter.BoxBlur(max(image.size) // 40))
            return Image.composite(smooth, image, _mask(parameters, image))
        case "edit_inpaint" | "v2alpha_inpaint" | "v1_image_to_image_masking":
            mask = _mask(parameters, image)
            return Image.composite(images.scene(spec), image.convert("RGB"), mask)
        case "edit_search_and_replace":
            return Image.composite(images.scene(spec), image.convert("RGB"), _spot(size))
        case "edit_search_and_recolor":
            return _recolour(image, spec)
        case "edit_outpaint":
            canvas = images.scene(spec)
            canvas.paste(image, (int(parameters.number("left")), int(parameters.number("up"))))
            return canvas
        case "edit_replace_background_and_relight":
            cut = _cut_out(image)
            canvas = images.scene(spec)
            canvas.paste(cut, mask=cut.getchannel("A"))
            return canvas
    result = _blend(operation, parameters, spec, image)
    images.caption(result, spec.prompt, spec.note)
    return result


def load(parameters: Parameters, name: str) -> Image.Image:
    """Return an uploaded image, as RGB or, where it has any transparency, as RGBA.

    Raises:
        UnreadableError: It cannot be decoded.
    """
    upload = cast("Upload", parameters.upload(name))
    upload.file.seek(0)
    try:
        image = Image.open(upload.file, formats=("JPEG", "PNG", "WEBP"))
        transparent = "A" in image.getbands() or "transparency" in image.info
        return image.convert("RGBA" if transparent else "RGB")
    # Whatever Pillow raises for broken data, the image cannot be read.
    except Exception as error:
        raise UnreadableError(name) from error


def _blend(
    operation: Operation, parameters: Parameters, spec: ImageSpec, image: Image.Image
) -> Image.Image:
    """Return a blend of the input and a new scene, in the proportion that the parameters ask
    for.
    """
    fitted = ImageOps.fit(image.convert("RGB"), (spec.width, spec.height))
    match operation.id:
        case "upscale_conservative" | "upscale_creative" | "v2alpha_upscale":
            share = parameters.number("creativity") / 5
        case "control_sketch" | "control_structure":
            share = 1 - parameters.number("control_strength") / 2
        case "control_style":
            share = 1 - parameters.number("fidelity") / 2
        case "control_style_transfer":
            share = parameters.number("style_strength") / 2
        case "v1_image_to_image":
            share = _v1_share(parameters)
        case "v1_image_to_image_upscale":
            share = 0.0
        case _:
            share = parameters.number("strength")
    return Image.blend(fitted, images.scene(spec), share) if share else fitted


def _v1_share(parameters: Parameters) -> float:
    """Return the share of the new scene: the schedule's start is one minus the image's strength."""
    if parameters.text("init_image_mode") == "STEP_SCHEDULE":
        return parameters.number("step_schedule_start")
    return 1 - parameters.number("image_strength")


def _mask(parameters: Parameters, image: Image.Image) -> Image.Image:
    """Return the area to change, in white: the mask, or where the image is transparent."""
    name = next((name for name in ("mask", "mask_image") if name in parameters.images), None)
    source = parameters.text("mask_source")
    if name is not None and source != "INIT_IMAGE_ALPHA":
        mask = load(parameters, name).convert("L").resize(image.size)
        return ImageOps.invert(mask) if source == "MASK_IMAGE_BLACK" else mask
    if image.mode == "RGBA":
        return ImageOps.invert(image.getchannel("A"))
    return _spot(image.size)


def _spot(size: tuple[int, int]) -> Image.Image:
    """Return a mask of the middle of an image."""
    mask = Image.new("L", size, 0)
    width, height = size
    box = (width * 0.28, height * 0.28, width * 0.72, height * 0.72)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask


def _cut_out(image: Image.Image) -> Image.Image:
    """Return the image with a transparent background: the area that is similar to its corner."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema()[0] == 0:
        return image
    plain = image.convert("RGB")
    corner = Image.new("RGB", plain.size, plain.getpixel((0, 0)))
    difference = ImageChops.difference(plain, corner).convert("L")
    mask = difference.point(lambda value: 255 if value > BACKGROUND_TOLERANCE else 0)
    # If nothing or everything would remain, the middle is taken as the subject.
    share = mask.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    if not 8 <= cast("int", share) <= 247:
        mask = _spot(plain.size)
    plain.putalpha(mask)
    return plain


def _recolour(image: Image.Image, spec: ImageSpec) -> Image.Image:
    """Return the image with its middle in a colour derived from the prompt."""
    hue = hashlib.sha256(spec.identity.encode()).digest()[0]
    tint = Image.new("HSV", (1, 1), (hue, 190, 230)).convert("RGB").getpixel((0, 0))
    toned = ImageOps.colorize(
        image.convert("L"), (0, 0, 0), (255, 255, 255), cast("tuple[int, ...]", tint)
    )
    return Image.composite(toned, image.convert("RGB"), _spot(image.size))
