"""The trainer: fits a model on a backend, and predicts with it."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnkernels.backend import Backend
from nnkernels.dispatch import get_backend
from nnkernels.errors import (
    DivergedError,
    InputError,
    ProgramError,
    TrainingInterrupted,
    unknown,
)
from nnkernels.nn.arrays import Samples, check_features, check_samples
from nnkernels.nn.callbacks import Callback, ProgressBar
from nnkernels.nn.checks import check_arrays, check_names, check_number, check_whole
from nnkernels.nn.epochs import PER_EPOCH, Epochs, FitSettings, finite, reset
from nnkernels.nn.history import Epoch, History
from nnkernels.nn.interrupts import Pending, deferred
from nnkernels.nn.lowering import (
    Step,
    check_metrics,
    evaluate_program,
    gradient_program,
    predict_program,
    train_program,
)
from nnkernels.nn.model import Model
from nnkernels.nn.optimizers import Optimizer, as_optimizer
from nnkernels.nn.passes import Pass
from nnkernels.nn.schedules import ScheduleLike, as_schedule, rates
from nnkernels.program import Program, State
from nnkernels.spec import Array

BATCH_ROWS = 32
"""Rows of a step where nobody says how many, and there are as many."""


class Trainer:
    """Trains a model on one backend.

    Args:
        model: what is trained; its arrays receive the trained values when ``fit`` ends.
        optimizer: ``"sgd"``, ``"momentum"``, ``"nesterov"``, ``"rmsprop"``, ``"adam"``,
            ``"adamw"``, or an :class:`~nnkernels.nn.Optimizer`.
        learning_rate: replaces the optimizer's own.
        backend: a name or a Backend; bound now, whatever ``nnkernels.use`` says later. ``"auto"``
            takes the available CPU backend with the highest priority; ``history.backend`` says
            which.
        metrics: of ``accuracy``, ``mae``, ``mse``, one name or several; by default the accuracy
            for classifiers.
        schedule: a name, a :class:`~nnkernels.nn.Schedule` or a function of the steps' numbers and
            the steps of an epoch; by default constant.
        clip_norm: largest norm of the whole gradient.
        clip_value: largest magnitude of a gradient's element.
    """

    def __init__(
        self,
        model: Model,
        optimizer: str | Optimizer = "sgd",
        *,
        learning_rate: float | None = None,
        backend: str | Backend = "auto",
        metrics: str | Sequence[str] | None = None,
        schedule: str | ScheduleLike | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        if not isinstance(model, Model):
            raise InputError(f"Trainer: model must be an MLP or another Model, got {model!r}")
        self.model = model
        self.optimizer = as_optimizer(optimizer, learning_rate)
        self.backend = get_backend(backend)
        chosen = metrics if metrics is not None else _default_metrics(model)
        self.metrics = check_metrics(check_names("Trainer: metrics", chosen))
        self.schedule = _check_schedule(schedule)
        for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if value is not None:
                check_number(f"Trainer: {name}", value, "(0,inf)")
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.history = History(self.backend.name)
        self.settings: FitSettings | None = None
        self.state = self._first_state()
        self._training = threading.Lock()

    # --- state -----------------------------------------------------------------------------

    def _step(self, *, labels: bool) -> Step:
        return Step(
            self.optimizer,
            self.metrics,
            labels,
            clip_value=self.clip_value,
            clip_norm=self.clip_norm,
        )

    def _empty_state(self, steps: int) -> State:
        """A State of zeros for epochs of ``steps`` steps."""
        labels = self.model.loss.takes_labels
        program = train_program(self.model, 1, replace(self._step(labels=labels), schedule=steps))
        return State(program.layout, self.backend.device)

    def _first_state(self) -> State:
        state = self._empty_state(1)
        for name, array in {**self.model.parameters, **self.model.statistics}.items():
            state.set(name, array)
        state.set("seed", self.model.seed)
        return state

    def _make_room(self, steps: int) -> None:
        """Let the State hold the learning rates of ``steps`` steps."""
        if self.state.layout.buffers["schedule"][1] == steps:
            return
        state = self._empty_state(steps)
        for name, buffer in self.state.buffers.items():
            if name != "schedule":
                state.buffers[name][...] = buffer
        self.state = state

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.history)

    def weights(self) -> dict[str, Array]:
        """Copies of all parameters and statistics."""
        names = [*self.model.parameters, *self.model.statistics]
        return {name: self.state.get(name) for name in names}

    def set_weights(self, values: Mapping[str, Any]) -> None:
        """Replace parameters and statistics by name; shapes must agree, else nothing changes."""
        known = {**self.model.parameters, **self.model.statistics}
        for name, value in check_arrays(known, values).items():
            self.state.set(name, value)
        self._update_model()

    def _update_model(self) -> None:
        self.model.set_parameters(self.weights())

    # --- training --------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        epochs: int = 1,
        batch_size: int | Literal["auto"] | None = "auto",
        shuffle: bool = True,
        validation_data: tuple[Any, Any] | None = None,
        callbacks: Sequence[Callback] = (),
        record: str | Sequence[str] = (),
        progress: bool = True,
    ) -> History:
        """Train for ``epochs`` more epochs.

        Args:
            x: features (n, inputs); numbers of any real dtype, brought to the model's. What a GPU
                has no room for is streamed in batches, with a warning and the same results.
            y: class labels (n), or rows (n, outputs); with one output also (n). Labels become
                one-hot rows where the loss takes no labels.
            epochs: number of passes over the data.
            batch_size: samples of a step: 1 is single-sample descent, None the full batch,
                ``"auto"`` 32, or all where there are fewer; a last short batch is trained too.
            shuffle: a new order every epoch, from the model's seed, the same on every backend.
            validation_data: ``(x, y)`` evaluated after every epoch.
            callbacks: see :class:`~nnkernels.nn.Callback`.
            record: name of an array (``linear0.weight``, ``linear0.weight.gradient``), or several,
                copied into ``history.recorded`` after every epoch.
            progress: show a bar on stderr when that is a terminal.

        Returns:
            The history, which is also ``trainer.history``.

        Raises:
            InputError and its children: bad arrays or settings; nothing is changed.
            ProgramError: this trainer is training already, in another thread or around a callback.
            DivergedError: a loss or weight became NaN or infinite; weights and history of the last
                good step are kept. The epoch is over: ``fit`` again begins it anew from there,
                with these settings or others.
            TrainingInterrupted: Ctrl-C or SIGTERM, after a whole step; ``fit`` again continues
                within the epoch, with the same data and settings.
        """
        with self._alone():
            samples = check_samples(self.model, x, y, "fit")
            validation = self._validation(validation_data)
            settings = self._settings(len(samples), batch_size, shuffle, epochs)
            recorded = self._recorded(record)
            own = [ProgressBar()] if progress else []
            hooks = [*own, *_check_callbacks(callbacks, self._figures(validation))]
            runner = self._prepare(samples, settings)
            judge = None if validation is None else self._evaluation(validation)
            self._run_epochs(runner, epochs, hooks, judge, recorded)
        return self.history

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Refuse a second ``fit`` while one runs: both would write the same weights."""
        if not self._training.acquire(blocking=False):
            raise ProgramError(
                "fit: this Trainer is already training, in another thread or around this callback; "
                "wait for its end, or make a second Trainer"
            )
        try:
            yield
        finally:
            self._training.release()

    def _run_epochs(
        self,
        runner: Epochs,
        epochs: int,
        hooks: Sequence[Callback],
        validation: Pass | None,
        record: Sequence[str],
    ) -> None:
        schedule = as_schedule(self.schedule, self.epoch + epochs)
        with deferred() as pending, self._hooked(hooks, epochs):
            self.history.stop_reason = "epochs"
            for _ in range(epochs):
                self._train_epoch(runner, schedule, hooks, pending)
                values = self._finish_epoch(runner, validation, record)
                reason = _first_reason(hooks, self, values)
                self._check_interrupt(pending)
                if reason:
                    self.history.stop_reason = reason
                    break

    def _figures(self, validation: Samples | None) -> tuple[str, ...]:
        """Names of the figures that every epoch of a ``fit`` gives."""
        names = ("loss", *self.metrics)
        return names if validation is None else (*names, *(f"val_{name}" for name in names))

    def _recorded(self, record: Any) -> tuple[str, ...]:
        names = check_names("fit: record", record)
        for name in names:
            if name not in self.state.names():
                raise unknown("array to record", name, self.state.names())
        return names

    def _validation(self, data: tuple[Any, Any] | None) -> Samples | None:
        if data is None:
            return None
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise InputError("fit: validation_data must be a pair (x, y)")
        return check_samples(self.model, *data, "fit: validation_data")

    def _settings(
        self, rows: int, batch_size: int | str | None, shuffle: bool, epochs: int
    ) -> FitSettings:
        check_whole("fit: epochs", epochs, 0)
        if not isinstance(shuffle, (bool, np.bool_)):
            raise InputError(f"fit: shuffle must be True or False, got {shuffle!r}")
        batch = _batch_rows(batch_size, rows)
        if batch > rows:
            raise InputError(f"fit: batch_size {batch} is larger than the data ({rows} rows)")
        settings = FitSettings(rows, batch, bool(shuffle))
        if self.state.number("epoch_step") and settings != self.settings:
            raise InputError(
                f"fit: training stands inside an epoch with {self.settings}; continue with the "
                f"same data and settings, got {settings}"
            )
        return settings

    def _prepare(self, samples: Samples, settings: FitSettings) -> Epochs:
        self._make_room(settings.steps)
        self.settings = settings
        step = self._step(labels=samples.labels)
        return Epochs(self.backend, self.model, self.state, samples, step, settings)

    @contextlib.contextmanager
    def _hooked(self, hooks: Sequence[Callback], epochs: int) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            stack.callback(self._update_model)
            for hook in reversed(hooks):  # what is pushed last is called first
                stack.callback(hook.train_end, self)
            for hook in hooks:
                hook.train_begin(self, epochs)
            yield

    def _train_epoch(
        self, runner: Epochs, schedule: ScheduleLike, hooks: Sequence[Callback], pending: Pending
    ) -> None:
        self._started = time.perf_counter()
        first = int(self.state.number("step")) - runner.done
        rate = self.optimizer.rate
        runner.begin(self.epoch, rates(schedule, rate, first, runner.steps, runner.steps))
        start = self.state.snapshot()

        def report(done: int) -> None:
            for hook in hooks:
                hook.progress(self, self.epoch, done, runner.steps)

        complete = runner.run(lambda: bool(pending), report)
        if runner.diverged or not finite(self.state):
            self._stop_diverged(runner, start)
        if not complete:
            self._check_interrupt(pending)

    def _stop_diverged(self, runner: Epochs, start: dict[str, Array]) -> None:
        tensor = runner.first_bad() if runner.diverged else self._first_bad_array()
        if not finite(self.state):
            runner.replay_finite(start)
        runner.finish()
        self.history.stop_reason = "diverged"
        step = int(self.state.number("step"))
        raise DivergedError(
            f"training diverged in epoch {self.epoch}, step {step}: {tensor!r} is not finite; the "
            f"weights after step {step} are kept. Lower the learning rate (now "
            f"{self.optimizer.rate:g}), clip the gradient (clip_norm=) or scale the data",
            epoch=self.epoch,
            step=step,
            tensor=tensor,
        )

    def _first_bad_array(self) -> str:
        names = [*self.model.parameters, *self.state.names()]
        return next((n for n in names if not np.isfinite(self.state.get(n)).all()), "a moment")

    def _check_interrupt(self, pending: Pending) -> None:
        if pending.signal is not None:
            pending.answered = True
            self.history.stop_reason = pending.name
            step = int(self.state.number("step"))
            raise TrainingInterrupted(
                f"training ended by {pending.name} after step {step}; fit() continues from there",
                signal=pending.signal,
            )

    def _finish_epoch(
        self, runner: Epochs, validation: Pass | None, record: Sequence[str]
    ) -> Epoch:
        values = self._read_sums(runner.rows)
        runner.finish()
        if validation is not None:
            values |= {f"val_{k}": v for k, v in self._evaluate(validation).items()}
        names = self.model.parameters
        norms = {n: _norm(self.state.get(f"{n}.gradient")) for n in names}
        for name in record:
            self.history.recorded.setdefault(name, []).append(self.state.get(name))
        epoch = Epoch(
            self.epoch,
            int(self.state.number("step")),
            float(self.state.number("learning_rate")),
            time.perf_counter() - self._started,
            values,
            norms,
        )
        self.history.epochs.append(epoch)
        return epoch

    def _read_sums(self, rows: int) -> dict[str, float]:
        sums = ["loss_sum", *(f"metric{i}" for i in range(len(self.metrics)))]
        return {
            name: float(self.state.number(total)) / rows
            for name, total in zip(("loss", *self.metrics), sums, strict=True)
        }

    # --- inference -------------------------------------------------------------------------

    def evaluate(self, x: Any, y: Any) -> dict[str, float]:
        """Mean loss (without penalties) and metrics in inference mode."""
        return self._evaluate(self._evaluation(check_samples(self.model, x, y, "evaluate")))

    def _evaluation(self, samples: Samples) -> Pass:
        def program(rows: int) -> Program:
            return evaluate_program(self.model, rows, labels=samples.labels, metrics=self.metrics)

        return Pass(self.backend, self.state, program, x=samples.x, y=samples.y)

    def _evaluate(self, evaluation: Pass) -> dict[str, float]:
        """Loss and metrics."""
        with _own_counts(self.state):
            evaluation.run()
            return self._read_sums(evaluation.rows)

    def outputs(self, x: Any) -> Array:
        """The model's raw outputs (n, outputs): values or logits."""
        return self._predict(x, None)

    def predict_proba(self, x: Any) -> Array:
        """Probabilities (n, outputs) of a classifier."""
        if not self.model.loss.classifies:
            raise InputError(
                f"predict_proba: a model trained by {self.model.loss.name} gives values, "
                "not probabilities; use predict()"
            )
        return self._predict(x, self.model.loss.link)

    def predict(self, x: Any) -> Array:
        """Class labels (n) int64 of a classifier; else the outputs (n, outputs)."""
        outputs = self.outputs(x)
        if not self.model.loss.classifies:
            return outputs
        if self.model.outputs == 1:
            return np.asarray(outputs[:, 0] > self.model.loss.threshold, np.int64)
        return np.asarray(outputs.argmax(1), np.int64)

    def _predict(self, x: Any, link: str | None) -> Array:
        features = check_features(self.model, x, "predict: X")
        shape = len(features), self.model.outputs
        result = self.backend.device.empty(shape, self.model.dtype)

        def program(rows: int) -> Program:
            return predict_program(self.model, rows, link=link)

        if len(features):
            inference = Pass(self.backend, self.state, program, x=features, prediction=result)
            with _own_counts(self.state):
                inference.run()
        return self.backend.to_numpy(result)

    def gradients(self, x: Any, y: Any) -> tuple[float, dict[str, Array]]:
        """Loss of one batch (penalties included) and its gradient for every parameter, by name.

        Dropout and batch normalisation act as in training; nothing is updated.
        """
        samples = check_samples(self.model, x, y, "gradients")
        program = gradient_program(self.model, len(samples), labels=samples.labels)
        executable = self.backend.bind(program, self.state)
        with _own_counts(self.state):
            executable.feed(x=self.backend.asarray(samples.x), y=self.backend.asarray(samples.y))
            executable.run(1)
            loss = float(executable.fetch("loss"))
            return loss, {n: self.state.get(f"{n}.gradient") for n in self.model.parameters}

    def step_program(self, rows: int, *, shuffle: bool = True) -> Program:
        """The Program of one training step on ``rows`` rows, as :meth:`fit` runs it.

        ``shuffle`` says whether its rows are gathered by a shuffled order.
        """
        check_whole("step_program: rows", rows, 1)
        step = self._step(labels=self.model.loss.takes_labels)
        return train_program(self.model, rows, replace(step, gather=rows if shuffle else None))

    def summary(self) -> str:
        """The model's arrays and parameter counts."""
        return self.model.summary()

    # --- files -----------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write a checkpoint: weights, optimizer state, counters, history; atomically."""
        from nnkernels.nn.checkpoint import save_trainer

        save_trainer(self, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        model: Model | None = None,
        backend: str | Backend = "auto",
        schedule: str | ScheduleLike | None = None,
    ) -> Trainer:
        """A trainer that continues where the checkpoint stands.

        Args:
            path: file written by :meth:`save`.
            model: needed when the checkpoint is not of an MLP; its arrays must fit.
            backend: where to go on.
            schedule: needed when the saved one was a function of the user's.
        """
        from nnkernels.nn.checkpoint import load_trainer

        return load_trainer(path, model=model, backend=backend, schedule=schedule)


def _batch_rows(batch_size: Any, rows: int) -> int:
    """``fit``'s argument as a number."""
    if batch_size is None:
        return rows
    if isinstance(batch_size, str) and batch_size == "auto":
        return min(BATCH_ROWS, rows)
    return check_whole("fit: batch_size (or 'auto', or None)", batch_size, 1)


def _check_schedule(schedule: str | ScheduleLike | None) -> str | ScheduleLike | None:
    """``schedule`` as given, known by name or callable with its two arguments."""
    function = as_schedule(schedule, 1)
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise InputError(
            f"Trainer: schedule must take two arguments, the numbers of the steps (an array) and "
            f"the steps of an epoch: {error}"
        ) from error
    except ValueError:  # a built-in function without a signature: its values are checked
        pass
    return schedule


def _check_callbacks(callbacks: Any, figures: Sequence[str]) -> list[Callback]:
    """The callbacks of a ``fit`` whose epochs give ``figures``, each of them content with that."""
    if not isinstance(callbacks, Iterable):
        raise InputError(
            f"fit: callbacks must be a list of Callbacks, got {callbacks!r}; "
            "put a single one in brackets: [callback]"
        )
    checked = list(callbacks)
    for callback in checked:
        if not isinstance(callback, Callback):
            raise InputError(
                f"fit: callbacks must be objects of classes derived from nnkernels.nn.Callback, "
                f"got {callback!r}"
            )
        callback.check(figures)
    return checked


def _norm(gradient: Array) -> float:
    """Euclidean norm, scaled so that the squares of large elements do not overflow."""
    wide = gradient.astype(np.float64)
    largest = float(np.abs(wide).max(initial=0))
    if largest == 0 or not np.isfinite(largest):
        return largest
    return largest * float(np.linalg.norm(wide / largest))


def _default_metrics(model: Model) -> tuple[str, ...]:
    return ("accuracy",) if model.loss.classifies else ()


def _first_reason(hooks: Sequence[Callback], trainer: Trainer, record: Epoch) -> str | None:
    """Call all hooks; why the first of them wants to stop."""
    reasons = [hook.reason for hook in hooks if hook.epoch_end(trainer, record)]
    return reasons[0] if reasons else None


@contextlib.contextmanager
def _own_counts(state: State) -> Iterator[None]:
    """Count from 0, and put back scalars and counters: inference leaves a started epoch alone."""
    names = ("scalars", "counters")
    kept = {b: np.array(state.device.to_numpy(state.buffers[b])) for b in names}
    reset(state, PER_EPOCH)
    try:
        yield
    finally:
        state.restore(kept)
