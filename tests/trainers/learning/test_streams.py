"""Streams of random numbers keep their numbers: with others, the clips of a seed would be others."""

import torch

from trainers.learning.streams import Stream, clip_generators


def test_every_stream_has_the_number_that_it_always_had():
    numbers = {
        "NOISE": 0,
        "CHOICES": 1,
        "DATA_NOISE": 2,
        "REFERENCE_NOISE": 3,
        "PHYSICS_NOISE": 4,
        "PROMPT": 5,
        "HELD_OUT": 7,
        "COMMITMENT": 11,
        "COMPLETIONS": 12,
    }
    assert {name: int(stream) for name, stream in Stream.__members__.items()} == numbers


def test_no_two_streams_are_equal_and_the_completions_have_the_numbers_from_theirs_on():
    """Two names of one number would be aliases, which `__members__` lists and iteration does not."""
    assert len(list(Stream)) == len(Stream.__members__)
    assert max(Stream) == Stream.COMPLETIONS


def test_a_stream_draws_as_its_number_and_no_two_draw_alike():
    draws = [torch.rand(3, generator=clip_generators(5, [8], stream)[0]).tolist() for stream in Stream]
    assert draws == [torch.rand(3, generator=clip_generators(5, [8], int(stream))[0]).tolist() for stream in Stream]
    assert len({tuple(draw) for draw in draws}) == len(Stream)
    assert draws[0] == [0.5967550277709961, 0.7335370182991028, 0.8711308836936951]
    assert draws[5] == [0.9855627417564392, 0.24172985553741455, 0.3217698931694031]  # of a prompt
