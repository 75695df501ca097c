"""Property tests draw the same examples each time and may be slow on a busy machine."""

from hypothesis import settings

settings.register_profile("evaluation", deadline=None, derandomize=True)
settings.load_profile("evaluation")
