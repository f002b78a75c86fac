"""What the benchmarks of packet rules measure: the time of a new TCP connection.

bench-connect.py serve                    accepts on port 80 and closes
bench-connect.py ask ADDRESS PORT COUNT   connects so many times: microseconds, a line each
"""

import socket
import struct
import sys
import time


def serve():
    server = socket.create_server(("0.0.0.0", 80), backlog=1024)
    while True:
        server.accept()[0].close()


def ask(address, port, count):
    for _ in range(int(count)):
        client = socket.socket()
        # Closed by a reset, so that no port stays in TIME_WAIT.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        start = time.perf_counter_ns()
        client.connect((address, int(port)))
        print((time.perf_counter_ns() - start) / 1000)
        client.close()


{"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
