"""Start the node."""

from node import start

start.main()
