"""A step as data (Program), what it runs on (State), and what runs it (an Executable)."""

from nnkernels.program.autodiff import differentiate
from nnkernels.program.builder import Builder
from nnkernels.program.format import Entry, Instruction, Layout, Program, Slot
from nnkernels.program.interpreter import Interpreter
from nnkernels.program.rewrite import specialise
from nnkernels.program.state import State

__all__ = [
    "Builder",
    "Entry",
    "Instruction",
    "Interpreter",
    "Layout",
    "Program",
    "Slot",
    "State",
    "differentiate",
    "specialise",
]
