"""`scenes`: drawn pictures in which every failure of a class activation map can be dialled in.

An object is a body, whose look a pair of classes shares, with a small part that only its own class
has; companions, grounds, class frequencies and edges have knobs of their own (`SceneSettings`).
Masks are exact, and hidden layers say what each pixel is. Nothing here is shown to a trainer.
"""

from wsssbench.data.scenes.draw import Scene, draw_scene
from wsssbench.data.scenes.prepare import HIDDEN, prepare, read_hidden
from wsssbench.data.scenes.settings import SceneSettings

__all__ = ["HIDDEN", "Scene", "SceneSettings", "draw_scene", "prepare", "read_hidden"]
