# The ssl module that images freeze over the built-in tls.
from tls import *
import tls


def wrap_socket(
    sock, server_side=False, key=None, cert=None, cert_reqs=0, cadata=None,
    server_hostname=None, do_handshake=True,
):
    context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER if server_side else tls.PROTOCOL_TLS_CLIENT)
    if cert or key:
        context.load_cert_chain(cert, key)
    if cadata:
        context.load_verify_locations(cadata)
    context.verify_mode = cert_reqs
    return context.wrap_socket(
        sock, server_side=server_side, do_handshake_on_connect=do_handshake,
        server_hostname=server_hostname,
    )
