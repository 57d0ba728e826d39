"""What tests of the MLflow courier share."""

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
