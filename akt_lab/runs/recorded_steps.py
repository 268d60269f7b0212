"""A training's steps: drawn ahead, recorded on a GPU, their numbers fetched together.

A GPU does a small student's step faster than Python asks for it. So there the step, both optimisers
included, is recorded as a CUDA graph once it has run a few times as it is written, and replayed
from then on: a replay reads and writes weights, averages, rates and lambda where they lie. On a
processor each step is done as it is written.
"""

import sys
from collections import deque
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from akt_lab.errors import one_line
from akt_lab.generator import Generator
from akt_lab.speed import one_order, tf32
from akt_lab.step import Training, train_step

AS_WRITTEN = 3  # steps before it is recorded: they compile, find lambda, make the averages' room
AHEAD = {"cpu": 0, "cuda": 2**26}  # bytes of noise or images drawn at once; one step's at least

Step = Callable[[], Tensor]


def as_cuda_graph(step: Step) -> Step:
    """Record `step`, which computes nothing now; what is returned does it, where it is called.

    In the current stream, if it is one of the run's own: graphs recorded in one stream share
    cuBLAS's scratch memory, and must not run at the same time.
    """
    graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    own = torch.cuda.Stream() if here == torch.cuda.default_stream() else here
    with torch.cuda.stream(here), torch.cuda.graph(graph, stream=own):
        result = step()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


RECORDERS: dict[str, Callable[[Step], Step]] = {"cuda": as_cuda_graph}


class RecordedSteps:
    """The steps of a training's warm-up, or those after it: what is recorded changes in between.

    Attributes:
        waiting: inputs of the next steps; empty when it is time to `fetch`, and to `draw`.
        warming_up: of which of the two.
        recorded: the step without Python, on a GPU, once it was recorded.
    """

    def __init__(self, training: Training) -> None:
        """Nothing is drawn yet."""
        self.training, self.warming_up = training, training.warming_up
        self.waiting: deque[tuple[Tensor, Tensor]] = deque()
        self.recorded: Step | None = None
        self._device = next(training.teacher.parameters()).device
        self._record = RECORDERS.get(self._device.type)
        self._names: list[str] = []
        self._results: list[Tensor] = []  # of each step since `fetch`, (terms,)
        self._done = 0
        if self._record:
            for optimizer in (training.generator_optimizer, training.student_optimizer):
                if optimizer:
                    _make_recordable(optimizer, self._device)

    def draw(self, left: int) -> None:
        """Draw the inputs of the next steps of an epoch that has so many left."""
        training = self.training
        source, settings = training.generator, training.settings
        generates = isinstance(source, Generator)
        draw = partial(source.noise if generates else source.draw, settings.batch_size)  # type: ignore
        drawn = [draw(training.rng)]
        at_once = AHEAD[self._device.type] // drawn[0][0].nbytes
        drawn += [draw(training.rng) for _ in range(1, min(left, at_once))]
        if generates:  # to the device in one piece
            z, y = (torch.stack(part).to(self._device) for part in zip(*drawn, strict=True))
            drawn = list(zip(z, y, strict=True))
        self.waiting.extend(drawn)

    def do(self) -> None:
        """One step."""
        z, y = self.waiting.popleft()
        if self._record and self._done == AS_WRITTEN:
            self._try_to_record(self._record, z, y)
        self._done += 1
        if self.recorded:
            self._z.copy_(z)
            self._y.copy_(y)
            self._results.append(self.recorded().clone())
        else:
            self._results.append(self._as_written(z, y))

    def fetch(self) -> list[dict[str, float]]:
        """The numbers of each step done since the last time, with one wait for the device."""
        rows = torch.stack(self._results).tolist()
        self._results.clear()
        return [dict(zip(self._names, row, strict=True)) for row in rows]

    def _as_written(self, z: Tensor, y: Tensor) -> Tensor:
        settings = self.training.settings
        with tf32(settings.precision == "tf32"), one_order(settings.deterministic):
            terms = train_step(self.training, z, y)
        self._names = list(terms)
        return torch.stack([*terms.values()]) if terms else z.new_empty(0)  # a pool's warm-up

    def _try_to_record(self, record: Callable[[Step], Step], z: Tensor, y: Tensor) -> None:
        """A network that asks the device for a number in the middle of a step cannot be."""
        self._z, self._y = torch.empty_like(z), torch.empty_like(y)
        try:  # the step may ask for a gradient at its input: not at what is copied into
            self.recorded = record(lambda: self._as_written(self._z.detach(), self._y))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            why = str(error.__context__ or error).partition("\n")[0]
            line = (
                f"steps are done one by one, and slowly: no CUDA graph can be made of them ({why})"
            )
            tqdm.write(one_line(line), file=sys.stderr)


def _make_recordable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Its rates become tensors, which a replay reads anew; Adam then counts on the device."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
        if "capturable" in group:
            group["capturable"] = True
