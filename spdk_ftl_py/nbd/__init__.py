"""NBD: the handshake, and servers on unix sockets. The shim serves connections after the handshake."""
