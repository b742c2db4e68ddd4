"""A video and everything measured on it."""

from reward_physics.observation.instruments import Instruments
from reward_physics.observation.observation import Observation

__all__ = ["Instruments", "Observation"]
