"""The next driver delivers the records of drivers that died, in order."""

from collections import Counter

from pipelines.interrupt import StopRequest
from pipelines.terminal import Terminal
from pipelines.tracking.courier import Courier
from pipelines.tracking.delivery import Server
from pipelines.tracking.handover import bring_leftovers
from pipelines.tracking.leftovers import deliver_leftovers
from pipelines.tracking.outbox import outbox_folders
from tests.support.publisher import dies, logged_steps, never


def test_leftovers_of_several_drivers_arrive_in_their_order(store, screen, tmp_path):
    runs = []
    for number in range(2):
        courier = Courier(store, f"recipe-{number}", screen)
        runs.append(courier.open(courier.tracker.open_parent, "f", "recipe", {}, {}))
        for step in range(3):
            courier.outbox.append("points", [runs[0], [{"step": 3 * number + step, "loss": 0.5}]], {})
        dies(courier)
    found = deliver_leftovers(store, never)
    assert Counter(own.delivered for own in found) == {3: 2}
    assert logged_steps(store.uri, runs[0]) == list(range(6))
    assert deliver_leftovers(store, never) == []
    assert outbox_folders(tmp_path) == []


def test_what_waits_for_another_server_is_named_and_left_alone(store, screen, tmp_path, capsys):
    other = Server(tmp_path, "http://me:planted@127.0.0.1:1")
    lost = Courier(other, "recipe", screen)
    lost.outbox.append("tag", ["run", {"a": "b"}], {})
    dies(lost)
    bring_leftovers(store, Terminal(), StopRequest())
    said = capsys.readouterr().out
    assert "beware: 1 records for http://***@127.0.0.1:1 wait; to import them: python -m pipelines" in said
    assert outbox_folders(tmp_path) == [lost.outbox.folder]
