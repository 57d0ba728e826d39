"""Names of runs that were given before the server knew them."""

import pytest

from pipelines.tracking.run_names import RunNames, outbox_of
from tests.support.publisher import HERE, THERE, deliver


def test_runs_are_known_by_every_name_that_they_have_had(outbox):
    name = outbox.append("open_parent", [], {}, opens_run=True).name
    root = outbox.folder.parent
    assert outbox_of(name) == outbox.folder.name
    assert outbox_of("0123456789abcdef") is None
    assert RunNames(root, HERE).real(name) == name
    deliver(outbox, 1)
    assert RunNames(root, HERE).real(name) == "http://here/0"
    outbox.turn_to(THERE)
    deliver(outbox, 1)
    there = RunNames(root, THERE)
    assert there.real(name) == there.real("http://here/0") == "http://there/0"
    assert there.real("another") == "another"


@pytest.mark.parametrize("heard", [True, False])
def test_names_outlive_their_outbox_where_somebody_has_heard_them(outbox, heard):
    name = outbox.append("open_parent", [], {}, opens_run=True).name
    deliver(outbox, 1)
    outbox.close(named={name} if heard else ())
    assert not outbox.folder.exists()
    assert RunNames(outbox.folder.parent, HERE).knows(name) == heard
