"""Two native threads open connections of one alias at the same moment; the settings stay whole."""

import threading

from dj_world import answer, set_up

set_up()
from django.db import connection
from django.db.backends.postgresql import base as django_base

both_inside, first_is_done = threading.Barrier(2, timeout=10), threading.Event()
plain = django_base.DatabaseWrapper.get_connection_params
entered = []


def slow(self):
    entered.append(threading.get_ident())
    both_inside.wait()
    if threading.get_ident() != entered[0]:
        first_is_done.wait(10)  # who came second puts back last
    return plain(self)


def read():
    wrapper.get_connection_params()
    if threading.get_ident() == entered[0]:
        first_is_done.set()


django_base.DatabaseWrapper.get_connection_params = slow
wrapper = connection._connections["default"] if hasattr(connection, "_connections") else connection
threads = [threading.Thread(target=read) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
answer(met=len(entered), left=sorted(wrapper.settings_dict["OPTIONS"]))
