"""Renders the object meshes that pybullet ships from random views, as cut-outs with exact masks.

pybullet is imported here alone, and only to render: a finished set needs none of it.
"""

import colorsys
import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from igam_d2.errors import InputError

__all__ = ["Cutout", "Mesh", "Renderer", "load_mesh"]

Cutout = tuple[np.ndarray, np.ndarray]  # RGB and opacity, of Renderer.cutout

GREY = (0.7, 0.7, 0.7)  # of all meshes where shapes alone are compared
_FINER = 3  # a cut-out is rendered so many times larger, and averaged
_BACKGROUND = -1  # of pybullet's segmentation


@dataclass(frozen=True, eq=False)
class Mesh:
    """A mesh centred at the origin, in a sphere of radius 1.

    Attributes:
        path: of its OBJ file.
        scale, offset: what brings its vertices there: `vertex * scale + offset`.
        vertices: (V, 3), there.
        colour: RGB in 0-1, of its URDF.
    """

    path: str
    scale: float
    offset: np.ndarray
    vertices: np.ndarray
    colour: tuple[float, float, float]


def load_mesh(number: int) -> Mesh:
    """Mesh `number`, 0 to 999, of pybullet's random_urdfs.

    Raises:
        InputError: pybullet is missing.
    """
    folder = Path(_pybullet()[1].getDataPath()) / "random_urdfs" / f"{number:03d}"
    path = folder / f"{number:03d}.obj"
    lines = (line.split()[1:4] for line in path.read_text().splitlines() if line[:2] == "v ")
    vertices = np.array(list(lines), dtype=np.float64)
    centre = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    scale = 1 / np.linalg.norm(vertices - centre, axis=1).max()
    rgba = re.search(r'<color rgba="([^"]+)"', path.with_suffix(".urdf").read_text())[1]
    colour = tuple(float(value) for value in rgba.split()[:3])
    return Mesh(str(path), scale, -centre * scale, (vertices - centre) * scale, colour)


class Renderer:
    """Draws cut-outs of meshes; what it draws depends on the generator given alone."""

    def __init__(self):
        self._bullet = _pybullet()[0]
        self._client = self._bullet.connect(self._bullet.DIRECT)
        self._num_added = 0

    def close(self) -> None:
        self._bullet.disconnect(self._client)

    def cutout(self, rng: np.random.Generator, mesh: Mesh, size: float) -> Cutout:
        """A cut-out seen from anywhere, under light from anywhere before it.

        Args:
            size: pixels of its longer side.

        Returns:
            float32 RGB (h, w, 3) in 0-255, multiplied by its opacity (h, w) in 0-1.
        """
        rotation = _rotation(rng)
        light = _unit(rng)
        light[2] = abs(light[2])  # not from behind the mesh
        hue, saturation, value = colorsys.rgb_to_hsv(*mesh.colour)
        hue = (hue + rng.uniform(-0.02, 0.02)) % 1
        saturation = min(saturation * rng.uniform(0.85, 1.1), 1)
        # Black ones would show no shape: 0-1 becomes 0.25-1
        value = min((0.25 + 0.75 * value) * rng.uniform(0.85, 1.15), 1)
        return self._draw(
            mesh,
            rotation,
            size,
            distance=float(rng.uniform(2.5, 5)),
            light=light,
            ambient=float(rng.uniform(0.45, 0.65)),
            diffuse=float(rng.uniform(0.4, 0.7)),
            specular=float(rng.uniform(0, 0.3)),
            colour=colorsys.hsv_to_rgb(hue, saturation, value),
        )

    def plain_view(self, rng: np.random.Generator, mesh: Mesh, size: float) -> Cutout:
        """As :meth:`cutout`, but all meshes in one grey, under one light and at one distance."""
        return self._draw(
            mesh,
            _rotation(rng),
            size,
            distance=4.0,
            light=np.array([0.4, 0.6, 0.7]),
            ambient=0.4,
            diffuse=0.6,
            specular=0.0,
            colour=GREY,
        )

    def _draw(
        self,
        mesh: Mesh,
        rotation: np.ndarray,
        size: float,
        *,
        distance: float,
        light: np.ndarray,
        ambient: float,
        diffuse: float,
        specular: float,
        colour: tuple[float, float, float],
    ) -> Cutout:
        """One view; the camera looks along -z of the rotated mesh, `distance` radii away."""
        bullet, client = self._bullet, self._client
        # The picture is the mesh's extent, and a pixel around it
        seen = mesh.vertices @ rotation.T
        tangents = seen[:, :2] / (distance - seen[:, 2:])
        low, high = tangents.min(axis=0), tangents.max(axis=0)
        pixel = (high - low).max() / size
        width, height = (int(n) + 2 for n in np.ceil((high - low) / pixel))
        half = np.array([width, height]) * pixel / 2
        middle = (low + high) / 2
        (left, bottom), (right, top) = middle - half, middle + half
        near, far = distance - 1.2, distance + 1.2
        view = np.eye(4)
        view[:3, :3], view[2, 3] = rotation, -distance

        body = self._add(mesh, colour)
        _, _, rgb, _, owner = bullet.getCameraImage(
            width * _FINER,
            height * _FINER,
            view.T.ravel().tolist(),
            bullet.computeProjectionMatrix(
                *(float(edge * near) for edge in (left, right, bottom, top)), near, far
            ),
            lightDirection=(rotation.T @ light).tolist(),
            lightAmbientCoeff=ambient,
            lightDiffuseCoeff=diffuse,
            lightSpecularCoeff=specular,
            shadow=0,
            renderer=bullet.ER_TINY_RENDERER,
            physicsClientId=client,
        )
        bullet.removeBody(body, physicsClientId=client)
        inside = np.reshape(owner, (height * _FINER, width * _FINER, 1)) != _BACKGROUND
        rgb = np.reshape(rgb, (*inside.shape[:2], 4))[..., :3] * inside.astype(np.float32)
        finer = np.concatenate([rgb, inside], axis=2, dtype=np.float32)
        averaged = finer.reshape(height, _FINER, width, _FINER, 4).mean(axis=(1, 3))
        return averaged[..., :3], averaged[..., 3]

    def _add(self, mesh: Mesh, colour: tuple[float, float, float]) -> int:
        """The mesh's number in the scene."""
        bullet, client = self._bullet, self._client
        self._num_added += 1
        if self._num_added % 500 == 0:  # shapes of removed bodies stay in memory
            bullet.resetSimulation(physicsClientId=client)
        shape = bullet.createVisualShape(
            bullet.GEOM_MESH,
            fileName=mesh.path,
            meshScale=[mesh.scale] * 3,
            visualFramePosition=mesh.offset.tolist(),
            rgbaColor=[*colour, 1],
            physicsClientId=client,
        )
        return bullet.createMultiBody(0, -1, shape, physicsClientId=client)


def _unit(rng: np.random.Generator) -> np.ndarray:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def _rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation (3, 3), all being equally likely."""
    q = rng.normal(size=4)
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _pybullet():
    """The modules pybullet and pybullet_data."""
    try:
        with _silent():
            import pybullet
            import pybullet_data
    except ImportError as error:
        raise InputError(
            "Meshes-LT is rendered with pybullet, which `pip install igam_d2[bench]` installs "
            "where it has a wheel, on Python 3.11 on Linux x86-64; elsewhere, unpack a set that "
            "was packed there."
        ) from error
    return pybullet, pybullet_data


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what C code prints: pybullet tells when it was built."""
    kept = [os.dup(stream) for stream in (1, 2)]
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            os.dup2(null, stream)
        yield
    finally:
        for stream, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, stream)
        for descriptor in (null, *kept):
            os.close(descriptor)
