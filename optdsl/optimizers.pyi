# Written by `make stubs` from the specifications of the library.

"""The library's optimizers as classes: ``from optdsl.optimizers import MADA, Adam``."""

from torch import Tensor
from torch.distributed import ProcessGroup
from torch.optim.optimizer import ParamsT

from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

def names() -> dict[str, str]:
    """The specifications of the library by the names of their classes, sorted."""

class ADOPT(CompiledOptimizer):
    """ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate (Taniguchi et al.,
        2024), arXiv:2411.02853

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.9999 by default, in [0, 1)
        eps: 1e-06 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.9999,
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class AMSGrad(CompiledOptimizer):
    """On the Convergence of Adam and Beyond (Reddi et al., 2018), arXiv:1904.09237

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class APOLLO(CompiledOptimizer):
    """APOLLO: SGD-like Memory, AdamW-level Performance (Zhu et al., 2024), arXiv:2412.05270

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    Random numbers are functions of `seed`, a whole number.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.01 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-06 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        rank: 256 by default, in {1, ..., inf}
        gap: 200 by default, in {1, ..., inf}
        scale: 1 by default, in [0, inf)
        scale_type: channel by default, in {channel, tensor}
        growth: 1.01 by default, in [1, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        rank: float | Tensor = 256.0,
        gap: float | Tensor = 200.0,
        scale: float | Tensor = 1.0,
        scale_type: str | float = 0.0,
        growth: float | Tensor = 1.01,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        seed: int = 0,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class ASGD(CompiledOptimizer):
    """Acceleration of Stochastic Approximation by Averaging (Polyak & Juditsky, 1992)
    With the step sizes of Bottou's averaged SGD, as in torch.optim.ASGD

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.01 by default, in [0, inf)
        lambd: 0.0001 by default, in [0, inf)
        alpha: 0.75 by default, in [0, inf)
        t0: 1000000 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        *,
        lambd: float | Tensor = 0.0001,
        alpha: float | Tensor = 0.75,
        t0: float | Tensor = 1000000.0,
        weight_decay: float | Tensor = 0.0,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class AVGrad(CompiledOptimizer):
    """MADA: Meta-Adaptive Optimizers (Ozkara et al., ICML 2024), arXiv:2401.08893, section 4

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class AdEMAMix(CompiledOptimizer):
    """The AdEMAMix Optimizer: Better, Faster, Older (Pagliardini et al., 2024), arXiv:2409.03137

    `betas` may be given for beta1, beta2, beta3.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        beta3: 0.9999 by default, in [0, 1)
        alpha: 5 by default, in [0, inf)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        warmup: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        beta3: float | Tensor = 0.9999,
        alpha: float | Tensor = 5.0,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        warmup: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class AdaBelief(CompiledOptimizer):
    """AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients (Zhuang et al.,
        2020), arXiv:2010.07468

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-16 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-16,
        weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class AdaMuon(CompiledOptimizer):
    """AdaMuon: Adaptive Muon Optimizer (Si et al., 2025), arXiv:2507.11005

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta: 0.95 by default, in [0, 1)
        beta2: 0.95 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0.1 by default, in [0, inf)
        ns_steps: 5 by default, in {0, ..., 99}
        signs: 1 by default, in {0, 1}
        lr_ratio: 1 by default, in [0, inf)
        adamw_beta1: 0.9 by default, in [0, 1)
        adamw_beta2: 0.999 by default, in [0, 1)
        adamw_eps: 1e-08 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta: float | Tensor = 0.95,
        beta2: float | Tensor = 0.95,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.1,
        ns_steps: float | Tensor = 5.0,
        signs: float | Tensor = 1.0,
        lr_ratio: float | Tensor = 1.0,
        adamw_beta1: float | Tensor = 0.9,
        adamw_beta2: float | Tensor = 0.999,
        adamw_eps: float | Tensor = 1e-08,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class AdaNorm(CompiledOptimizer):
    """AdaNorm: Adaptive Gradient Norm Correction based Optimizer for CNNs (Dubey et al., 2022),
        arXiv:2210.06364

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        r: 0.95 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        r: float | Tensor = 0.95,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Adadelta(CompiledOptimizer):
    """ADADELTA: An Adaptive Learning Rate Method (Zeiler, 2012), arXiv:1212.5701

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 1 by default, in [0, inf)
        rho: 0.9 by default, in [0, 1]
        eps: 1e-06 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        *,
        rho: float | Tensor = 0.9,
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Adafactor(CompiledOptimizer):
    """Adafactor: Adaptive Learning Rates with Sublinear Memory Cost (Shazeer & Stern, 2018),
        arXiv:1804.04235
    As in torch.optim.Adafactor

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.01 by default, in [0, inf)
        beta2_decay: -0.8 by default, in (-inf, 0]
        eps1: 1.1920929e-07 by default, in [0, inf)
        eps2: 0.001 by default, in [0, inf)
        d: 1 by default, in [1, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        *,
        beta2_decay: float | Tensor = -0.8,
        eps1: float | Tensor = 1.1920929e-07,
        eps2: float | Tensor = 0.001,
        d: float | Tensor = 1.0,
        weight_decay: float | Tensor = 0.0,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Adagrad(CompiledOptimizer):
    """Adaptive Subgradient Methods for Online Learning and Stochastic Optimization (Duchi et al.,
        JMLR 2011)

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.01 by default, in [0, inf)
        lr_decay: 0 by default, in [0, inf)
        eps: 1e-10 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        initial_accumulator_value: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        *,
        lr_decay: float | Tensor = 0.0,
        eps: float | Tensor = 1e-10,
        weight_decay: float | Tensor = 0.0,
        initial_accumulator_value: float | Tensor = 0.0,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Adam(CompiledOptimizer):
    """Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015), arXiv:1412.6980

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class AdamAVGrad(CompiledOptimizer):
    """The interpolation of Adam and AVGrad in MADA's convergence theorem (Ozkara et al., ICML 2024)

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        rho: 1 by default, in [0, 1]; learned by sgd in [0, 1]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        rho: float | Tensor = 1.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class AdamH(CompiledOptimizer):
    """Fantastic Pretraining Optimizers and Where to Find Them 2.1: Hyperball Optimization (Wen et
        al., 2025)

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class AdamHD(CompiledOptimizer):
    """Online Learning Rate Adaptation with Hypergradient Descent (Baydin et al., 2018),
        arXiv:1703.04782: Adam-HD

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf); learned by sgd in [0, 1]
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class AdamW(CompiledOptimizer):
    """Decoupled Weight Decay Regularization (Loshchilov & Hutter, 2019), arXiv:1711.05101

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0.01 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Adamax(CompiledOptimizer):
    """Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015), arXiv:1412.6980, section 7.1

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.002 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.002,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Adan(CompiledOptimizer):
    """Adan: Adaptive Nesterov Momentum Algorithm (Xie et al., 2022), arXiv:2208.06677

    `betas` may be given for beta1, beta2, beta3.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.98 by default, in [0, 1)
        beta2: 0.92 by default, in [0, 1)
        beta3: 0.99 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.98,
        beta2: float | Tensor = 0.92,
        beta3: float | Tensor = 0.99,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Adaptivity(CompiledOptimizer):
    """How adaptive should a step be? Momentum, AdamW and Lion on a simplex, by exponentiated
        gradient.

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        sgd_ratio: 10 by default, in [0, inf)
        lion_ratio: 0.1 by default, in [0, inf)
        w_sgd: 0.3333333333333333 by default, in [0, 1]; one of the weights w, which sum to 1;
            learned by exponentiated sgd
        w_adamw: 0.3333333333333333 by default, in [0, 1]; one of the weights w, which sum to 1;
            learned by exponentiated sgd
        w_lion: 0.3333333333333333 by default, in [0, 1]; one of the weights w, which sum to 1;
            learned by exponentiated sgd
        adamw_beta1: 0.9 by default, in [0, 1)
        adamw_beta2: 0.999 by default, in [0, 1)
        adamw_eps: 1e-08 by default, in [0, inf)
        lion_beta1: 0.9 by default, in [0, 1)
        lion_beta2: 0.99 by default, in [0, 1)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        weight_decay: float | Tensor = 0.0,
        sgd_ratio: float | Tensor = 10.0,
        lion_ratio: float | Tensor = 0.1,
        w_sgd: float | Tensor = 0.3333333333333333,
        w_adamw: float | Tensor = 0.3333333333333333,
        w_lion: float | Tensor = 0.3333333333333333,
        adamw_beta1: float | Tensor = 0.9,
        adamw_beta2: float | Tensor = 0.999,
        adamw_eps: float | Tensor = 1e-08,
        lion_beta1: float | Tensor = 0.9,
        lion_beta2: float | Tensor = 0.99,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Amos(CompiledOptimizer):
    """Amos: An Adam-style Optimizer with Adaptive Weight Decay towards Model-Oriented Scale (Tian &
        Parikh, 2022), arXiv:2210.11693

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta: 0.999 by default, in [0, 1)
        momentum: 0 by default, in [0, 1)
        extra_l2: 0 by default, in [0, inf)
        c_coef: 0.25 by default, in [0, inf)
        d_coef: 0.25 by default, in [0, inf)
        eps: 1e-18 by default, in [0, inf)
        scale: 0.5 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta: float | Tensor = 0.999,
        momentum: float | Tensor = 0.0,
        extra_l2: float | Tensor = 0.0,
        c_coef: float | Tensor = 0.25,
        d_coef: float | Tensor = 0.25,
        eps: float | Tensor = 1e-18,
        scale: float | Tensor = 0.5,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class CAME(CompiledOptimizer):
    """CAME: Confidence-guided Adaptive Memory Efficient Optimization (Luo et al., 2023),
        arXiv:2307.02047

    `betas` may be given for beta1, beta2, beta3.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.0002 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        beta3: 0.9999 by default, in [0, 1)
        eps1: 1e-30 by default, in [0, inf)
        eps2: 1e-16 by default, in [0, inf)
        clip_threshold: 1 by default, in (0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0002,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        beta3: float | Tensor = 0.9999,
        eps1: float | Tensor = 1e-30,
        eps2: float | Tensor = 1e-16,
        clip_threshold: float | Tensor = 1.0,
        weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class COCOB(CompiledOptimizer):
    """Training Deep Networks without Learning Rates Through Coin Betting (Orabona & Tommasi, 2017),
        arXiv:1705.07795

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        alpha: 100 by default, in (0, inf)
        eps: 1e-08 by default, in (0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        alpha: float | Tensor = 100.0,
        eps: float | Tensor = 1e-08,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class DAdaptAdam(CompiledOptimizer):
    """Learning-Rate-Free Learning by D-Adaptation (Defazio & Mishchenko, 2023), arXiv:2301.07733

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 1 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        decouple: 0 by default, in {0, 1}
        use_bias_correction: 0 by default, in {0, 1}
        d0: 1e-06 by default, in (0, inf)
        growth_rate: inf by default, in (1, inf]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        decouple: float | Tensor = 0.0,
        use_bias_correction: float | Tensor = 0.0,
        d0: float | Tensor = 1e-06,
        growth_rate: float | Tensor = 1e999,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class DAdaptLion(CompiledOptimizer):
    """Learning-Rate-Free Learning by D-Adaptation (Defazio & Mishchenko, 2023), arXiv:2301.07733,
        for Lion

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 1 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.99 by default, in [0, 1)
        weight_decay: 0 by default, in [0, inf)
        d0: 1e-06 by default, in (0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.99,
        weight_decay: float | Tensor = 0.0,
        d0: float | Tensor = 1e-06,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class DAdaptSGD(CompiledOptimizer):
    """Learning-Rate-Free Learning by D-Adaptation (Defazio & Mishchenko, 2023), arXiv:2301.07733

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 1 by default, in [0, inf)
        momentum: 0 by default, in [0, 1)
        weight_decay: 0 by default, in [0, inf)
        d0: 1e-06 by default, in (0, inf)
        growth_rate: inf by default, in (1, inf]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        *,
        momentum: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        d0: float | Tensor = 1e-06,
        growth_rate: float | Tensor = 1e999,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class GaLoreAdamW(CompiledOptimizer):
    """GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection (Zhao et al., 2024),
        arXiv:2403.03507

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.01 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-06 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        rank: 128 by default, in {1, ..., inf}
        gap: 200 by default, in {1, ..., inf}
        scale: 0.25 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        rank: float | Tensor = 128.0,
        gap: float | Tensor = 200.0,
        scale: float | Tensor = 0.25,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class HyperAdam(CompiledOptimizer):
    """AdamW whose betas follow their hyper-gradients, as in Ozkara et al. (2024), arXiv:2401.08893

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1); learned by sgd in [0.01, 0.999]
        beta2: 0.95 by default, in [0, 1); learned by sgd in [0.01, 0.999]
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0.01 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.95,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class KLSOAP(CompiledOptimizer):
    """Understanding and Improving Shampoo and SOAP via Kullback-Leibler Minimization (Lin et al.,
        2025), arXiv:2509.03378

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.98 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0.01 by default, in [0, inf)
        interval: 10 by default, in {1, ..., inf}
        d0: 0.1 by default, in (0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.98,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        interval: float | Tensor = 10.0,
        d0: float | Tensor = 0.1,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class KT(CompiledOptimizer):
    """Coin Betting and Parameter-Free Online Learning (Orabona & Pal, 2016), arXiv:1602.04128, for
        each element

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        wealth: 1 by default, in (0, inf)
        limit: 1 by default, in (0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        *,
        wealth: float | Tensor = 1.0,
        limit: float | Tensor = 1.0,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class LAMB(CompiledOptimizer):
    """Large Batch Optimization for Deep Learning: Training BERT in 76 minutes (You et al., 2019),
        arXiv:1904.00962

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-06 by default, in [0, inf)
        weight_decay: 0.01 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.01,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class LARS(CompiledOptimizer):
    """Large Batch Training of Convolutional Networks (You et al., 2017), arXiv:1708.03888

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.1 by default, in [0, inf)
        momentum: 0.9 by default, in [0, 1)
        weight_decay: 0.0005 by default, in [0, inf)
        trust_coef: 0.001 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.1,
        *,
        momentum: float | Tensor = 0.9,
        weight_decay: float | Tensor = 0.0005,
        trust_coef: float | Tensor = 0.001,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class LaProp(CompiledOptimizer):
    """LaProp: Separating Momentum and Adaptivity in Adam (Ziyin et al., 2020), arXiv:2002.04839

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.0004 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-15 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0004,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-15,
        weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Lion(CompiledOptimizer):
    """Symbolic Discovery of Optimization Algorithms (Chen et al., 2023), arXiv:2302.06675

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.0001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.99 by default, in [0, 1)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.99,
        weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class MADA(CompiledOptimizer):
    """MADA: Meta-Adaptive Optimizers (Ozkara et al., ICML 2024), arXiv:2401.08893
    With exact endpoints: a gate of its own for Adan, and the canonical form of every member.

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.0006 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        eps: 1e-06 by default, in [0, inf)
        beta2: 0.95 by default, in [0, 1)
        weight_decay: 0 by default, in [0, inf)
        lr_ratio: 0.1 by default, in [0, inf)
        c: 1 by default, in [0, 1]
        rho: 0.5 by default, in [0, 1]; learned by sgd in [0, 1], on its sign
        kappa: 0 by default, in [0, 1]
        gamma: 1 by default, in [0, 1]
        adan_beta2: 0.92 by default, in [0, 1)
        lion_beta1: 0.9 by default, in [0, 1)
        lion_beta2: 0.99 by default, in [0, 1)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0006,
        *,
        beta1: float | Tensor = 0.9,
        eps: float | Tensor = 1e-06,
        beta2: float | Tensor = 0.95,
        weight_decay: float | Tensor = 0.0,
        lr_ratio: float | Tensor = 0.1,
        c: float | Tensor = 1.0,
        rho: float | Tensor = 0.5,
        kappa: float | Tensor = 0.0,
        gamma: float | Tensor = 1.0,
        adan_beta2: float | Tensor = 0.92,
        lion_beta1: float | Tensor = 0.9,
        lion_beta2: float | Tensor = 0.99,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class MADALegacy(CompiledOptimizer):
    """MADA: Meta-Adaptive Optimizers (Ozkara et al., ICML 2024), arXiv:2401.08893
    The authors' published update, quirks included, with their settings for GPT-2.

    `betas` may be given for beta1, beta2, beta3.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.0006 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1); learned by sgd in [0.01, 0.99]
        beta2: 0.95 by default, in [0, 1); learned by sgd in [0.501, 0.99]
        beta3: 0 by default, in [0, 1); learned by sgd in [0, 0.99]
        rho: 0 by default, in [0, 1]; learned by sgd in [0, 1]
        c: 1 by default, in [0, 1]; learned by sgd in [0, 1]
        gamma: 1 by default, in [0, 1]; learned by sgd in [0, 1]
        eps: 1e-06 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        v0: 1e-15 by default, in [0, inf)
        difference: 1 by default, in {0, 1}
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0006,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.95,
        beta3: float | Tensor = 0.0,
        rho: float | Tensor = 0.0,
        c: float | Tensor = 1.0,
        gamma: float | Tensor = 1.0,
        eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        v0: float | Tensor = 1e-15,
        difference: float | Tensor = 1.0,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class MARS(CompiledOptimizer):
    """MARS: Unleashing the Power of Variance Reduction for Training Large Models (Yuan et al.,
        2024), arXiv:2411.10438
    MARS-AdamW with approximate differences; other tensors get AdamW

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.003 by default, in [0, inf)
        beta1: 0.95 by default, in [0, 1)
        beta2: 0.99 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        gamma: 0.025 by default, in [0, inf)
        lr_ratio: 1 by default, in [0, inf)
        adamw_beta1: 0.9 by default, in [0, 1)
        adamw_beta2: 0.999 by default, in [0, 1)
        adamw_weight_decay: 0.01 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.003,
        *,
        beta1: float | Tensor = 0.95,
        beta2: float | Tensor = 0.99,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        gamma: float | Tensor = 0.025,
        lr_ratio: float | Tensor = 1.0,
        adamw_beta1: float | Tensor = 0.9,
        adamw_beta2: float | Tensor = 0.999,
        adamw_weight_decay: float | Tensor = 0.01,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Memory(CompiledOptimizer):
    """How long should the denominator remember? Adam forgets, AVGrad averages, AMSGrad never
        forgets.

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        w_adam: 0.3333333333333333 by default, in [0, 1]; one of the weights w, which sum to 1;
            learned by sgd
        w_avgrad: 0.3333333333333333 by default, in [0, 1]; one of the weights w, which sum to 1;
            learned by sgd
        w_amsgrad: 0.3333333333333333 by default, in [0, 1]; one of the weights w, which sum to 1;
            learned by sgd
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        w_adam: float | Tensor = 0.3333333333333333,
        w_avgrad: float | Tensor = 0.3333333333333333,
        w_amsgrad: float | Tensor = 0.3333333333333333,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Muon(CompiledOptimizer):
    """Muon: An optimizer for hidden layers in neural networks (Jordan et al., 2024)
    As in torch.optim.Muon; other tensors get AdamW

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        weight_decay: 0.1 by default, in [0, inf)
        momentum: 0.95 by default, in [0, 1)
        nesterov: 1 by default, in {0, 1}
        ns_a: 3.4445 by default, in (-inf, inf)
        ns_b: -4.775 by default, in (-inf, inf)
        ns_c: 2.0315 by default, in (-inf, inf)
        ns_steps: 5 by default, in {0, ..., 99}
        eps: 1e-07 by default, in [0, inf)
        adjust_lr_fn: original by default, in {original, match_rms_adamw}
        lr_ratio: 1 by default, in [0, inf)
        adamw_beta1: 0.9 by default, in [0, 1)
        adamw_beta2: 0.999 by default, in [0, 1)
        adamw_eps: 1e-08 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        weight_decay: float | Tensor = 0.1,
        momentum: float | Tensor = 0.95,
        nesterov: float | Tensor = 1.0,
        ns_a: float | Tensor = 3.4445,
        ns_b: float | Tensor = -4.775,
        ns_c: float | Tensor = 2.0315,
        ns_steps: float | Tensor = 5.0,
        eps: float | Tensor = 1e-07,
        adjust_lr_fn: str | float = 0.0,
        lr_ratio: float | Tensor = 1.0,
        adamw_beta1: float | Tensor = 0.9,
        adamw_beta2: float | Tensor = 0.999,
        adamw_eps: float | Tensor = 1e-08,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class MuonH(CompiledOptimizer):
    """Fantastic Pretraining Optimizers and Where to Find Them 2.1: Hyperball Optimization (Wen et
        al., 2025)

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.01 by default, in [0, inf)
        momentum: 0.95 by default, in [0, 1)
        nesterov: 1 by default, in {0, 1}
        ns_a: 3.4445 by default, in (-inf, inf)
        ns_b: -4.775 by default, in (-inf, inf)
        ns_c: 2.0315 by default, in (-inf, inf)
        ns_steps: 5 by default, in {0, ..., 99}
        eps: 1e-07 by default, in [0, inf)
        adjust_lr_fn: original by default, in {original, match_rms_adamw}
        lr_ratio: 1 by default, in [0, inf)
        adamw_beta1: 0.9 by default, in [0, 1)
        adamw_beta2: 0.999 by default, in [0, 1)
        adamw_eps: 1e-08 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        *,
        momentum: float | Tensor = 0.95,
        nesterov: float | Tensor = 1.0,
        ns_a: float | Tensor = 3.4445,
        ns_b: float | Tensor = -4.775,
        ns_c: float | Tensor = 2.0315,
        ns_steps: float | Tensor = 5.0,
        eps: float | Tensor = 1e-07,
        adjust_lr_fn: str | float = 0.0,
        lr_ratio: float | Tensor = 1.0,
        adamw_beta1: float | Tensor = 0.9,
        adamw_beta2: float | Tensor = 0.999,
        adamw_eps: float | Tensor = 1e-08,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class NAdam(CompiledOptimizer):
    """Incorporating Nesterov Momentum into Adam (Dozat, ICLR workshop 2016)

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.002 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        momentum_decay: 0.004 by default, in [0, inf)
        decoupled_weight_decay: 0 by default, in {0, 1}
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.002,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        momentum_decay: float | Tensor = 0.004,
        decoupled_weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class NorMuon(CompiledOptimizer):
    """NorMuon: Making Muon more efficient and scalable (Li et al., 2025), arXiv:2510.05491

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.02 by default, in [0, inf)
        momentum: 0.95 by default, in [0, 1)
        beta2: 0.95 by default, in [0, 1)
        weight_decay: 0 by default, in [0, inf)
        nesterov: 1 by default, in {0, 1}
        ns_steps: 5 by default, in {0, ..., 99}
        lr_ratio: 0.015 by default, in [0, inf)
        adamw_beta1: 0.9 by default, in [0, 1)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.02,
        *,
        momentum: float | Tensor = 0.95,
        beta2: float | Tensor = 0.95,
        weight_decay: float | Tensor = 0.0,
        nesterov: float | Tensor = 1.0,
        ns_steps: float | Tensor = 5.0,
        lr_ratio: float | Tensor = 0.015,
        adamw_beta1: float | Tensor = 0.9,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class NovoGrad(CompiledOptimizer):
    """Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep Networks
        (Ginsburg et al., 2019), arXiv:1905.11286

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.01 by default, in [0, inf)
        beta1: 0.95 by default, in [0, 1)
        beta2: 0.98 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        grad_averaging: 0 by default, in {0, 1}
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        *,
        beta1: float | Tensor = 0.95,
        beta2: float | Tensor = 0.98,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        grad_averaging: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Prodigy(CompiledOptimizer):
    """Prodigy: An Expeditiously Adaptive Parameter-Free Learner (Mishchenko & Defazio, 2023),
        arXiv:2306.06101

    `betas` may be given for beta1, beta2, beta3.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 1 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        beta3: 0.9994998749 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        decouple: 1 by default, in {0, 1}
        use_bias_correction: 0 by default, in {0, 1}
        safeguard_warmup: 0 by default, in {0, 1}
        d0: 1e-06 by default, in (0, inf)
        d_coef: 1 by default, in (0, inf)
        growth_rate: inf by default, in (1, inf]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        beta3: float | Tensor = 0.9994998749,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        decouple: float | Tensor = 1.0,
        use_bias_correction: float | Tensor = 0.0,
        safeguard_warmup: float | Tensor = 0.0,
        d0: float | Tensor = 1e-06,
        d_coef: float | Tensor = 1.0,
        growth_rate: float | Tensor = 1e999,
        betas: tuple[float | Tensor, float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class RAdam(CompiledOptimizer):
    """On the Variance of the Adaptive Learning Rate and Beyond (Liu et al., 2020), arXiv:1908.03265

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        decoupled_weight_decay: 0 by default, in {0, 1}
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        decoupled_weight_decay: float | Tensor = 0.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class RMSprop(CompiledOptimizer):
    """Neural Networks for Machine Learning, lecture 6e (Tieleman & Hinton, 2012)
    Centered: Generating Sequences With Recurrent Neural Networks (Graves, 2013), arXiv:1308.0850

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.01 by default, in [0, inf)
        alpha: 0.99 by default, in [0, 1]
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        momentum: 0 by default, in [0, inf)
        centered: 0 by default, in {0, 1}
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        *,
        alpha: float | Tensor = 0.99,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        momentum: float | Tensor = 0.0,
        centered: float | Tensor = 0.0,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Rprop(CompiledOptimizer):
    """A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP Algorithm (Riedmiller
        & Braun, 1993)

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.01 by default, in [0, inf)
        etaminus: 0.5 by default, in (0, 1)
        etaplus: 1.2 by default, in (1, inf)
        step_size_min: 1e-06 by default, in [0, inf)
        step_size_max: 50 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        *,
        etaminus: float | Tensor = 0.5,
        etaplus: float | Tensor = 1.2,
        step_size_min: float | Tensor = 1e-06,
        step_size_max: float | Tensor = 50.0,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class SGD(CompiledOptimizer):
    """A Stochastic Approximation Method (Robbins & Monro, 1951); momentum as in torch.optim.SGD

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        momentum: 0 by default, in [0, inf)
        dampening: 0 by default, in (-inf, inf)
        weight_decay: 0 by default, in [0, inf)
        nesterov: 0 by default, in {0, 1}
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        momentum: float | Tensor = 0.0,
        dampening: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: float | Tensor = 0.0,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class SGDHD(CompiledOptimizer):
    """Online Learning Rate Adaptation with Hypergradient Descent (Baydin et al., 2018),
        arXiv:1703.04782: SGD-HD

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf); learned by sgd in [0, 1]
        momentum: 0 by default, in [0, inf)
        dampening: 0 by default, in (-inf, inf)
        weight_decay: 0 by default, in [0, inf)
        nesterov: 0 by default, in {0, 1}
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        momentum: float | Tensor = 0.0,
        dampening: float | Tensor = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: float | Tensor = 0.0,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class SOAP(CompiledOptimizer):
    """SOAP: Improving and Stabilizing Shampoo using Adam (Vyas et al., 2024), arXiv:2409.11321

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.003 by default, in [0, inf)
        beta1: 0.95 by default, in [0, 1)
        beta2: 0.95 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0.01 by default, in [0, inf)
        interval: 10 by default, in {1, ..., inf}
        max_dim: 10000 by default, in {1, ..., inf}
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.003,
        *,
        beta1: float | Tensor = 0.95,
        beta2: float | Tensor = 0.95,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        interval: float | Tensor = 10.0,
        max_dim: float | Tensor = 10000.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class ScheduleFreeAdamW(CompiledOptimizer):
    """The Road Less Scheduled (Defazio et al., 2024), arXiv:2405.15682

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.0025 by default, in [0, inf)
        beta1: 0.9 by default, in (0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        warmup_steps: 0 by default, in [0, inf)
        r: 0 by default, in [0, inf)
        weight_lr_power: 2 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0025,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        warmup_steps: float | Tensor = 0.0,
        r: float | Tensor = 0.0,
        weight_lr_power: float | Tensor = 2.0,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class ScheduleFreeSGD(CompiledOptimizer):
    """The Road Less Scheduled (Defazio et al., 2024), arXiv:2405.15682

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 1 by default, in [0, inf)
        momentum: 0.9 by default, in (0, 1)
        weight_decay: 0 by default, in [0, inf)
        warmup_steps: 0 by default, in [0, inf)
        r: 0 by default, in [0, inf)
        weight_lr_power: 2 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        *,
        momentum: float | Tensor = 0.9,
        weight_decay: float | Tensor = 0.0,
        warmup_steps: float | Tensor = 0.0,
        r: float | Tensor = 0.0,
        weight_lr_power: float | Tensor = 2.0,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Scion(CompiledOptimizer):
    """Training Deep Learning Models with Norm-Constrained LMOs (Pethick et al., 2025),
        arXiv:2502.07529

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        momentum: 0.1 by default, in (0, 1]
        scale: 1 by default, in (0, inf)
        unconstrained: 0 by default, in {0, 1}
        ns_steps: 5 by default, in {0, ..., 99}
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        momentum: float | Tensor = 0.1,
        scale: float | Tensor = 1.0,
        unconstrained: float | Tensor = 0.0,
        ns_steps: float | Tensor = 5.0,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Shampoo(CompiledOptimizer):
    """Shampoo: Preconditioned Stochastic Tensor Optimization (Gupta et al., 2018), arXiv:1802.09568
    With grafting and refreshed roots: Anil et al. (2020), arXiv:2002.09018; Shi et al. (2023),
        arXiv:2309.06497.

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        momentum: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1]
        eps: 1e-12 by default, in [0, inf)
        graft_eps: 1e-08 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        interval: 10 by default, in {1, ..., inf}
        root: 4 by default, in {1, ..., 8}
        graft: adam by default, in {none, adam}
        adamw_eps: 1e-08 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        momentum: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-12,
        graft_eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0,
        interval: float | Tensor = 10.0,
        root: float | Tensor = 4.0,
        graft: str | float = 1.0,
        adamw_eps: float | Tensor = 1e-08,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Signum(CompiledOptimizer):
    """signSGD: Compressed Optimisation for Non-Convex Problems (Bernstein et al., 2018),
        arXiv:1802.04434

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        momentum: 0.9 by default, in [0, 1)
        weight_decay: 0 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        momentum: float | Tensor = 0.9,
        weight_decay: float | Tensor = 0.0,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class SophiaG(CompiledOptimizer):
    """Sophia: A Scalable Stochastic Second-order Optimizer (Liu et al., 2023), arXiv:2305.14342

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.0001 by default, in [0, inf)
        beta1: 0.965 by default, in [0, 1)
        beta2: 0.99 by default, in [0, 1)
        gamma: 0.05 by default, in (0, inf)
        eps: 1e-15 by default, in (0, inf)
        weight_decay: 0.1 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0001,
        *,
        beta1: float | Tensor = 0.965,
        beta2: float | Tensor = 0.99,
        gamma: float | Tensor = 0.05,
        eps: float | Tensor = 1e-15,
        weight_decay: float | Tensor = 0.1,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class SophiaH(CompiledOptimizer):
    """Sophia: A Scalable Stochastic Second-order Optimizer (Liu et al., 2023), arXiv:2305.14342
    With Hutchinson's estimate of the Hessian's diagonal: a random vector times the Hessian's
        product with it

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.0001 by default, in [0, inf)
        beta1: 0.965 by default, in [0, 1)
        beta2: 0.99 by default, in [0, 1)
        gamma: 0.01 by default, in (0, inf)
        eps: 1e-15 by default, in (0, inf)
        weight_decay: 0.1 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.0001,
        *,
        beta1: float | Tensor = 0.965,
        beta2: float | Tensor = 0.99,
        gamma: float | Tensor = 0.01,
        eps: float | Tensor = 1e-15,
        weight_decay: float | Tensor = 0.1,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class StableAdamW(CompiledOptimizer):
    """Stable and low-precision training for large-scale vision-language models (Wortsman et al.,
        2023), arXiv:2304.13013

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.99 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0.01 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.99,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Tiger(CompiledOptimizer):
    """Tiger: A Tight-fisted Optimizer (Su, 2023), github.com/bojone/tiger

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta: 0.965 by default, in [0, 1)
        weight_decay: 0.01 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta: float | Tensor = 0.965,
        weight_decay: float | Tensor = 0.01,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class TwoSpeed(CompiledOptimizer):
    """AdamW with two momenta, a quick one and a slow one, and a learned gate between them

    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.001 by default, in [0, inf)
        beta2: 0.999 by default, in [0, 1)
        eps: 1e-08 by default, in [0, inf)
        weight_decay: 0.01 by default, in [0, inf)
        slow: 0.5 by default, in [0, 1]; learned by sgd in [0, 1]
        beta1_fast: 0.8 by default, in [0, 1)
        beta1_slow: 0.98 by default, in [0, 1)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        *,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        slow: float | Tensor = 0.5,
        beta1_fast: float | Tensor = 0.8,
        beta1_slow: float | Tensor = 0.98,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...

class Yogi(CompiledOptimizer):
    """Adaptive Methods for Nonconvex Optimization (Zaheer et al., NeurIPS 2018)

    `betas` may be given for beta1, beta2.
    With `maximize` it goes up the gradients.
    Optimizers of one `process_group` learn as one.
    `foreach`, `fused` and `capturable` are kept and change nothing.
    `differentiable=True` is refused.

    Hyperparameters:
        lr: 0.01 by default, in [0, inf)
        beta1: 0.9 by default, in [0, 1)
        beta2: 0.999 by default, in [0, 1)
        eps: 0.001 by default, in [0, inf)
        weight_decay: 0 by default, in [0, inf)
        m0: 1e-06 by default, in [0, inf)
        v0: 1e-06 by default, in [0, inf)
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        *,
        beta1: float | Tensor = 0.9,
        beta2: float | Tensor = 0.999,
        eps: float | Tensor = 0.001,
        weight_decay: float | Tensor = 0.0,
        m0: float | Tensor = 1e-06,
        v0: float | Tensor = 1e-06,
        betas: tuple[float | Tensor, float | Tensor] | None = None,
        maximize: bool = False,
        process_group: ProcessGroup | None = None,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool | None = False,
        differentiable: bool | None = False,
    ) -> None: ...
