"""`client.model3d`: textured 3D models of what an image shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Unpack

from stable_async.api.model3d import StableFast3D, StablePointAware3D
from stable_async.groups.base import Group

if TYPE_CHECKING:
    from stable_async import media
    from stable_async.api.file_input import FileInput
    from stable_async.api.model3d import Remesh, TextureResolution
    from stable_async.transport.options import CallOptions

__all__ = ["Model3D"]


class Model3D(Group):
    """Makes models of what images show."""

    async def fast(
        self,
        image: FileInput,
        *,
        texture_resolution: TextureResolution | None = None,
        foreground_ratio: float | None = None,
        remesh: Remesh | None = None,
        vertex_count: int | None = None,
        **options: Unpack[CallOptions[media.Model3D]],
    ) -> media.Model3D:
        """Make a model at once: 10 credits; see `StableFast3D` for the fields."""
        return await self._send(
            StableFast3D(
                image=image,
                texture_resolution=texture_resolution,
                foreground_ratio=foreground_ratio,
                remesh=remesh,
                vertex_count=vertex_count,
            ),
            **options,
        )

    async def point_aware(
        self,
        image: FileInput,
        *,
        texture_resolution: TextureResolution | None = None,
        foreground_ratio: float | None = None,
        remesh: Remesh | None = None,
        target_type: Literal["none", "vertex", "face"] | None = None,
        target_count: int | None = None,
        guidance_scale: float | None = None,
        seed: int | None = None,
        **options: Unpack[CallOptions[media.Model3D]],
    ) -> media.Model3D:
        """Make a model with better hidden sides: 4 credits; see `StablePointAware3D`."""
        return await self._send(
            StablePointAware3D(
                image=image,
                texture_resolution=texture_resolution,
                foreground_ratio=foreground_ratio,
                remesh=remesh,
                target_type=target_type,
                target_count=target_count,
                guidance_scale=guidance_scale,
                seed=seed,
            ),
            **options,
        )
