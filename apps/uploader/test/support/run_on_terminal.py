"""Runs a program on a pseudo-terminal: run_on_terminal.py COLUMNS ROWS PROGRAM [ARGUMENT...]

What it writes comes out on stdout. Lines on stdin: `resize COLUMNS ROWS`, and `type TEXT` (escapes as in Python).
Exits with the program's own code.
"""

import fcntl
import os
import pty
import select
import struct
import sys
import termios


def set_size(fd, columns, rows):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def obey(terminal, line):
    verb, _, rest = line.partition(" ")
    if verb == "resize":
        columns, rows = rest.split()
        set_size(terminal, int(columns), int(rows))
    elif verb == "type":
        os.write(terminal, rest.encode().decode("unicode_escape").encode())


pid, terminal = pty.fork()
if pid == 0:
    set_size(1, int(sys.argv[1]), int(sys.argv[2]))
    os.execvp(sys.argv[3], sys.argv[3:])

commands = sys.stdin.fileno()
sources = [terminal, commands]
unfinished = b""
while True:
    ready, _, _ = select.select(sources, [], [])
    if commands in ready:
        # Not readline(): of two lines that come at once it would keep the second, and select() not know of it.
        data = os.read(commands, 65536)
        if not data:
            sources.remove(commands)
        *lines, unfinished = (unfinished + data).split(b"\n")
        for line in lines:
            obey(terminal, line.decode())
    if terminal in ready:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux says EIO where the program has closed its side
            data = b""
        if not data:
            break
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
