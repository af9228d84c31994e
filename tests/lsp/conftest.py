"""Property tests have no deadline here: two busy cores make any time limit a matter of luck."""

from hypothesis import settings

settings.register_profile("diffcoder", deadline=None)
settings.load_profile("diffcoder")
