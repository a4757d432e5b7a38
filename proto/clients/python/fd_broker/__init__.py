"""A member of fd-broker in Python: a server that is replaced by its next version, in any language, without refusing,
failing or closing one connection.

The package speaks the protocol that docs/protocol.md describes, with a daemon (``fd-broker serve``) as the holder. Linux, Python
3.9 or newer, the standard library alone.

    member = fd_broker.join('/run/shop/daemon.sock', 'shop')
    prices = member.section('prices')
    web = member.listen('web', 'tcp://0.0.0.0:8080')
    server = http.server.ThreadingHTTPServer(('', 0), Handler, bind_and_activate=False)
    threading.Thread(target=web.serve, args=(server,)).start()
    member.ready()
    member.wait()           # until another version serves, for good
    server.server_close()   # ends with the last request
"""

from .errors import FdBrokerError, ListenerClosed
from .listeners import Listener
from .member import Member, join
from .sections import Section

__all__ = ['FdBrokerError', 'Listener', 'ListenerClosed', 'Member', 'Section', 'join']
__version__ = '0.4.0'
