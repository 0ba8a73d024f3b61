"""Strategies: how reports become the next model, as data.

A preset is a function that returns a `Strategy`. A method is a file in `methods/`; here are its name in the union
`Methods` and its preset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

from msgspec import Struct

from fedthings.aggregate.step import (
    Adagrad,
    Adam,
    Constant,
    Hinge,
    Mean,
    Mixing,
    Momentum,
    Polynomial,
    Row,
    Schedule,
    Sgd,
    State,
    Step,
    Yogi,
    apply,
    init,
)
from fedthings.errors import SpecError
from fedthings.learn.task import within
from fedthings.methods.clustered import Clustered
from fedthings.methods.ditto import Ditto
from fedthings.methods.dyn import Dyn
from fedthings.methods.fair import Fair
from fedthings.methods.gradient import Gradient
from fedthings.methods.method import Average
from fedthings.methods.nova import Nova
from fedthings.methods.scaffold import Scaffold
from fedthings.methods.tuned import Tuned
from fedthings.statistics.kmeans import KMeans
from fedthings.statistics.naive_bayes import NaiveBayes
from fedthings.statistics.nearest_mean import NearestMean
from fedthings.statistics.newton import Logistic
from fedthings.statistics.pca import Pca
from fedthings.statistics.ridge import Ridge
from fedthings.statistics.specs import StatisticSpec
from fedthings.statistics.trees import Boosting
from fedthings.vector import Payload

Methods: TypeAlias = Average | Gradient | Nova | Scaffold | Dyn | Fair | Ditto | Tuned | Clustered


class Strategy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`weight` of a report in the mean, proximal `mu` on the device, whether `partial` work counts, `step`.

    `staleness` is what the delta of a late report counts for, by how many versions it lags. `method` is what devices
    do and report beside averaging. With a `statistic` devices report sums instead, and it makes the next model of them.
    """

    weight: Literal["samples", "equal"] = "samples"
    mu: float = 0.0
    partial: bool = False
    step: Step = Sgd()
    staleness: Constant | Polynomial | Hinge = Constant()
    method: Methods = Average()
    statistic: StatisticSpec | None = None

    def __post_init__(self) -> None:
        within("strategy.mu", self.mu, 0, 1e6)
        if self.method.plain and self.step != Sgd():
            raise SpecError(
                f"strategy.step is set beside strategy.method {self.method.name}, whose models move by the mean of "
                "those who chose them: leave it out"
            )
        if isinstance(self.staleness, Constant):
            return
        if self.weight != "equal":
            raise SpecError(
                'strategy.weight is "samples" beside strategy.staleness: a sum has room for one of them, so set '
                'strategy.weight to "equal"'
            )
        if isinstance(self.step, Mixing):
            raise SpecError(
                "strategy.staleness is set beside mixing, which has a schedule of its own: put it into "
                "strategy.step.schedule"
            )

    def begun(self, row: Row, fresh: Callable[[int], Row]) -> State:
        """Return the server's state before the first version of a model like `row` `(dim,)`; see `Method.state`."""
        return {**init(self.step, row), **self.method.state(row, fresh)}

    def stepped(
        self, row: Row, total: Payload, weights: Mapping[int, int], bases: Mapping[int, Row], state: State, version: int
    ) -> Row:
        """Return the row of `version`, from `row` and what the reports come to; see `Mean`. `state` is changed."""
        delta = self.method.delta(total, sum(weights.values()), state)
        return apply(self.step, row, Mean(delta, weights, bases), state, version)


def fedavg(weight: Literal["samples", "equal"] = "samples", step: Step | None = None) -> Strategy:
    """Federated averaging (McMahan et al. 2017, Alg. 1); `step` is the server optimiser."""
    return Strategy(weight=weight, step=step or Sgd())


def fedprox(mu: float = 0.01, weight: Literal["samples", "equal"] = "samples") -> Strategy:
    """FedProx (Li et al. 2020, Alg. 2): a proximal term on the device, and partial work is accepted."""
    return Strategy(weight=weight, mu=mu, partial=True)


def fedavgm(lr: float = 1.0, momentum: float = 0.9) -> Strategy:
    """FedAvg with server momentum (Hsu et al. 2019, section 4.2)."""
    return Strategy(step=Momentum(lr=lr, momentum=momentum))


def fedadam(lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> Strategy:
    """FedAdam (Reddi et al. 2021, Alg. 2)."""
    return Strategy(step=Adam(lr=lr, beta1=beta1, beta2=beta2, tau=tau))


def fedyogi(lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> Strategy:
    """FedYogi (Reddi et al. 2021, Alg. 2)."""
    return Strategy(step=Yogi(lr=lr, beta1=beta1, beta2=beta2, tau=tau))


def fedadagrad(lr: float = 0.1, beta1: float = 0.0, tau: float = 1e-3) -> Strategy:
    """FedAdagrad (Reddi et al. 2021, Alg. 2)."""
    return Strategy(step=Adagrad(lr=lr, beta1=beta1, tau=tau))


def fedsgd(lr: float = 0.1, step: Step | None = None) -> Strategy:
    """FedSGD (McMahan et al. 2017, section 2): one gradient of all samples a version; `lr` is the server's."""
    return Strategy(step=step or Sgd(lr=lr), method=Gradient())


def fednova(weight: Literal["samples", "equal"] = "samples", mu: float = 0.0, step: Step | None = None) -> Strategy:
    """FedNova (Wang et al. 2020, section 4): unequal local steps do not bias the model; partial work counts."""
    return Strategy(weight=weight, mu=mu, partial=True, step=step or Sgd(), method=Nova())


def scaffold(devices: int, step: Step | None = None) -> Strategy:
    """SCAFFOLD (Karimireddy et al. 2020, Alg. 1, option II) in a fleet of so many `devices`."""
    return Strategy(weight="equal", step=step or Sgd(), method=Scaffold(devices=devices))


def feddyn(devices: int, alpha: float = 0.01) -> Strategy:
    """FedDyn (Acar et al. 2021, Alg. 1) in a fleet of so many `devices`."""
    return Strategy(weight="equal", method=Dyn(devices=devices, alpha=alpha))


def qffl(q: float = 1.0) -> Strategy:
    """q-FedAvg, for q-FFL (Li et al. 2020, Alg. 2): the larger `q`, the more even are the devices' losses."""
    return Strategy(weight="equal", method=Fair(q=q))


def ditto(pull: float = 0.1, weight: Literal["samples", "equal"] = "samples", step: Step | None = None) -> Strategy:
    """Ditto (Li et al. 2021, Alg. 1): each device has a model of its own, pulled toward the common one."""
    return Strategy(weight=weight, step=step or Sgd(), method=Ditto(pull=pull))


def finetune(epochs: int = 5, lr: float = 0.0, step: Step | None = None) -> Strategy:
    """Averaging, then so many epochs on each device after the last version (Wang et al. 2019)."""
    return Strategy(step=step or Sgd(), method=Tuned(epochs=epochs, lr=lr))


def ifca(models: int = 2, weight: Literal["samples", "equal"] = "samples") -> Strategy:
    """IFCA (Ghosh et al. 2020, Alg. 1): several models, of which each device trains the one that fits it best."""
    return Strategy(weight=weight, method=Clustered(models=models))


def mixing(alpha: float, beta: float | None = None, schedule: Schedule | None = None) -> Strategy:
    """Server and participants mixed with decay factors that alternate over versions.

    theta_t = alpha theta_{t-1} + (1 - alpha) theta~_t, then the same with `beta` (default `alpha`), where
    theta~ is what the participants report: base version plus delta. `schedule` scales the participants'
    share by version and staleness (Xie et al. 2019, section 5.2).
    """
    return Strategy(step=Mixing(alpha=alpha, beta=alpha if beta is None else beta, schedule=schedule or Constant()))


def fedbuff(lr: float = 1.0, a: float = 0.5, momentum: float = 0.0) -> Strategy:
    """FedBuff (Nguyen et al. 2022, Alg. 1): theta <- theta + lr / K * sum of (1 + lag)^-a delta.

    The buffer size K is `pace.goal`; beside it belongs a `pace.concurrency` above it and a `pace.staleness`. Each
    report weighs the same, (1 + lag)^-a is rounded to a 65,536th, and `momentum` is the server's.
    """
    step: Step = Momentum(lr=lr, momentum=momentum) if momentum else Sgd(lr=lr)
    return Strategy(weight="equal", step=step, staleness=Polynomial(a=a))


def fedasync(alpha: float = 0.6, schedule: Schedule | None = None, mu: float = 0.0) -> Strategy:
    """FedAsync (Xie et al. 2019, Alg. 1): theta <- (1 - alpha s) theta + alpha s (base + delta), s = `schedule`(lag).

    It belongs with `pace.goal` 1 and a `pace.staleness`; `mu` is the proximal term on the device (their rho).
    """
    within("alpha", alpha, 0, 1)
    return Strategy(
        weight="equal", mu=mu, step=Mixing(alpha=1 - alpha, beta=1 - alpha, schedule=schedule or Constant())
    )


def ridge(penalty: float = 1.0) -> Strategy:
    """Ridge regression in one round (Hoerl & Kennard 1970); `penalty` 0 is linear regression."""
    return _of(Ridge(penalty))


def logistic(penalty: float = 1.0, tolerance: float = 1e-9) -> Strategy:
    """Logistic regression by Newton's steps (Hastie et al. 2009, section 4.4.1)."""
    return _of(Logistic(penalty, tolerance))


def pca() -> Strategy:
    """Principal components in one round (Jolliffe 2002), as a linear autoencoder."""
    return _of(Pca())


def naive_bayes(smoothing: float = 1e-9) -> Strategy:
    """Gaussian naive Bayes in one round (Hastie et al. 2009, section 6.6.3)."""
    return _of(NaiveBayes(smoothing))


def nearest_mean() -> Strategy:
    """The nearest class mean on a frozen extractor, in one round (Mensink et al. 2013)."""
    return _of(NearestMean())


def k_means(tolerance: float = 1e-4) -> Strategy:
    """k-means by Lloyd's rounds (Lloyd 1982)."""
    return _of(KMeans(tolerance))


def boosting(rate: float = 0.1, penalty: float = 1.0, least: float = 1.0, bins: int = 32) -> Strategy:
    """Gradient-boosted trees by federated histograms (Chen & Guestrin 2016)."""
    return _of(Boosting(rate, penalty, least, bins))


def _of(statistic: StatisticSpec) -> Strategy:
    return Strategy(weight="equal", statistic=statistic)
