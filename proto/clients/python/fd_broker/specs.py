"""Where listeners listen."""

from __future__ import annotations

import os
import socket
import stat
from typing import Any

from .errors import FdBrokerError

Spec = dict[str, Any]

_BACKLOG = 4096

def parse_spec(spec: str) -> Spec:
    """`tcp://HOST:PORT`, `tcp://[V6]:PORT`, `tcp://*:PORT` or `unix:/PATH`, with `?backlog=N`, `?reusePort`, `?mode=0660`."""
    head, _, query = spec.partition('?')
    options = dict(pair.partition('=')[::2] for pair in query.split('&') if pair)

    def refuse(why: str) -> FdBrokerError:
        return FdBrokerError('ERR_FDB_SPEC', f'the listener {spec} is wrong: {why}')

    unknown = set(options) - {'backlog', 'reusePort', 'mode'}
    if unknown:
        raise refuse(f'{sorted(unknown)[0]} is not known here')
    backlog = int(options.get('backlog') or _BACKLOG)
    if head.startswith('unix:'):
        path = head[5:]
        path = path[2:] if path.startswith('///') else path
        path = path.replace('%3F', '?').replace('%25', '%')
        if not path.startswith('/'):
            raise refuse('its path must be absolute')
        mode = int(options['mode'], 8) if 'mode' in options else None
        return {'kind': 'unix', 'host': '', 'port': 0, 'path': path, 'backlog': backlog, 'mode': mode}
    if not head.startswith('tcp://'):
        raise refuse('write tcp://HOST:PORT or unix:/PATH')
    host, colon, port = head[6:].rpartition(':')
    if not colon or not port.isdigit() or int(port) > 65535:
        raise refuse('its port is missing')
    both = host == '*'
    host = '::' if both else host[1:-1] if host.startswith('[') else host
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        socket.inet_pton(family, host)
    except OSError:
        raise refuse('its host must be an IP address') from None
    reuse_port = options.get('reusePort', 'false') in ('', 'true', '1')
    return {
        'kind': 'tcp', 'host': host, 'port': int(port), 'path': '', 'backlog': backlog, 'family': family, 'both': both,
        'reuse_port': reuse_port,
    }


def same_address(one: Spec, other: Spec) -> bool:
    return all(one[fact] == other[fact] for fact in ('kind', 'host', 'port', 'path'))


def bind(spec: Spec) -> int:
    try:
        if spec['kind'] == 'unix':
            return _bind_unix(spec)
        with socket.socket(spec['family'], socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if spec['reuse_port']:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if spec['family'] == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if spec['both'] else 1)
            sock.bind((spec['host'], spec['port']))
            sock.listen(spec['backlog'])
            return sock.detach()
    except OSError as error:
        where = spec['path'] or f'{spec["host"]} port {spec["port"]}'
        raise FdBrokerError('ERR_FDB_BIND', f'cannot listen on {where}: {error}') from error


def _bind_unix(spec: Spec) -> int:
    path = spec['path']
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(path)
        except OSError:
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) == 0:
                    raise
            # The socket has no listening process.
            os.unlink(path)
            sock.bind(path)
        if spec['mode'] is not None:
            os.chmod(path, spec['mode'])
        sock.listen(spec['backlog'])
        return sock.detach()
