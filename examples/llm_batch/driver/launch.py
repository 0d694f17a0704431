"""Become a program that dies with the driver: python -I -S launch.py DRIVER_PID PROGRAM ARGUMENT ...

The driver must start this from its main thread: the kernel watches the thread that forked.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):  # it died before the kernel was asked
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
