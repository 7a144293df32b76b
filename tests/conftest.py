"""What holds for all tests."""

from hypothesis import settings

# A slow machine is not a fault of what is tested.
settings.register_profile("parplan", deadline=None)
settings.load_profile("parplan")
