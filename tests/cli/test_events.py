from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from app.client.events import Event, read_events

STREAM = (
    ": a comment\n\n"
    'id: 7\nevent: revision\ndata: {"name": "a\u2028b\x85c"}\n\n'
    "event: empty\n\n"
    "id: 8\r\ndata: first\r\ndata:second\r\n\r\n"
    "data: cut off"
).encode()
EVENTS = [Event("revision", '{"name": "a\u2028b\x85c"}', "7"), Event("message", "first\nsecond", "8")]


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_do_not_depend_on_where_the_network_splits_them(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in pairwise(places)]
    assert list(read_events(chunks)) == EVENTS
