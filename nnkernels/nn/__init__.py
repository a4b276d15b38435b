"""Models, their training, and what surrounds it."""

from nnkernels.nn.callbacks import Callback, Checkpoint, EarlyStopping, ProgressBar
from nnkernels.nn.checkpoint import load_model, save_model
from nnkernels.nn.history import Epoch, History
from nnkernels.nn.layers import Activation, BatchNorm, Dropout, Layer, LayerNorm, Linear
from nnkernels.nn.losses import Loss
from nnkernels.nn.model import MLP, Architecture, Model
from nnkernels.nn.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from nnkernels.nn.schedules import Constant, Cosine, Exponential, Schedule, StepDecay, WarmUp
from nnkernels.nn.trainer import Trainer

__all__ = [
    "MLP",
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "Architecture",
    "BatchNorm",
    "Callback",
    "Checkpoint",
    "Constant",
    "Cosine",
    "Dropout",
    "EarlyStopping",
    "Epoch",
    "Exponential",
    "History",
    "Layer",
    "LayerNorm",
    "Linear",
    "Loss",
    "Model",
    "Optimizer",
    "ProgressBar",
    "RMSprop",
    "Schedule",
    "StepDecay",
    "Trainer",
    "WarmUp",
    "load_model",
    "save_model",
]
