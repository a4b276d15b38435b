"""Entry points that lead to no backend, or to one of another name."""

from nnkernels.backend import Backend
from nnkernels.backends._host import HOST, HostDevice
from nnkernels.program import Interpreter

NUMBER = 42


class DeadDevice(HostDevice):
    def available(self):
        return "the device sleeps; wake it"


class BrokenDevice(HostDevice):
    def available(self):
        raise OSError("no such driver")


def load():
    return "a backend, honestly"


def misnamed():
    return Backend("numpy", HOST, {}, Interpreter)


def asleep():
    return Backend("asleep", DeadDevice(), {}, Interpreter)


def driverless():
    return Backend("driverless", BrokenDevice(), {}, Interpreter)
