"""3D models: a valid binary glTF, a tile that carries the uploaded image as its texture."""

from __future__ import annotations

import json
import struct

__all__ = ["glb"]

# glTF 2.0: numbers of its enumerations.
FLOAT, UNSIGNED_SHORT = 5126, 5123
VERTICES, INDICES = 34962, 34963
LINEAR, LINEAR_MIPMAP, CLAMP = 9729, 9987, 33071
MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942


def glb(texture: bytes, texture_type: str, width: int, height: int, name: str) -> bytes:
    """Return a model: a rectangle with the aspect ratio of `width` and `height`, seen from +z.

    Args:
        texture: An image file, JPEG or PNG.
        texture_type: Its media type.
        width: Of the rectangle; the longer side is one metre.
        height: Of the rectangle.
        name: Of the model.
    """
    x, y = width / max(width, height) / 2, height / max(width, height) / 2
    corners = ((-x, -y), (x, -y), (x, y), (-x, y))
    positions = b"".join(struct.pack("<3f", *corner, 0) for corner in corners)
    normals = struct.pack("<3f", 0, 0, 1) * 4
    # Textures have their origin at the upper left.
    places = struct.pack("<8f", 0, 1, 1, 1, 1, 0, 0, 0)
    indices = struct.pack("<6H", 0, 1, 2, 0, 2, 3)
    targets = (VERTICES, VERTICES, VERTICES, INDICES, None)
    views, binary = [], b""
    for part, target in zip((positions, normals, places, indices, texture), targets, strict=True):
        view = {"buffer": 0, "byteOffset": len(binary), "byteLength": len(part)}
        views.append(view if target is None else {**view, "target": target})
        binary += part + b"\0" * (-len(part) % 4)
    primitive = {
        "attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2},
        "indices": 3,
        "material": 0,
    }
    surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0, "roughnessFactor": 1}
    bounds = {"min": _floats(-x, -y, 0), "max": _floats(x, y, 0)}
    document = {
        "asset": {"version": "2.0", "generator": "stable_async sandbox"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name[:200]}],
        "meshes": [{"primitives": [primitive]}],
        "materials": [{"doubleSided": True, "pbrMetallicRoughness": surface}],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [
            {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP, "wrapS": CLAMP, "wrapT": CLAMP}
        ],
        "images": [{"bufferView": 4, "mimeType": texture_type}],
        "accessors": [
            {"bufferView": 0, "componentType": FLOAT, "count": 4, "type": "VEC3", **bounds},
            {"bufferView": 1, "componentType": FLOAT, "count": 4, "type": "VEC3"},
            {"bufferView": 2, "componentType": FLOAT, "count": 4, "type": "VEC2"},
            {"bufferView": 3, "componentType": UNSIGNED_SHORT, "count": 6, "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body = _chunk(JSON_CHUNK, text) + _chunk(BINARY_CHUNK, binary)
    return struct.pack("<3I", MAGIC, 2, 12 + len(body)) + body


def _floats(*values: float) -> list[float]:
    """Return the numbers as they are once stored in 32 bits: bounds must match exactly."""
    return list(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values)))


def _chunk(kind: int, data: bytes) -> bytes:
    return struct.pack("<2I", len(data), kind) + data
