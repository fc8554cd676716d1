"""A time budget while training: at fixed points the number of steps is corrected by the pace so far, and stored."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

from mec.runtime.distributed import Ranks
from mec.runtime.files import SETTINGS, write_json
from mec.training.run import Correction, Run

POINTS = tuple(sixteenth / 16 for sixteenth in range(1, 16))  # of the planned steps
SLOWER = 0.97  # of the steps that were left to do: fewer that fit are a correction
SPARE = 0.97  # of the time that is left: for the last checkpoint


class Pace:
    """The steps of a run, as planned and as corrected; without a budget they are those planned.
    What was found at a point stands in settings.json before the next step: a resumed run repeats it and measures
    nothing anew, so that it ends with the weights it would have had anyway."""

    def __init__(self, run: Run, start: int, ranks: Ranks, say: Callable[[str], None]):
        self.run, self.ranks, self.say = run, ranks, say
        self.planned, self.minutes = run.settings.steps, run.settings.minutes
        self.known = list(run.settings.corrections)
        self.points = {max(1, round(share * self.planned)) for share in POINTS} - {self.planned}
        earlier = [found for found in self.known if found.step <= start]
        self.last = (start, earlier[-1].seconds if earlier else 0.0)  # steps done, and seconds that they took
        self.began = time.monotonic() - self.last[1]

    def steps(self, done: int) -> int:
        """How many steps the run has, as was known after `done` of them."""
        return next((found.steps for found in reversed(self.known) if found.step <= done), self.planned)

    def position(self, step: int) -> float:
        """Where a step stands among those planned: schedules run on to their end, faster after a correction."""
        at, position, slope, total = 0, 0.0, 1.0, self.planned
        for found in self.known:
            if found.step > step:
                break
            if found.steps != total:
                position, at, total = position + slope * (found.step - at), found.step, found.steps
                slope = (self.planned - position) / (total - at)
        return step if total == self.planned else position + slope * (step - at)

    def after(self, done: int) -> int:
        """How many steps the run has after `done` of them: corrected here where this is a point, once."""
        total = self.steps(done)
        if self.minutes is None or done not in self.points or done >= total or any(f.step == done for f in self.known):
            return total
        seconds = time.monotonic() - self.began
        each = (seconds - self.last[1]) / max(1, done - self.last[0])
        self.last = done, seconds
        left = 60 * self.minutes - seconds
        fit = done + max(1, int(SPARE * left / max(each, 1e-9)))
        new = int(self.ranks.from_first(fit if fit - done < SLOWER * (total - done) else total))
        self.known.append(Correction(done, new, seconds))
        if self.ranks.rank == 0:
            write_json(self.run.folder / SETTINGS, asdict(replace(self.run.settings, corrections=tuple(self.known))))
        if new < total:
            late = "" if left > 0 else " The time is over."
            self.say(
                f"step {done:,}: {each:.3g} s a step, slower than planned: {new:,} steps in place of {total:,} fit "
                f"{self.minutes:g} minutes.{late}"
            )
        return new
