"""What tests of the MLflow courier share."""

from mlflow import MlflowClient

from pipelines.tracking.courier import Courier
from pipelines.tracking.outbox import Outbox

HERE, THERE = "http://here", "http://there"


class Screen:
    """Records the messages of a courier, except the counts of undelivered records."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str, style: str | None = None) -> None:
        if "still to be delivered" not in text:
            self.lines.append(text)


def never() -> bool:
    return False


def begin(courier: Courier) -> str:
    """Opens a pipeline's run and starts delivering."""
    run = courier.open(courier.tracker.open_parent, "fingerprint", "recipe", {"seed": "1"}, {})
    courier.start()
    return run


def send_points(courier: Courier, run: str, steps: range) -> None:
    for step in steps:
        courier.send(courier.tracker.points, run, [{"step": step, "loss": 1 / (step + 1)}])


def logged_steps(uri: str, run: str, key: str = "loss") -> list[int]:
    return [point.step for point in MlflowClient(uri).get_metric_history(run, key)]


def dies(courier: Courier) -> None:
    """Closes a courier as if its process had been killed before it delivered anything."""
    courier._started = True
    courier.close()


def deliver(box: Outbox, num: int) -> list[str]:
    """Marks the next records as delivered; runs get the store's name and the record's number as their ids."""
    calls = []
    for _ in range(num):
        record = box.next()
        calls.append(record.call)
        box.mark(record, f"{box.server}/{record.number}")
    return calls
