"""A member in Python that leaves, is rolled back, or is cut off from its daemon: against a daemon that the test plays, over a real socket."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import threading
import time
import unittest

import fd_broker
import test_author
from fd_broker import FdBrokerError
from fd_broker.kernel import poll
from fd_broker.member import Member
from test_author import LIMIT_S, Daemon, seal, segment_of


class Serving(unittest.TestCase):
    """A member that writes in epoch 1, and whose link to the daemon the test plays."""

    attach = test_author.Links.attach

    def setUp(self):
        self.daemon = Daemon(self)
        self.member = self.made()
        self.work = []
        self.member.on_quiesce(lambda: self.work.append('ended'))
        self.member.on_resumed(lambda: self.work.append('resumed'))
        self.counter = self.member.section('counter')

    def made(self, **options):
        member = Member(self.daemon.control, 'shop', None, {'heartbeat': 20, 'silence': 100}, None, **options)
        self.addCleanup(member.close)
        return member

    def serve(self, **state):
        link = self.attach(phase='serving', accepting=True, **state)
        with self.member._changed:
            self.member._segments[1] = segment_of(1)
            self.member._write_in(1)
            self.member._served = self.member._beats = True
        self.member._thread.start()
        return link

    def order(self, link, name, **body):
        link.send('command', {'name': name, 'request': 7, 'body': json.dumps(body).encode()})

    def hear(self, link, wanted, beats=lambda _: True):
        """The next message of that kind; of heartbeats the next one that `beats` accepts."""
        link.heard = getattr(link, 'heard', [])
        until = time.monotonic() + LIMIT_S
        while True:
            while link.heard:
                body, message, _ = link.heard.pop(0)
                if body == wanted and (body != 'heartbeat' or beats(message)):
                    return message
                self.assertEqual(body, 'heartbeat')
            self.assertTrue(poll(link.fileno(), 1, until - time.monotonic()), f'no {wanted}')
            link.heard += link.receive()

    def test_keeps_the_right_to_write_until_it_is_closed(self):
        self.serve(source=0)
        self.member.leave()
        self.assertTrue(self.member.wait(LIMIT_S))
        self.assertEqual((self.member.phase, self.member.serving, self.work), ('serving', False, ['ended']))
        self.counter.put('n', 1)
        with self.assertRaisesRegex(FdBrokerError, 'ERR_FDB_CLOSED'):
            self.member.listen('late', 'tcp://127.0.0.1:0')
        self.member.close()
        with self.assertRaisesRegex(FdBrokerError, 'ERR_FDB_CLOSED'):
            self.counter.put('n', 2)

    def test_leaves_at_the_end_of_the_ordered_time_and_a_later_order_only_shortens_it(self):
        link = self.serve(source=0)
        self.member.leave()
        self.assertTrue(self.member.wait(LIMIT_S))
        asked = time.monotonic()
        self.order(link, 'service.stop', timeoutMs=1_200)
        self.hear(link, 'cancel_upgrade')
        self.assertEqual(json.loads(self.hear(link, 'command_reply')['body'])['pid'], os.getpid())
        self.order(link, 'service.stop', timeoutMs=60_000)
        self.hear(link, 'cancel_upgrade')
        self.hear(link, 'command_reply')
        self.hear(link, 'gone')
        self.assertTrue(0.5 <= time.monotonic() - asked < 5, time.monotonic() - asked)
        self.assertEqual(self.member.phase, 'leaving')

    def test_leaves_at_once_to_a_version_that_stands_by_and_keeps_the_right_without_a_daemon(self):
        link = self.serve(source=1)
        self.member.leave()
        self.hear(link, 'gone')
        self.setUp()
        self.serve(source=1).close()
        with self.member._changed:
            self.assertTrue(self.member._changed.wait_for(lambda: self.member._state['link'] == 'down', LIMIT_S))
        self.member.leave()
        self.assertTrue(self.member.wait(LIMIT_S))
        self.counter.put('n', 1)

    def test_waits_for_a_handoff_that_is_under_way(self):
        self.serve(source=0)
        with self.member._changed:
            self.member._segments.update({epoch: segment_of(epoch) for epoch in (2, 3)})
        self.member.leave()
        self.assertFalse(self.member.wait(0.2))
        self.assertEqual((self.member.serving, self.work), (True, []))
        for epoch in (2, 3):
            seal(self.member._segments[epoch])
        self.assertTrue(self.member.wait(LIMIT_S))

    def test_is_rolled_back_by_the_daemon_and_says_so_when_it_has_left(self):
        link = self.serve(source=1)
        self.order(link, 'service.rollback')
        beat = self.hear(link, 'heartbeat', lambda one: one.get('rolls_back'))
        self.assertEqual((beat.get('healthy', False), self.work, self.member.phase), (False, ['ended'], 'serving'))
        link.send('fenced', {})
        self.hear(link, 'gone')
        self.assertTrue(self.hear(link, 'command_reply')['ok'])

    def test_a_rollback_that_was_done_when_an_order_to_stop_came_is_answered_as_done(self):
        link = self.serve(source=1)
        self.order(link, 'service.rollback')
        self.hear(link, 'heartbeat', lambda one: one.get('rolls_back'))
        self.order(link, 'service.stop', timeoutMs=60_000)
        self.hear(link, 'cancel_upgrade')
        self.assertTrue(self.hear(link, 'command_reply').get('ok'))
        self.hear(link, 'end_probation')
        link.send('fenced', {})
        self.hear(link, 'gone')
        self.assertTrue(self.hear(link, 'command_reply').get('ok'))

    def test_a_failure_of_a_rollback_names_the_time_that_it_took(self):
        link = self.serve(source=1)
        self.member._times['silence'] = 60_000
        self.order(link, 'service.rollback')
        self.hear(link, 'heartbeat', lambda one: one.get('rolls_back'))
        self.turn('frozen')
        self.hear(link, 'heartbeat', lambda one: not one.get('rolls_back'))
        self.turn('serving')
        self.assertRegex(self.hear(link, 'command_reply')['message'], r'within \d(\.\d+)? s,')

    def test_serves_on_if_no_version_stands_by_any_more(self):
        link = self.serve(source=1)
        self.order(link, 'service.rollback')
        self.hear(link, 'heartbeat', lambda one: one.get('rolls_back'))
        link.send('released', {})
        self.assertEqual(self.hear(link, 'command_reply')['code'], 'ERR_FDB_NO_STANDBY')
        self.order(link, 'service.rollback')
        self.assertEqual(self.hear(link, 'command_reply')['code'], 'ERR_FDB_NO_STANDBY')
        self.hear(link, 'heartbeat', lambda one: one.get('healthy') and not one.get('rolls_back'))
        self.assertEqual((self.member.phase, self.work), ('serving', ['ended', 'resumed']))

    def test_serves_on_if_the_version_that_stands_by_does_not_take_over(self):
        link = self.serve(source=1)
        self.order(link, 'service.rollback')
        self.assertEqual(self.hear(link, 'command_reply')['code'], 'ERR_FDB_DEADLINE')
        self.assertEqual((self.member.phase, self.work), ('serving', ['ended', 'resumed']))

    def test_serves_on_if_a_handoff_that_began_when_it_was_rolled_back_fails(self):
        link = self.serve(source=1)
        self.order(link, 'service.rollback')
        self.hear(link, 'heartbeat', lambda one: one.get('rolls_back'))
        self.turn('frozen')
        self.hear(link, 'heartbeat', lambda one: not one.get('rolls_back'))
        self.member._last_requests.on_released()
        self.turn('serving')
        self.assertEqual(self.hear(link, 'command_reply')['code'], 'ERR_FDB_NO_STANDBY')
        self.assertEqual((self.member.phase, self.work), ('serving', ['ended', 'resumed']))

    def turn(self, phase):
        with self.member._changed:
            self.member._state = {**self.member._state, 'phase': phase}
            self.member._changed.notify_all()

    def test_that_lost_the_right_to_serve_ends_its_work_once(self):
        link = self.serve(source=1)
        link.send('fenced', {})
        self.hear(link, 'gone')
        self.member.close()
        self.worked('ended')

    def worked(self, *wanted):
        until = time.monotonic() + LIMIT_S
        while self.work != list(wanted) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.05)
        self.assertEqual(self.work, list(wanted))

    def test_ends_its_work_while_it_has_no_link_in_a_probation(self):
        self.serve(source=1).release()
        self.worked('ended')
        self.daemon.welcome(incarnation='a')
        self.worked('ended', 'resumed')

    def test_leaves_it_to_the_daemon_whether_the_work_goes_on_if_the_link_ends_in_a_handoff(self):
        link = self.serve(source=0)
        with self.member._changed:
            self.member._segments.update({epoch: segment_of(epoch) for epoch in (2, 3)})
        link.release()
        self.worked('ended')
        link, _ = self.daemon.welcome(incarnation='a')
        self.worked('ended')
        link.send('unquiesce', {})
        self.worked('ended', 'resumed')

    def test_works_on_without_a_link_if_no_other_version_can_serve(self):
        self.serve(source=0).release()
        self.daemon.welcome(incarnation='a')
        self.worked()

    def test_refuses_orders_while_another_process_serves(self):
        link = self.attach(phase='standby', accepting=False)
        self.member._thread.start()
        self.order(link, 'service.stop')
        reply = self.hear(link, 'command_reply')
        self.assertEqual((reply['code'], reply['retryable']), ('ERR_FDB_FENCED', True))
        self.assertEqual(self.member.phase, 'standby')

    def test_ready_twice_is_refused(self):
        self.serve(source=0)
        with self.assertRaisesRegex(FdBrokerError, 'ERR_FDB_READY_TWICE'):
            self.member.ready()

    def test_no_notices_of_appends_pile_up_in_front_of_a_daemon_that_is_stopped(self):
        self.member._GROWN_S = 0.0
        self.serve(source=0)
        link = self.member._link
        link.SEND_S = 1.0
        with self.member._changed:
            self.member._tells_appended = True
        for n in range(4_000):
            with self.member._changed:
                self.member._told_appended()
                self.member._tick()
        self.assertFalse(link.closed)
        self.assertLess(link._unread(), 60 * 1024)

    def test_a_child_that_was_forked_is_no_member(self):
        link = self.serve(source=0)
        fork = multiprocessing.get_context('fork')
        told = fork.SimpleQueue()

        def child():
            try:
                self.counter.put('n', 1)
            except FdBrokerError as error:
                told.put(error.code)
            told.put(sum('memfd:state' in os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')))
            self.member.leave()
            self.member.close()
            told.put(self.member.phase)
            signal.pause()

        process = fork.Process(target=child)
        process.start()
        self.addCleanup(process.join)
        self.addCleanup(process.kill)
        self.assertEqual([told.get() for _ in range(3)], ['ERR_FDB_CLOSED', 0, 'gone'])
        self.order(link, 'unknown')
        self.assertEqual(self.hear(link, 'command_reply')['code'], 'ERR_FDB_COMMAND_UNKNOWN')
        self.counter.put('n', 2)
        self.member.close()
        self.hear(link, 'gone')
        # The child holds no end of the link.
        self.assertIsNone(link.receive() or link.receive())


class Joining(unittest.TestCase):
    def fail_pidfds(self, code):
        def fails(*_):
            raise OSError(code, os.strerror(code))

        self.addCleanup(setattr, os, 'pidfd_open', os.pidfd_open)
        os.pidfd_open = fails

    def test_says_nothing_to_a_daemon_without_a_descriptor_for_itself(self):
        daemon = Daemon(self)
        self.fail_pidfds(errno.EMFILE)
        with self.assertRaisesRegex(FdBrokerError, 'ERR_FDB_NO_DESCRIPTORS'):
            fd_broker.join(daemon.control, 'shop')
        ours, _ = daemon._listening.accept()
        with ours:
            self.assertEqual(ours.recv(100), b'')

    def test_works_without_pidfds_of_the_kernel(self):
        daemon = Daemon(self)
        self.fail_pidfds(errno.ENOSYS)
        joining = threading.Thread(target=lambda: self.assertRaises(FdBrokerError, fd_broker.join, daemon.control, 'shop', timeout=0.3))
        joining.start()
        _, hello = daemon.welcome()
        self.assertEqual(hello['service'], 'shop')
        joining.join(LIMIT_S)

    def test_names_the_limit_of_descriptors(self):
        daemon = Daemon(self)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        try:
            with self.assertRaisesRegex(FdBrokerError, 'ERR_FDB_NO_DESCRIPTORS'):
                fd_broker.join(daemon.control, 'shop')
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


if __name__ == '__main__':
    unittest.main()
