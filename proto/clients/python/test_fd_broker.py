"""Holds fd_broker to the vectors of the project (test/vectors) and to logs that its first release has written."""

import base64
import errno
import fcntl
import json
import os
import re
import socket
import threading
import unittest
import unittest.mock

import fd_broker.link
from fd_broker import FdBrokerError, join
from fd_broker.channel import Channel
from fd_broker.drain import Drain
from fd_broker.frames import FrameDecoder, frame
from fd_broker.identity import difference, identity_of
from fd_broker.log import Digest, StateLog
from fd_broker.machine import initial_member, step_member
from fd_broker.member import Member
from fd_broker.messages import LISTENER, MESSAGES, NAMED, SEGMENT, decode, encode
from fd_broker.segment import SEAL_WRITE, Segment, state_frame
from fd_broker.specs import bind, parse_spec

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.join(HERE, '..', '..', '..', 'test')
F_ADD_SEALS = 1033


def read(*path):
    with open(os.path.join(TESTS, *path), encoding='utf8') as file:
        return json.load(file)


def snake(value):
    """JSON's names of fields, as proto/wire.proto has them."""
    if isinstance(value, list):
        return [snake(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {re.sub('[A-Z]', lambda m: '_' + m.group().lower(), name): snake(one) for name, one in value.items()}


def with_bytes(name, message):
    """Base64 as bytes, by the kinds of the fields."""
    kinds = dict(MESSAGES[name].values())
    made = {}
    for field, value in message.items():
        kind = kinds[field].strip('*=')
        if kind == 'y':
            made[field] = [base64.b64decode(v) for v in value] if isinstance(value, list) else base64.b64decode(value)
        elif kind in MESSAGES:
            made[field] = [with_bytes(kind, v) for v in value] if isinstance(value, list) else with_bytes(kind, value)
        else:
            made[field] = value
    return made


def told(message):
    """Without the lists that are empty as nothing was said."""
    if isinstance(message, list):
        return [told(one) for one in message]
    if not isinstance(message, dict):
        return message
    return {field: told(value) for field, value in message.items() if value != []}


def segment_of(data, sealed):
    fd = os.memfd_create('given', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.pwrite(fd, data, 0)
    if sealed:
        fcntl.fcntl(fd, F_ADD_SEALS, SEAL_WRITE)
    return Segment(fd)


def sections_of(log):
    return {
        name: {
            'version': section.stored.get('version', 0),
            'minReader': section.stored.get('min_reader', 0),
            'codec': section.stored.get('codec', ''),
            'secret': section.stored.get('secret', False),
            'entries': {
                key: {'value': base64.b64encode(value).decode(), 'version': version}
                for key, (value, version) in section.entries.items()
            },
        }
        for name, section in log.sections.items()
        if section.stored is not None
    }


class Vectors(unittest.TestCase):
    maxDiff = None

    def test_frames(self):
        for vector in read('vectors', 'frames.json'):
            with self.subTest(vector['name']):
                decoder = FrameDecoder()
                code = got = None
                try:
                    decoder.push(bytes.fromhex(vector['bytes']), [-1] * vector['arriving'])
                    got = decoder.next()
                except FdBrokerError as error:
                    code = error.code
                self.assertEqual(code, vector.get('error'))
                if code is None:
                    payload, fds = got
                    self.assertEqual((payload.hex(), len(fds)), (vector['payload'], vector['fds']))
                    self.assertEqual(frame(payload, len(fds)).hex(), vector['bytes'])

    def test_streams_of_frames(self):
        for vector in read('vectors', 'streams.json'):
            with self.subTest(vector['name']):
                decoder, got, arrived, code = FrameDecoder(), [], 0, None
                try:
                    for one in vector['reads']:
                        decoder.push(bytes.fromhex(one['bytes']), [-1 - arrived - n for n in range(one['arriving'])])
                        arrived += one['arriving']
                        while (found := decoder.next()) is not None:
                            got.append(found)
                except FdBrokerError as error:
                    code = error.code
                self.assertEqual(code, vector.get('error'))
                self.assertEqual([(p.hex(), len(fds)) for p, fds in got], [(f['payload'], f['fds']) for f in vector['frames']])
                taken = [fd for _, fds in got for fd in fds]
                self.assertEqual(taken, [-1 - n for n in range(len(taken))])

    def test_frames_that_come_in_pieces(self):
        decoder = FrameDecoder()
        data = frame(b'one', 1) + frame(b'two')
        got = []
        for i, byte in enumerate(data):
            decoder.push(bytes([byte]), [9] if i == 3 else [])
            while (one := decoder.next()) is not None:
                got.append(one)
        self.assertEqual(got, [(b'one', [9]), (b'two', [])])

    def test_messages(self):
        for vector in read('vectors', 'messages.json'):
            with self.subTest(vector['name']):
                if 'error' in vector:
                    with self.assertRaises(FdBrokerError) as caught:
                        decode('Envelope', bytes.fromhex(vector['bytes']))
                    self.assertEqual(caught.exception.code, vector['error'])
                    continue
                data, message = bytes.fromhex(vector['bytes']), with_bytes('Envelope', snake(vector['message']))
                self.assertEqual(told(decode('Envelope', data)), told(message))
                if not vector.get('decodeOnly'):
                    self.assertEqual(encode('Envelope', message).hex(), vector['bytes'])

    def test_messages_that_are_cut_are_refused(self):
        for vector in read('vectors', 'messages.json'):
            data = bytes.fromhex(vector['bytes'])
            for end in range(1, len(data)):
                try:
                    decode('Envelope', data[:end])
                except FdBrokerError as error:
                    self.assertEqual(error.code, 'ERR_FDB_MESSAGE')

    def test_digests_and_logs(self):
        for vector in read('vectors', 'state.json'):
            with self.subTest(vector['name']):
                if 'digest' in vector:
                    digest = Digest()
                    for entry in vector['entries']:
                        digest.add(*(part.encode() for part in entry))
                    self.assertEqual(str(digest), vector['digest'])
                else:
                    self.check_log(vector)

    def check_log(self, vector):
        log, code = StateLog(), None
        try:
            for one in vector['segments']:
                log.adopt(segment_of(bytes.fromhex(one['bytes']), one['sealed']))
            log.catch_up()
        except FdBrokerError as error:
            code = error.code
        self.assertEqual(code, vector.get('error'))
        if code is None:
            self.assertEqual(log.position, vector['position'])
            self.assertEqual(sections_of(log), vector['sections'])
        log.close()

    def test_logs_of_the_first_release(self):
        folder = os.path.join(TESTS, 'fixtures', 'first-schema')
        for name in ('application', 'bulk', 'bulk-given-up', 'compacted', 'compacted-again', 'routes', 'torn'):
            with self.subTest(name):
                fixture = read('fixtures', 'first-schema', f'{name}.json')
                log = StateLog()
                for at, file in enumerate(fixture['files']):
                    with open(os.path.join(folder, file), 'rb') as data:
                        log.adopt(segment_of(data.read(), at < len(fixture['files']) - 1))
                log.catch_up()
                self.assertEqual(log.position, fixture['position'])
                for section in fixture['sections']:
                    entries = log.section(section['name']).entries
                    wanted = {k: (base64.b64decode(v['base64']), v['version']) for k, v in section['entries'].items()}
                    self.assertEqual(entries, wanted)
                for request in fixture['requests']:
                    self.assertTrue(log.knows_request(request))
                log.close()

    def test_changes_of_other_processes(self):
        for vector in read('vectors', 'writes.json'):
            with self.subTest(vector['name']):
                self.check_writes(vector)

    def check_writes(self, vector):
        member = Member('/nowhere', 'shop', None, {}, None)
        self.addCleanup(member.close)
        member.section('list', codec='bytes', version=2)
        for data in vector['segments']:
            segment = segment_of(bytes.fromhex(data), True)
            member._segments[segment.epoch] = segment
            member._log.adopt(segment)
        member._log.catch_up()

        def begin(epoch):
            header = encode('Header', {'magic': 'fdb-state', 'format': 1, 'epoch': epoch})
            member._segments[epoch] = segment_of(state_frame(header), False)
            member._write_in(epoch)

        with member._changed:
            begin(vector['epoch'])
            for step in vector['steps']:
                if 'ends' in step:
                    fcntl.fcntl(member._writing.fd, F_ADD_SEALS, SEAL_WRITE)
                    member._writing = None
                elif 'begins' in step:
                    member._log.catch_up()
                    begin(step['begins'])
                else:
                    asked = {'parts': [], 'reads': [], **with_bytes('Write', snake(step['write']))}
                    answer = member._incoming.take(asked, member._make_write)
                    wanted = step.get('written')
                    if wanted is not None:
                        answer = {'number': asked['number'], 'existed': False, **answer}
                        answer = {fact: answer.get(fact) for fact in wanted}
                    self.assertEqual(answer, wanted)
        position = member._log.position
        self.assertEqual((position['sequence'], position['digest']), (vector['sequence'], vector['digest']))
        self.assertEqual(sections_of(member._log), vector['sections'])

    def test_what_a_member_does(self):
        for n, walk in enumerate(read('vectors', 'member.json')):
            state = initial_member()
            for at, step in enumerate(walk['steps']):
                state, effects = step_member(state, step['event'])
                with self.subTest(walk=n, step=at, event=step['event']):
                    self.assertEqual(effects, step['effects'])
                    for fact in ('phase', 'holds', 'accepting', 'link', 'epoch', 'top', 'unfit', 'unheard'):
                        self.assertEqual(state[fact], step[fact])


class Writing(unittest.TestCase):
    def test_what_is_appended_is_read_back_and_a_seal_ends_it(self):
        header = encode('Header', {'magic': 'fdb-state', 'format': 1, 'epoch': 3})
        segment = segment_of(state_frame(header), False)
        record = {'epoch': 3, 'sequence': 1, 'changes': [{'section': 's', 'key': 'k', 'value': b'v', 'version': 1}]}
        data = state_frame(encode('Record', record))
        self.assertTrue(segment.append(data))
        reader = StateLog()
        reader.adopt(Segment(os.open(f'/proc/self/fd/{segment.fd}', os.O_RDONLY)))
        reader.catch_up()
        self.assertEqual(reader.section('s').entries, {'k': (b'v', 1)})
        fcntl.fcntl(segment.fd, F_ADD_SEALS, SEAL_WRITE)
        self.assertFalse(segment.append(data))
        self.assertTrue(segment.sealed)
        reader.close()
        segment.close()


class Updates(unittest.TestCase):
    def setUp(self):
        self.member = Member('/nowhere', 'shop', None, {}, None)
        self.addCleanup(self.member.close)
        header = encode('Header', {'magic': 'fdb-state', 'format': 1, 'epoch': 3})
        fd = os.memfd_create('state', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.pwrite(fd, state_frame(header), 0)
        with self.member._changed:
            segment = self.member._segments[3] = Segment(fd, True)
            self.member._log.adopt(segment)
            self.member._write_in(3)
        self.counter = self.member.section('counter')

    def test_of_several_threads_are_each_made_once(self):
        told = []
        count = lambda: told.extend(self.counter.update('n', lambda n: n + 1, 0) for _ in range(50))
        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual((self.counter.get('n'), sorted(told)), (400, list(range(1, 401))))

    def test_whose_entry_has_changed_meanwhile_are_made_of_what_is_there(self):
        seen = []

        def change(value):
            seen.append(value)
            if len(seen) == 1:
                self.counter.put('n', 10)
            return value + 1

        self.assertEqual((self.counter.update('n', change, 0), seen, self.counter.get('n')), (11, [0, 10], 11))

    def test_with_a_request_that_was_made_change_nothing(self):
        for _ in range(2):
            self.assertEqual(self.counter.update('n', lambda n: n + 1, 0, request='r'), 1)

    def test_elsewhere_send_what_they_have_read_and_are_made_anew_on_conflict(self):
        asked = []

        def forward(change, _unsaid, _until):
            asked.append((change.request, change.message(None)['reads']))
            return {'outcome': 1 if len(asked) > 1 else 2}

        self.stand_by(forward)
        self.assertEqual(self.counter.update('n', lambda n: n + 1, 0), 1)
        (first, reads), (second, _) = asked
        self.assertEqual((first, reads), (second, [{'section': 'counter', 'key': 'n', 'mark': b''}]))

    def stand_by(self, forward):
        drain = unittest.mock.Mock(spec=Drain, forward=forward)
        with self.member._changed:
            self.member._writing, self.member._drain = None, drain
            self.member._state['phase'] = 'standby'
            self.member._VIEW_S = self.member._AGAIN_S = 0


class Channels(unittest.TestCase):
    def test_600_descriptors_arrive_in_order_and_are_who_they_were(self):
        a, b = (Channel(sock) for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
        with open('/dev/null', 'rb') as null, socket.socket() as listening:
            listening.bind(('127.0.0.1', 0))
            listening.listen()
            fds = [null.fileno() if n % 2 else listening.fileno() for n in range(600)]
            a.send('fds', {'last': True}, fds)
            got = []
            while not got:
                got = b.receive()
            ((body, message, arrived),) = got
            self.assertEqual((body, message.get('last')), ('fds', True))
            identities = [identity_of(fd) for fd in arrived]
            for fd, identity in zip(fds, identities):
                self.assertIsNone(difference(identity_of(fd), identity))
            self.assertIsNotNone(difference(identities[0], identities[1]))
            self.assertTrue(all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in arrived))
            for fd in arrived:
                os.close(fd)
        a.release()
        self.assertIsNone(b.receive())
        b.release()

    def test_another_listener_is_not_taken_for_the_announced_one(self):
        with socket.socket() as one, socket.socket() as other:
            for sock in (one, other):
                sock.bind(('127.0.0.1', 0))
                sock.listen()
            announced, got = (identity_of(sock.fileno()) for sock in (one, other))
            self.assertIn('another socket', difference(announced, got))
            self.assertIn('accepting', difference({**announced, 'accepting': False}, announced))


class Links(unittest.TestCase):
    def member(self):
        member = Member('/nowhere', 'shop', None, {}, None)
        self.addCleanup(member.close)
        return member

    def test_what_has_come_of_a_bundle_is_closed_when_its_rest_does_not(self):
        member = self.member()
        fd = os.open('/dev/null', os.O_RDONLY)
        items = [{'role': NAMED, 'name': 'spool', 'identity': identity_of(fd)}]
        member._take_batch({'bundle': 1, 'index': 0, 'items': items}, [fd])
        os.fstat(fd)
        with member._changed:
            member._lose()
        with self.assertRaises(OSError):
            os.fstat(fd)

    def test_a_bundle_with_a_bad_segment_leaves_nothing_open(self):
        header = state_frame(encode('Header', {'magic': 'fdb-state', 'format': 1, 'epoch': 3}))
        before = set(os.listdir('/proc/self/fd'))
        member = self.member()
        fds = []
        for data in (header, b'GET / HTTP/1.1'):
            fds.append(os.memfd_create('given', os.MFD_CLOEXEC))
            os.pwrite(fds[-1], data, 0)
        fds.append(os.open('/dev/null', os.O_RDONLY))
        roles = (SEGMENT, SEGMENT, LISTENER)
        items = [{'role': role, 'name': 'web', 'identity': identity_of(fd)} for role, fd in zip(roles, fds)]
        with member._changed:
            member._take_batch({'bundle': 1, 'index': 0, 'items': items, 'last': True}, fds)
        self.assertEqual((member.phase, member._reason.code), ('gone', 'ERR_FDB_STATE_FORMAT'))
        member.close()
        self.assertEqual(set(os.listdir('/proc/self/fd')), before)

    def test_segments_in_which_nothing_was_written_are_not_kept(self):
        member = self.member()
        for epoch in (3, 4, 5):
            header = encode('Header', {'magic': 'fdb-state', 'format': 1, 'epoch': epoch})
            segment = member._segments[epoch] = segment_of(state_frame(header), epoch < 5)
            member._log.adopt(segment)
        member._state['epoch'] = 5
        member._prune()
        self.assertEqual((list(member._segments), len(member._log.segments)), ([5], 1))

    def test_a_late_reinstate_in_a_segment_that_was_dropped_is_not_obeyed(self):
        member = self.member()
        for epoch in (3, 4, 5):
            header = encode('Header', {'magic': 'fdb-state', 'format': 1, 'epoch': epoch})
            member._segments[epoch] = segment_of(state_frame(header), epoch == 4)
        member._state.update(phase='standby', holds=True, epoch=3)
        with member._changed:
            member._prune()
            self.assertEqual(list(member._segments), [3, 5])
            # A stopped process reads it late: it is not to accept, and fail to write.
            member._hear('reinstate', {'epoch': 4}, [])
        self.assertEqual((member.phase, member._state['accepting']), ('standby', False))
        self.assertEqual([member._is_sealed(epoch) for epoch in (-1, 3, 4, 5, 6)], [False, False, True, False, False])

    def test_a_drained_process_closes_what_it_does_not_take(self):
        member = self.member()
        drain = unittest.mock.Mock(spec=Drain, _member=member)
        fds = [os.memfd_create('given', os.MFD_CLOEXEC) for _ in range(2)]
        with self.assertRaises(FdBrokerError):
            Drain._take(drain, [({'role': SEGMENT, 'epoch': 9}, fd) for fd in fds])
        for fd in fds:
            with self.assertRaises(OSError):
                os.fstat(fd)
        other = os.open('/dev/null', os.O_RDONLY)
        message = {'items': [{'role': SEGMENT, 'identity': {'type': 'file', 'dev': '1', 'ino': '1'}}]}
        with self.assertRaises(FdBrokerError) as caught:
            Drain._take_batch(drain, None, message, [other], {})
        self.assertEqual(caught.exception.code, 'ERR_FDB_FD_MISMATCH')
        with self.assertRaises(OSError):
            os.fstat(other)

    def test_it_connects_again_also_when_there_was_no_descriptor_for_it(self):
        asked, again = [], threading.Event()

        def connect(_control, _timeout):
            asked.append(1)
            if len(asked) == 1:
                raise OSError(errno.EMFILE, 'Too many open files')
            again.set()
            raise FdBrokerError('ERR_FDB_CONTROL_PATH', 'nobody listens', True)

        member = self.member()
        with unittest.mock.patch.object(fd_broker.link, 'connect', connect):
            with member._changed:
                member._reconnect()
            self.assertTrue(again.wait(20))
            member.close()


class Specs(unittest.TestCase):
    def test_are_read(self):
        self.assertEqual(parse_spec('tcp://127.0.0.1:80')['port'], 80)
        self.assertEqual(parse_spec('tcp://*:80?reusePort')['host'], '::')
        self.assertTrue(parse_spec('tcp://[::1]:80?reusePort')['reuse_port'])
        self.assertEqual(parse_spec('unix:/run/a.sock?mode=0660')['mode'], 0o660)

    def test_are_refused(self):
        for spec in ('127.0.0.1:80', 'tcp://localhost:80', 'tcp://127.0.0.1', 'unix:a.sock', 'tcp://127.0.0.1:80?x=1'):
            with self.subTest(spec), self.assertRaises(FdBrokerError) as caught:
                parse_spec(spec)
            self.assertEqual(caught.exception.code, 'ERR_FDB_SPEC')

    def test_of_unknown_times_are_refused(self):
        for times in ({'probatoin': 5}, {'probation': '5s'}, {'ready': -1}):
            with self.subTest(times), self.assertRaises(FdBrokerError) as caught:
                join('/nowhere', 'shop', times=times, timeout=0)
            self.assertEqual(caught.exception.code, 'ERR_FDB_OPTION')

    def test_that_cannot_be_bound_are_named(self):
        with socket.create_server(('127.0.0.1', 0)) as taken, self.assertRaises(FdBrokerError) as caught:
            port = taken.getsockname()[1]
            bind(parse_spec(f'tcp://127.0.0.1:{port}'))
        self.assertIn(f'cannot listen on 127.0.0.1 port {port}: ', str(caught.exception))


if __name__ == '__main__':
    unittest.main()
