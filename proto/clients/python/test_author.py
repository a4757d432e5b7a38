"""Changes of a member in Python while another process serves: against a daemon that the test plays, over a real socket."""

import concurrent.futures
import fcntl
import os
import socket
import tempfile
import threading
import time
import unittest

from fd_broker import FdBrokerError
from fd_broker.channel import Channel
from fd_broker.kernel import poll
from fd_broker.log import StateLog
from fd_broker.member import Member
from fd_broker.messages import NAMED, SEGMENT, decode, encode
from fd_broker.sections import mark_of
from fd_broker.segment import SEAL_WRITE, Segment, state_frame
from fd_broker.writes import Incoming

F_ADD_SEALS = 1033
APPLIED, CONFLICT, AGAIN, REFUSED = 1, 2, 3, 4
LIMIT_S = 20.0


class Daemon:
    """Listens where a member connects, and says what it is told to."""

    def __init__(self, test):
        folder = tempfile.TemporaryDirectory()
        test.addCleanup(folder.cleanup)
        self.control = os.path.join(folder.name, 'd.sock')
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(self.control)
        self._listening.listen()
        self._listening.settimeout(LIMIT_S)
        test.addCleanup(self._listening.close)
        self._test = test

    def welcome(self, **facts):
        """The next connection, greeted, and its Hello."""
        channel = Channel(self._listening.accept()[0])
        self._test.addCleanup(channel.release)
        hello = self.hear(channel, 'hello')
        channel.send('welcome', {'version': 1, 'capabilities': ['writes'], 'daemon': True, **facts})
        return channel, hello

    def hear(self, channel, wanted):
        """The next message of that kind. Another than a heartbeat may not come before it."""
        until = time.monotonic() + LIMIT_S
        while True:
            if not hasattr(channel, 'heard'):
                channel.heard = []
            while channel.heard:
                body, message, fds = channel.heard.pop(0)
                for fd in fds:
                    os.close(fd)
                if body == wanted:
                    return message
                self._test.assertEqual(body, 'heartbeat')
            if not poll(channel.fileno(), 1, until - time.monotonic()):
                raise AssertionError(f'no {wanted}')
            messages = channel.receive()
            if messages is None:
                raise AssertionError(f'the end, and no {wanted}')
            channel.heard += messages


def segment_of(epoch, records=(), kind=0):
    fd = os.memfd_create('state', os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    segment_bytes = state_frame(encode('Header', {'magic': 'fdb-state', 'format': 1, 'epoch': epoch, 'kind': kind}))
    os.pwrite(fd, segment_bytes + b''.join(state_frame(encode('Record', one)) for one in records), 0)
    return Segment(fd, True)


def seal(segment):
    fcntl.fcntl(segment.fd, F_ADD_SEALS, SEAL_WRITE)


class Author(unittest.TestCase):
    """A member that stood by in epoch 3; the serving process writes in epoch 4."""

    def setUp(self):
        self.daemon = Daemon(self)
        self.member = Member(self.daemon.control, 'shop', None, {}, None)
        self.addCleanup(self.member.close)
        self.counter = self.member.section('counter')
        first = {'epoch': 3, 'sequence': 1, 'schemas': [self.counter.schema], 'changes': [self.put(5)]}
        with self.member._changed:
            for segment in (segment_of(3, [first]), segment_of(4), segment_of(5)):
                self.member._segments[segment.epoch] = segment
            seal(self.member._segments[3])
            self.member._state.update(phase='standby', holds=True, epoch=3)
            self.member._follow()
        pool = concurrent.futures.ThreadPoolExecutor(4)
        self.addCleanup(pool.shutdown)
        self.pool = pool
        self.link, hello = self.daemon.welcome()
        self.assertEqual((hello['intent'], hello['top']), (4, 5))

    def put(self, value):
        return {'section': 'counter', 'op': 0, 'key': 'n', 'value': b'%d' % value, 'version': 1}

    def update(self, **options):
        return self.pool.submit(self.counter.update, 'n', lambda n: n + 1, 0, **options)

    def written(self, sequence, value, request=''):
        """By the process that serves."""
        segment = self.member._segments[4]
        record = {'epoch': 4, 'sequence': sequence, 'request': request, 'changes': [self.put(value)]}
        os.pwrite(segment.fd, state_frame(encode('Record', record)), segment.size)

    def asked(self, value):
        """The Write that comes, which must be this change."""
        asked = self.daemon.hear(self.link, 'write')
        self.assertEqual([decode('Record', part)['changes'] for part in asked['parts']], [[self.changed(value)]])
        self.assertTrue(asked['request'])
        return asked

    def changed(self, value):
        return {'section': 'counter', 'key': 'n', 'value': b'%d' % value, 'version': 1}

    def answer(self, asked, outcome, **facts):
        self.link.send('written', {'number': asked['number'], 'outcome': outcome, **facts})

    def serve_again(self):
        with self.member._changed:
            seal(self.member._segments[4])
            self.member._step({'type': 'message', 'message': {'kind': 'reinstate', 'epoch': 5}, 'sealed': False})

    def test_a_change_that_is_made_returns_when_it_is_seen(self):
        update = self.update()
        asked = self.asked(6)
        self.assertEqual(asked['reads'], [{'section': 'counter', 'key': 'n', 'mark': mark_of((b'5', 1))}])
        self.written(2, 6, asked['request'])
        self.answer(asked, APPLIED, sequence=2)
        self.assertEqual((update.result(LIMIT_S), self.counter.get('n')), (6, 6))

    def test_the_state_is_read_again_from_a_snapshot_of_segments_that_were_not_there(self):
        put = self.put(70)
        log = StateLog()
        merged = {'epoch': 7, 'sequence': 9, 'schemas': [self.counter.schema], 'changes': [put]}
        log.apply(None, decode('Record', encode('Record', merged)))
        end = {'epoch': 7, 'sequence': 9, 'end': {'entries': 1, 'digest': log.position['digest']}}
        snapshot, after = segment_of(7, [merged, end], kind=1), segment_of(8, [{'epoch': 8, 'sequence': 10, 'changes': [self.put(71)]}])
        seal(snapshot)
        items = [({'role': SEGMENT, 'epoch': one.epoch}, one.fd) for one in (snapshot, after)]
        self.member._drain._take(items)
        self.assertEqual(self.counter.get('n'), 71)
        self.assertEqual(sorted(self.member._segments), [7, 8])

    def test_after_again_the_same_request_is_sent_over_the_next_connection(self):
        update = self.update()
        first = self.asked(6)
        self.answer(first, AGAIN)
        self.link, _ = self.daemon.welcome()
        second = self.asked(6)
        self.assertEqual(second['request'], first['request'])
        self.written(2, 6, second['request'])
        self.answer(second, APPLIED, sequence=2)
        self.assertEqual(update.result(LIMIT_S), 6)

    def test_a_change_without_an_answer_is_sent_again_with_the_same_request(self):
        update = self.update()
        first = self.asked(6)
        self.link.close()
        self.link, _ = self.daemon.welcome()
        second = self.asked(6)
        self.assertEqual(second['request'], first['request'])
        self.answer(second, REFUSED, code='ERR_FDB_SCHEMA', message='no')
        with self.assertRaises(FdBrokerError) as caught:
            update.result(LIMIT_S)
        self.assertEqual(caught.exception.code, 'ERR_FDB_SCHEMA')

    def test_after_a_conflict_the_change_is_computed_anew_from_what_was_read_up_to_its_sequence(self):
        update = self.update()
        first = self.asked(6)
        self.answer(first, CONFLICT, sequence=2)
        # The member waits for records that are not readable yet: the next Write rests on the records read by then.
        self.written(2, 70)
        second = self.asked(71)
        self.assertEqual(second['request'], first['request'])
        self.assertEqual(second['reads'][0]['mark'], mark_of((b'70', 1)))
        self.written(3, 71, second['request'])
        self.answer(second, APPLIED, sequence=3)
        self.assertEqual(update.result(LIMIT_S), 71)

    def test_a_conflict_without_anything_new_is_not_tried_again_at_once(self):
        self.update(timeout=0.5)
        tries = 0
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            asked = self.asked(6)
            tries += 1
            self.answer(asked, CONFLICT, sequence=1)
        self.assertLess(tries, 6)

    def test_a_change_that_waits_is_made_here_when_this_process_serves_again(self):
        updates = [self.update() for _ in range(3)]
        requests = {self.daemon.hear(self.link, 'write')['request'] for _ in updates}
        self.serve_again()
        self.assertEqual(sorted(one.result(LIMIT_S) for one in updates), [6, 7, 8])
        self.assertTrue(all(map(self.member._log.knows_request, requests)))
        self.assertEqual((self.member.phase, self.member._log.sequence), ('serving', 4))

    def test_a_change_that_was_made_without_an_answer_is_not_made_again_here(self):
        update = self.update()
        asked = self.asked(6)
        self.written(2, 6, asked['request'])
        self.written(3, 50)
        self.serve_again()
        self.assertEqual((update.result(LIMIT_S), self.counter.get('n'), self.member._log.sequence), (6, 50, 3))

    def test_a_change_whose_time_is_over_may_have_been_made(self):
        update = self.update(timeout=0.2)
        self.asked(6)
        with self.assertRaises(FdBrokerError) as caught:
            update.result(LIMIT_S)
        self.assertEqual((caught.exception.code, caught.exception.retryable), ('ERR_FDB_DEADLINE', True))

    def test_a_change_that_was_never_sent_is_refused(self):
        self.link.close()
        unsent = self.update(timeout=0.1)
        with self.assertRaises(FdBrokerError) as caught:
            unsent.result(LIMIT_S)
        self.assertEqual((caught.exception.code, caught.exception.retryable), ('ERR_FDB_FENCED', True))

    def test_an_answer_that_nobody_waits_for_is_not_kept(self):
        self.answer({'number': 99}, APPLIED)
        update = self.update()
        asked = self.asked(6)
        self.answer(asked, REFUSED, code='ERR_FDB_STATE_LIMIT')
        with self.assertRaises(FdBrokerError):
            update.result(LIMIT_S)
        self.assertEqual(self.member._drain._answers, {})

    def test_reads_go_on_while_the_daemon_does_not_take_a_large_change(self):
        put = self.pool.submit(self.counter.put, 'large', 'x' * (4 << 20), timeout=LIMIT_S)
        while not poll(self.link.fileno(), 1, LIMIT_S):
            pass
        self.assertEqual(self.pool.submit(self.counter.get, 'n').result(2.0), 5)
        asked = self.daemon.hear(self.link, 'write')
        self.answer(asked, REFUSED, code='ERR_FDB_STATE_LIMIT')
        with self.assertRaises(FdBrokerError):
            put.result(LIMIT_S)


class Requests(unittest.TestCase):
    def test_the_last_65536_are_known(self):
        log = StateLog()
        records = [{'epoch': 1, 'sequence': n + 1, 'request': f'r{n}'} for n in range(65_540)]
        log.adopt(segment_of(1, records))
        log.catch_up()
        self.assertEqual([log.knows_request(f'r{n}') for n in (0, 3, 4, 65_539)], [False, False, True, True])
        log.close()


class Pieces(unittest.TestCase):
    def test_too_many_unfinished_changes_are_turned_away(self):
        incoming = Incoming()
        made = []
        make = lambda parts, _: made.append(parts) or {'outcome': APPLIED}
        piece = {'request': 'r', 'parts': [b'x'], 'reads': []}
        answers = [incoming.take({**piece, 'number': n, 'source': n, 'more': True}, make) for n in range(65)]
        self.assertEqual(answers, [None] * 64 + [{'outcome': AGAIN}])
        # The member ignores bytes behind the answer.
        self.assertIsNone(incoming.take({**piece, 'number': 64, 'source': 64}, make))
        self.assertEqual(incoming.take({**piece, 'number': 0, 'source': 0}, make), {'outcome': APPLIED})
        self.assertEqual(made, [[b'x', b'x']])

    def test_a_change_of_too_many_bytes_is_refused(self):
        incoming = Incoming()
        piece = {'request': 'r', 'parts': [bytes(9 << 20)], 'reads': [], 'more': True}
        self.assertIsNone(incoming.take(piece, None))
        self.assertEqual(incoming.take(piece, None)['code'], 'ERR_FDB_STATE_LIMIT')


class Links(unittest.TestCase):
    """A member whose way to the daemon is lost, silent or slow."""

    def setUp(self):
        self.daemon = Daemon(self)
        self.member = Member(self.daemon.control, 'shop', None, {'heartbeat': 20}, None)
        self.addCleanup(self.member.close)

    def attach(self, **state):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        link = Channel(theirs)
        self.addCleanup(link.release)
        with self.member._changed:
            self.member._attach(Channel(ours), {'incarnation': 'a'}, None)
            self.member._settled = self.member._link
            self.member._state.update(holds=True, epoch=1, **state)
        return link

    def test_a_registration_goes_on_over_the_next_link(self):
        lost = self.attach(phase='serving', accepting=True)
        self.member._thread.start()
        listening = threading.Thread(target=self.member.listen, args=('web', 'tcp://127.0.0.1:0'))
        listening.start()
        self.daemon.hear(lost, 'fds')
        lost.close()
        link, hello = self.daemon.welcome(incarnation='a')
        self.assertEqual(hello['intent'], 2)
        for _ in range(2):
            fds = self.daemon.hear(link, 'fds')
            link.send('fds_ack', {'bundle': fds.get('bundle', 0), 'verified': len(fds['items'])})
            if not fds['items']:
                self.assertEqual(self.daemon.hear(link, 'back')['role'], 'serving')
        self.assertEqual([item['name'] for item in fds['items']], ['web'])
        link.send('registered', {'request': self.daemon.hear(link, 'register')['request']})
        listening.join(LIMIT_S)
        self.assertEqual(list(self.member._listeners), ['web'])

    def test_a_joiner_that_is_back_before_it_is_known_whether_the_daemon_lives_does_not_give_up(self):
        self.attach(phase='ready').close()
        self.member._GRACE_S = 0.3
        self.member._thread.start()
        link, _ = self.daemon.welcome(incarnation='a')
        fds = self.daemon.hear(link, 'fds')
        link.send('fds_ack', {'bundle': fds.get('bundle', 0)})
        self.assertEqual(self.daemon.hear(link, 'back')['role'], 'ready')
        with self.member._changed:
            self.assertFalse(self.member._changed.wait_for(lambda: self.member.phase != 'ready', 0.5))

    def test_a_daemon_that_beats_slowly_is_not_silent(self):
        self.assertEqual(self.member._silence_s, 3.0)
        self.member._holder = {'heartbeat_ms': 2_000}
        self.assertEqual(self.member._silence_s, 6.0)

    def test_no_heartbeats_pile_up_in_front_of_a_daemon_that_is_stopped(self):
        link = self.attach(phase='serving')
        ours = self.member._link
        for _ in range(3_000):
            ours.beat({'healthy': True}, {'pid': 1})
        self.assertLess(ours._unread(), 60 * 1024)
        ours.SEND_S = 0.0
        ours.send('status', {'json': 'x' * 60_000})
        self.assertEqual(link.receive()[0][0], 'heartbeat')

    def test_a_health_check_that_hangs_holds_up_nothing_and_counts_as_unwell(self):
        hanging = threading.Event()
        self.addCleanup(hanging.set)
        self.member._health._ask = hanging.wait
        self.member._health.LIMIT_S = 0.1
        self.member._beats = True
        link = self.attach(phase='serving', link='up')
        self.member._thread.start()
        link.send('status_request', {})
        until = time.monotonic() + LIMIT_S
        heard = []
        while not any(body == 'heartbeat' and 'does not answer' in message.get('unwell', '') for body, message, _ in heard):
            self.assertLess(time.monotonic(), until)
            if poll(link.fileno(), 1, 1.0):
                heard += link.receive()
        self.assertIn('status', [body for body, _, _ in heard])

    def test_followers_are_told_of_many_appends_at_once(self):
        link = self.attach(phase='serving')
        with self.member._changed:
            self.member._segments[1] = segment_of(1)
            self.member._write_in(1)
            self.member._hear('tell_appended', {'wanted': True}, [])
        counter = self.member.section('counter')
        for n in range(200):
            counter.put('n', n)
        self.member._thread.start()
        self.daemon.hear(link, 'appended')
        self.assertFalse([one for one in link.heard if one[0] == 'appended'])

    def test_one_that_leaves_says_so_in_every_phase_and_also_from_its_own_thread(self):
        said = {'joining': 'abort', 'ready': 'abort', 'serving': 'gone', 'frozen': 'gone', 'standby': 'gone', 'orphan': 'gone', 'unfit': 'gone'}
        for phase, word in said.items():
            for started in (False, True):
                with self.subTest(phase, started=started):
                    self.setUp()
                    link = self.attach(phase=phase)
                    if started:
                        self.member._thread.start()
                    self.member.close()
                    self.daemon.hear(link, word)
                    self.assertEqual(self.member.phase, 'gone')

    def test_hooks_run_one_after_the_other(self):
        told, slow = [], threading.Event()
        self.member.on_quiesce(lambda: (slow.wait(LIMIT_S), told.append('quiesced')))
        done = threading.Event()
        self.member.on_resumed(lambda: (told.append('resumed'), done.set()))
        with self.member._changed:
            self.member._quiesce(1)
            self.member._resume()
        slow.set()
        self.assertTrue(done.wait(LIMIT_S))
        self.assertEqual(told, ['quiesced', 'resumed'])


class Turns(unittest.TestCase):
    def setUp(self):
        daemon = Daemon(self)
        self.member = Member(daemon.control, 'shop', None, {}, None)
        self.addCleanup(self.member.close)
        listening = socket.socket()
        listening.bind(('127.0.0.1', 0))
        listening.listen()
        self.member._registry['web'] = {'role': 1, 'name': 'web', 'spec': '', 'fd': listening.detach()}
        self.web = self.member.listen('web', 'tcp://127.0.0.1:0')

    def test_a_hook_is_told_each_turn_in_order(self):
        told, changed = [], threading.Condition()

        def hook(mine):
            with changed:
                told.append(mine)
                changed.notify_all()

        def act(kind):
            with self.member._changed:
                self.member._perform({'type': kind})

        act('accept')
        self.web.on_turn(hook)
        for kind in ('accept', 'stopAccepting', 'stopAccepting', 'accept', 'closeListeners'):
            act(kind)
        with changed:
            changed.wait_for(lambda: len(told) == 4, LIMIT_S)
        self.assertEqual(told, [True, False, True, False])
        self.assertEqual(self.web.fileno(), -1)

    def test_a_dup_of_its_socket_does_not_make_it_block(self):
        with self.web.socket.dup() as other:
            self.assertFalse(os.get_blocking(self.web.fileno()))
            self.assertEqual(other.getsockname(), self.web.address)
            with self.assertRaises(BlockingIOError):
                other.accept()


if __name__ == '__main__':
    unittest.main()
