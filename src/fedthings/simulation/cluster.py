"""Workers on the machines of a Ray cluster (extra `ray`)."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any

import threadpoolctl

from fedthings.errors import SpecError
from fedthings.learn.fleet import Fleet
from fedthings.simulation.pool import Job, Several, answer
from fedthings.simulation.worker import Worker


class Cluster(Several):
    """A worker for each processor of the cluster that `ray.init` finds: `$RAY_ADDRESS`, or this machine alone.

    The fleet is sent once to each machine, where all workers read the same copy. Raises SpecError.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.ray = _ray()
        self._ours = not self.ray.is_initialized()
        if self._ours:
            self._join()
        try:
            content = self.ray.put(fleet)
        except (TypeError, AttributeError, self.ray.exceptions.RayError) as error:
            raise SpecError(
                f"the fleet cannot be sent to other machines ({error}): make it of arrays, or of a function in a module"
            ) from None
        actor = self.ray.remote(num_cpus=1, runtime_env={"env_vars": {"OPENBLAS_NUM_THREADS": "1"}})(Remote)
        self._models: dict[int, tuple[Any, Any]] = {}  # of the jobs at hand: the model, and where the cluster has it
        super().__init__(self._processors(), lambda: Call(self, actor.remote(content)), self._done)

    def _join(self) -> None:
        address = os.environ.get("RAY_ADDRESS")
        alone = {} if address else {"include_dashboard": False}
        try:
            self.ray.init(address=address, log_to_driver=False, configure_logging=False, **alone)
        except (ConnectionError, ValueError, self.ray.exceptions.RayError) as error:
            raise SpecError(
                f"Ray cannot be reached at {address or 'this machine'} ({error}): start it with `ray start --head`, "
                "and name it in RAY_ADDRESS"
            ) from None

    def _processors(self) -> int:
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def train(self, jobs: Sequence[Job]) -> list[Any]:
        """Do `jobs`, each by the next worker that is free; a model goes to each machine once."""
        self._models.clear()
        return super().train(jobs)

    def model(self, model: Any) -> Any:
        """Return where the cluster has `model`."""
        if id(model) not in self._models:
            self._models[id(model)] = model, self.ray.put(model)
        return self._models[id(model)][1]

    def _done(self, links: Sequence[Any]) -> Collection[Any]:
        """Return the links whose answers are here, once there is one."""
        ready, _ = self.ray.wait([link.answer for link in links], num_returns=1)
        more, _ = self.ray.wait([link.answer for link in links], num_returns=len(links), timeout=0)
        here = {*ready, *more}
        return [link for link in links if link.answer in here]

    def close(self) -> None:
        """End the workers, and leave the cluster where it was joined for this run."""
        super().close()
        if self._ours:
            self.ray.shutdown()


class Remote:
    """A worker in a process of the cluster."""

    def __init__(self, fleet: Fleet) -> None:
        threadpoolctl.threadpool_limits(1)
        self.worker = Worker(fleet)

    def pid(self) -> int:
        """Return the process's id."""
        return os.getpid()

    def answer(self, name: str, *content: Any) -> Any:
        """Do what a message asks for; of a job the models come last, each from where the cluster has it."""
        if name == "train":
            rest, part, states, *models = content
            content = (Job([(model, *more) for model, more in zip(models, rest, strict=True)], part, states),)
        return answer(self.worker, (name, *content))


class Call:
    """The calls of one remote worker."""

    def __init__(self, cluster: Cluster, actor: Any) -> None:
        self.cluster, self.actor = cluster, actor
        self.answer: Any = None

    def send(self, message: tuple[Any, ...]) -> None:
        """Call the worker."""
        name, *content = message
        if name == "train":
            job = content[0]
            models = [self.cluster.model(model) for model, _, _ in job.models]
            rest = [more for _, *more in job.models]
            self.answer = self.actor.answer.remote(name, rest, job.part, job.states, *models)
        else:
            self.answer = self.actor.answer.remote(name, *content)

    def receive(self) -> Any:
        """Return the answer to the last call. Raises EOFError where the worker has died."""
        try:
            return self.cluster.ray.get(self.answer)
        except self.cluster.ray.exceptions.RayTaskError:
            raise
        except self.cluster.ray.exceptions.RayError as error:
            raise EOFError(str(error)) from None

    def close(self) -> None:
        """End the worker."""
        self.cluster.ray.kill(self.actor)


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise SpecError('workers is "ray", and Ray is not installed: pip install "fedthings[ray]"') from None
    return ray
