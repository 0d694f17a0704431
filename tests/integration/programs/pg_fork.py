"""A lent connection is closed, a file takes its number, and the process forks."""

import os
from pathlib import Path

from pg_world import answer, connect, postgres

pool = postgres.ConnectionPool(connect, max_size=2)
conn, kept = pool.getconn(), pool.getconn()
number = conn.fileno()
conn.close()
file = os.open("/etc/hostname", os.O_RDONLY)
while file < number:  # the lowest free number is taken
    file = os.dup(file)
kept_number = kept.fileno()
reader, writer = os.pipe()
pid = os.fork()
if pid == 0:
    seen = [str(Path(f"/proc/self/fd/{one}").readlink()) for one in (number, kept_number)]
    os.write(writer, "\n".join(seen).encode())
    os._exit(0)
os.close(writer)
said = os.read(reader, 1000).decode().split("\n")
os.waitpid(pid, 0)
kept.cursor().execute("select 1")
pool.putconn(kept)
answer(reused=file == number, child=said)
os._exit(0)
