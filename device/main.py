"""Start the node."""

from node import app

app.main()
