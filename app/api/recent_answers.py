"""What was answered about each job last, as text, so that many who poll one job cost little more than one."""

from collections import OrderedDict


class RecentAnswers:
    """The last answer about each job: polls between two changes of a job get the same one."""

    _MOST = 1024
    _LONGEST = 1 << 14
    """Characters. Long answers, such as a data set of a thousand classes, would fill the memory."""

    def __init__(self) -> None:
        """Know none."""
        self._answers: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def find(self, job_id: str, revision: int) -> str | None:
        """Return the answer about a job at this revision, if it was given lately."""
        known, body = self._answers.get(job_id, (None, None))
        return body if known == revision else None

    def remember(self, job_id: str, revision: int, body: str) -> None:
        """Keep an answer in place of the job's earlier one."""
        if len(body) > self._LONGEST:
            return
        self._answers[job_id] = (revision, body)
        self._answers.move_to_end(job_id)
        while len(self._answers) > self._MOST:
            self._answers.popitem(last=False)
