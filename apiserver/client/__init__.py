"""How every component talks to the API; stands on apiserver.api alone.

requests (sans-I/O core) is shared by client over a transport (http11: sockets, inprocess: an ASGI app) and by blocking (the CLI). informer, workqueue, leader and
events build on client. Import the module you need: nothing is loaded from here.
"""
