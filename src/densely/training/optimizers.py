"""The optimizers that Keras lacks: SGD as the paper ran it, and Muon for convolutions."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

_READ_AT_ONCE = ("cpu",)
"""Devices that nobody has to wait for."""


@keras.saving.register_keras_serializable(package="densely")
class CoupledSGD(keras.optimizers.SGD):
    """SGD whose weight decay is coupled: each gradient g becomes g + λ·w before momentum sees it.

    Keras's own `weight_decay` is decoupled (w shrinks by lr·λ beside the update, outside the momentum); the
    paper's code (Torch `optim.sgd`) couples it, on kernels, γ, β and biases alike.

    Args:
        learning_rate: step size.
        momentum: 0 to 1 (default 0.9).
        nesterov: look ahead (default `True`).
        coupled_decay: λ (default 0).
        beta_factor: the shifts β of batch normalisation learn at so many times the rate (default 1). Their gradients
            are small: in a short training they hardly move (Jordan 2024, *94 % on CIFAR-10 in 3.29 seconds on a
            single GPU*, Section 3.4, takes 64).
        layer_rates: by the name of a model's layer, how many times the rate its variables learn at (default: all 1);
            see `densely.fine_tuning.stage_rates`. Of a shift β both factors count.
        **kwargs: as in `keras.optimizers.SGD`.
    """

    def __init__(
        self,
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        nesterov: bool = True,
        coupled_decay: float = 0.0,
        beta_factor: float = 1.0,
        layer_rates: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, momentum=momentum, nesterov=nesterov, **kwargs)
        self.coupled_decay = coupled_decay
        self.beta_factor = beta_factor
        self.layer_rates = dict(layer_rates or {})

    def factor(self, variable: Any) -> float:
        """How many times the learning rate a variable learns at."""
        if self.beta_factor == 1.0 and not self.layer_rates:  # the names of 300 variables take a millisecond of a step
            return 1.0
        layer = self.layer_rates.get(variable.path.split("/")[0], 1.0)
        return layer * self.beta_factor if variable.name == "beta" else layer

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        factors = [self.factor(v) for v in trainable_variables]
        for factor in dict.fromkeys(factors):  # all variables of a rate at once
            alike = [(g, v) for g, v, f in zip(grads, trainable_variables, factors, strict=True) if f == factor]
            self._move([g for g, _ in alike], [v for _, v in alike], learning_rate * factor)

    def _move(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        if keras.backend.backend() == "torch":
            self._update_all_at_once(grads, trainable_variables, learning_rate)
        else:
            decayed = [
                g + keras.ops.cast(self.coupled_decay, g.dtype) * v
                for g, v in zip(grads, trainable_variables, strict=True)
            ]
            super()._backend_update_step(decayed, trainable_variables, learning_rate)

    def _update_all_at_once(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        from densely.kernels import sgd

        on_host = trainable_variables[0].value.device.type in _READ_AT_ONCE
        velocity = None
        if self.momentum:
            velocity = [self.momentums[self._get_variable_index(v)].value for v in trainable_variables]
        sgd.update(
            [v.value for v in trainable_variables],
            grads,
            velocity,
            rate=float(learning_rate) if on_host else keras.ops.convert_to_tensor(learning_rate),
            momentum=self.momentum,
            decay=self.coupled_decay,
            nesterov=self.nesterov,
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this optimizer again."""
        return {
            **super().get_config(),
            "coupled_decay": self.coupled_decay,
            "beta_factor": self.beta_factor,
            "layer_rates": self.layer_rates,
        }


@keras.saving.register_keras_serializable(package="densely")
class Muon(CoupledSGD):
    """SGD for everything but convolution kernels, which move by orthogonalised momentum on a sphere.

    A kernel (h, w, in, out) is read as a matrix with one row an output map. Its Nesterov momentum is replaced by the
    nearest matrix with all singular values about 1 (Jordan et al. 2024, *Muon*; five-term Newton-Schulz), so that no
    direction of the kernel learns much faster than another. As every convolution of a DenseNet is normalised by
    whoever reads it, a kernel's length means nothing; before each step it is set to √out, so that the learning rate is
    the relative length of a step whatever the layer. Keras's own `Muon` leaves convolutions to Adam.

    Args:
        *args, **kwargs: as in `CoupledSGD`. The learning rate is of both kinds; momentum, Nesterov and decay are of
            what SGD moves (the decay has no say over kernels, their length is fixed).
        kernel_momentum: of the orthogonalised kernels (default 0.6).
        newton_schulz_steps: more give singular values closer to 1 (default 3).
    """

    momentums: list[Any]

    def __init__(self, *args: Any, kernel_momentum: float = 0.6, newton_schulz_steps: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kernel_momentum = kernel_momentum
        self.newton_schulz_steps = newton_schulz_steps

    def build(self, variables: Any) -> None:
        """Create the momentum of every variable; kernels need one even where SGD's is 0."""
        if self.built:
            return
        super().build(variables)
        momentums: list[Any] = self.momentums or [None] * len(variables)
        for i, variable in enumerate(variables):
            if len(variable.shape) == 4 and momentums[i] is None:
                momentums[i] = self.add_variable_from_reference(variable, name="momentum")
        self.momentums = momentums

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        kernels, others = _parted(grads, trainable_variables, lambda v: len(v.shape) == 4)
        super()._backend_update_step(*others, learning_rate)
        for gradient, kernel in zip(*kernels, strict=True):
            self._turn(gradient, kernel, learning_rate * self.factor(kernel))

    def _turn(self, gradient: Any, kernel: Any, learning_rate: Any) -> None:
        outputs = kernel.shape[-1]
        velocity = self.momentums[self._get_variable_index(kernel)]
        velocity.assign(self.kernel_momentum * velocity + gradient)
        ahead = keras.ops.reshape(gradient + self.kernel_momentum * velocity, (-1, outputs))
        step = keras.ops.reshape(orthogonalised(ahead, self.newton_schulz_steps), kernel.shape)
        length = keras.ops.sqrt(keras.ops.sum(keras.ops.square(kernel))) + 1e-12
        kernel.assign(kernel * (outputs**0.5 / length) - learning_rate * step)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this optimizer again."""
        return {
            **super().get_config(),
            "kernel_momentum": self.kernel_momentum,
            "newton_schulz_steps": self.newton_schulz_steps,
        }


def _parted(grads: Any, variables: Any, chosen: Callable[[Any], bool]) -> list[tuple[list[Any], list[Any]]]:
    """Gradients and variables of the chosen ones, and of the others."""
    pairs = list(zip(grads, variables, strict=True))
    return [
        ([g for g, v in pairs if chosen(v) == of_them], [v for _, v in pairs if chosen(v) == of_them])
        for of_them in (True, False)
    ]


def orthogonalised(matrix: Any, steps: int) -> Any:
    """A matrix with the singular vectors of `matrix` and singular values near 1 (between about 0.7 and 1.2).

    Newton-Schulz iterations of a quintic whose coefficients pull small singular values up fast (Jordan et al. 2024):
    matrix products only. Values far below the greatest need more `steps` to arrive. A step multiplies a tall X by a
    polynomial in XᵀX, which is small: up to three steps go on with XᵀX alone, and X is multiplied once for them all.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    matmul, transpose = keras.ops.matmul, keras.ops.transpose
    wide = matrix.shape[0] < matrix.shape[1]
    x = transpose(matrix) if wide else matrix
    x = x / (keras.ops.sqrt(keras.ops.sum(keras.ops.square(x))) + 1e-7)
    identity = keras.ops.eye(x.shape[1], dtype=x.dtype)
    for begun in range(0, steps, 3):
        # Made anew from X after three steps: rounding may leave XᵀX a negative eigenvalue, which steps blow up.
        square, factor = matmul(transpose(x), x), identity
        for _ in range(min(3, steps - begun)):
            once = a * identity + b * square + c * matmul(square, square)
            square, factor = matmul(matmul(once, square), once), matmul(once, factor)
        x = matmul(x, factor)
    return transpose(x) if wide else x
