import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Each use of a timer of Node in the sources, as `FILE: FUNCTION`: such a timer reads nothing before it acts. */
export function plainTimers(src: string): string[] {
  return readdirSync(src, { recursive: true, encoding: 'utf8' })
    .filter(file => file.endsWith('.ts') && !file.endsWith('.d.ts'))
    .flatMap(file => timersOf(readFileSync(join(src, file), 'utf8')).map(place => `${file}: ${place}`))
    .toSorted()
}

const PROMISES = /^import \{([^}]+)\} from '(?:node:)?timers\/promises'/m
const COMMENT = /^\s*(?:\/\*|\*|\/\/)/
/** A method of a socket that has the name of a timer. */
const OWN_METHOD = /^\s*set(?:Timeout|Interval)\(\w+: .*\{$|\bset(?:Timeout|Interval)\(\) \{/

/** The functions that use a timer, each as often as it does, in a source that the formatter has indented: a compiler takes as long as all other walls together. */
export function timersOf(text: string): string[] {
  const imported = PROMISES.exec(text)?.[1]?.split(',') ?? []
  const aliases = imported.map(each => each.trim().split(' as ')).filter(([name]) => name !== 'setImmediate')
  const names = ['setTimeout', 'setInterval', 'AbortSignal\\.timeout', ...aliases.map(each => each.at(-1)!)]
  const use = new RegExp(`(?<![\\w$#.\\\\'\`"])(?:${names.join('|')})\\b(?=[(,)])`, 'g')
  const lines = text.split('\n')
  return lines.flatMap((line, at) => {
    if (COMMENT.test(line) || OWN_METHOD.test(line)) return []
    const uses = line.match(use)?.length ?? 0
    return Array.from({ length: uses }, () => placeOf(lines, at))
  })
}

const TOP = /^(?:export )?(?:default )?(?:abstract )?(?:async )?(function|class|const|let)(?:\*| )\s*([\w$]+)/
const MEMBER =
  /^ {2}(?:(?:private|protected|public|static|override|readonly|async|get|set) )*\*?(#?[\w$]+)\??(?:[(<:]| =)/

/** The function around a line, with its class; a function within another one counts as a part of that. */
function placeOf(lines: readonly string[], from: number): string {
  let member: string | undefined
  for (let at = from; at >= 0; at--) {
    const line = lines[at]!
    member ??= MEMBER.exec(line)?.[1]
    if (!/^[^\s)}*]/.test(line)) continue
    const [, word, name] = TOP.exec(line) ?? []
    if (name === undefined) break
    return word === 'class' ? `${name}.${member}` : name
  }
  return 'the module'
}

/** The kinds of plain timers. */
export const KINDS = {
  paces: 'does its own work again and again, or looks',
  retries: 'tries again what has failed',
  delays: 'goes on a moment later, and judges no other party',
  'own end': 'limits what this process does itself',
  'reads first': 'judges another party, and reads or looks before it does',
  left: 'judges another party without reading, on purpose',
} as const

/**
 * Why each timer of Node may act without reading what has arrived: after a stop of the process (SIGSTOP, a busy machine) a limit is over although the answer
 * has come in time. A timer that judges another party (ends it, refuses it, reports it) is none of these: use `afterReading()`, `withinLimit()` or `.limit()`.
 * `FUNCTION: KIND: why`, by file.
 */
export const PLAIN: Readonly<Record<string, readonly string[]>> = {
  'auto/auto.ts': ['Auto.undecided: paces: keeps the process alive until it is decided how the program runs'],
  'auto/awaited-listeners.ts': [
    'AwaitedListeners.complete: paces: looks for servers of this program',
    'AwaitedListeners.complete: delays: one turn, in which this program may open more servers',
  ],
  'auto/node-startup.ts': ['delayMain: paces: keeps the process alive until its main module runs'],
  'auto/program-shutdown.ts': [
    'ProgramShutdown.#end: own end: this program has been told to end',
    'ProgramShutdown.#onRetired: own end: this program has retired',
  ],
  'auto/service.ts': [
    'AutoService.#onListening: own end: this program runs on without upgrades, since it does not open the addresses of the service',
    'untilHealthy: retries: asks this program again',
  ],
  'auto/starting.ts': ['StartingProcesses.settled: delays: the end of this process, while others start'],
  'base/after-reading.ts': [
    'afterReading: reads first: the limit that reads first',
    'everyAfterReading: reads first: the regular judgement that reads first',
  ],
  'base/gradual-leave.ts': ['GradualLeave.#continue: paces: one group of connections after the other'],
  'base/running-time.ts': ['withinRunningTime: reads first: counts only the time in which this process runs'],
  'cli/access-lines.ts': ['AccessLines.line: delays: writes the lines that have come'],
  'cli/ask-service.ts': ['pollUntil: paces: asks the service again'],
  'cli/drain.ts': ['drain: paces: looks at the connections again'],
  'cli/events.ts': ['printEvents: paces: asks for new events'],
  'cli/fd.ts': ['list: retries: asks again for a whole list'],
  'cli/keep.ts': [
    'keep: paces: reaps adopted processes',
    'keep: delays: an adopted process may still be starting',
  ],
  'cli/log.ts': ['LogFile.#failed: retries: writes again'],
  'cli/logs.ts': ['logs: paces: reads what the log has got'],
  'cli/output.ts': [
    'WaitingLine.constructor: paces: draws the line again',
    'WaitingNotes.#wait: delays: a note about what the command waits for',
  ],
  'cli/proxy-signals.ts': ['proxySignals: own end: a signal has ordered the end at once'],
  'cli/proxy.ts': ['proxy: delays: keeps the configuration when the start is over'],
  'cli/start-turn.ts': ['Turn.constructor: paces: answers those that wait for their turn'],
  'cli/start.ts': [
    'ProgramStart.#rejectAtEnd: delays: the program has ended: its last output may still come',
  ],
  'cli/status.ts': ['watchStatus: paces: asks for the status again'],
  'cli/stop.ts': [
    'stop: delays: asks the service what it waits for, and prints that',
    'stop: delays: asks the service what it waits for, and prints that',
  ],
  'cli/top.ts': ['Top.untilLeft: paces: asks for the figures again'],
  'code-cache/library.ts': ['the module: delays: writes the cache when the start is over'],
  'code-cache/main.ts': ['the module: delays: writes the cache when the start is over'],
  'connections/adapters/event-stream-ends.ts': [
    'EventStreamEnds.#endIfQuiet: paces: looks whether this program has written more to its stream',
  ],
  'connections/adapters/http-responses.ts': [
    'PendingSet.#dropEnded: paces: forgets answers that have ended',
    'PendingSet.add: paces: forgets answers that have ended',
  ],
  'connections/adapters/http-server.ts': [
    'HeldSockets.hold: delays: reads again from clients that were held for a move',
  ],
  'connections/move-slice.ts': ['pause: paces: other work between two slices'],
  'connections/sender.ts': [
    'ConnectionSender.#endPass: paces: looks again for connections that can move',
    "ConnectionSender.#prove: delays: the next group leaves, also without the receiver's word",
    'ConnectionSender.#schedule: paces: the next group of connections',
  ],
  'daemon/service/followers.ts': ['ForeignFollowers.constructor: paces: renews the copies of followers'],
  'daemon/service/merging.ts': ['Merging.constructor: paces: looks whether segments can be merged'],
  'daemon/services.ts': [
    'Services.restore: paces: looks whether the list of members is there',
    'StateSizes.open: paces: looks at the sizes of states',
    'UnservedServices.#schedule: reads first: if it is late, waits for another second, and reads in it',
  ],
  'daemon/user-quotas.ts': ['CountedUser.#serveLater: paces: the share of time of a user'],
  'events/event-log.ts': [
    'EventLog.#write: retries: writes events again',
    'EventLog.follow: paces: looks for new events',
  ],
  'holder/descriptor-names.ts': ['DescriptorNames.write: retries: writes again after a failure'],
  'holder/holder.ts': [
    'Holder.constructor: paces: tells the members that this process is alive',
    'repeatAfterFailure: retries: a step that has failed',
  ],
  'holder/renewal.ts': ['Renewal.constructor: paces: looks at the size of the segment'],
  'listeners/guard.ts': [
    'ListenerGuard.add: paces: looks whether paths of listeners are there',
    'ListenerGuard.#watchPathsIn: paces: looks whether paths of listeners are there, and watches them',
  ],
  'member/drain/connection-drain.ts': [
    "DrainTimer.shorten: own end: the end of this process's drain",
    'allEnded: paces: counts the connections again',
  ],
  'member/drain/moves.ts': [
    'Moves.#announceAtHalf: delays: tells clients that their connections will end',
    'Moves.#later: retries: asks for a channel again',
  ],
  'member/driver.ts': ['MemberDriver.#waitWhileHandingOver: paces: looks at the segments of a handoff'],
  'member/hosting/control-socket.ts': [
    'ControlSocket.leaveToSuccessor: retries: listens again',
    'ControlSocket.leaveToSuccessor: delays: accepts again, beside the successor',
  ],
  'member/hosting/holder-link.ts': ['pause: retries: connects again'],
  'member/hosting/operator-requests.ts': ['AppendNotice.#schedule: paces: tells of changes at most so often'],
  'member/hosting/seal-watch.ts': [
    'SealWatch.start: paces: looks whether this process was sealed or released',
  ],
  'member/joining/hung-incumbent.ts': ['replaceHung: own end: this stand-in ends'],
  'member/joining/join.ts': ['joinAt: retries: joins again'],
  'member/joining/process-member.ts': [
    'WaitingWork.constructor: delays: starts work of this program, which does not join',
    'WaitingWork.joining: own end: tells the work of this program for how long it may go on',
  ],
  'member/lifecycle/cannot-serve.ts': ['DescriptorShortage.retryLater: retries: tries again to serve'],
  'member/lifecycle/heartbeat.ts': [
    'Heartbeat.start: reads first: reads before it judges the holder silent, and beats',
  ],
  'member/lifecycle/readiness.ts': [
    'warnUnlessReady: delays: a hint that this program has not called ready()',
  ],
  'member/lifecycle/shutdown.ts': [
    'watchDoubledTimers: delays: a hint about timers of this program',
    'watchRetired: own end: a hint why this retired process lives, or its end',
    'watchRetired: own end: a hint why this retired process lives, or its end',
  ],
  'member/listeners/closed-sockets.ts': [
    'ClosedSockets.keep: paces: looks whether a closed socket is needed',
  ],
  'member/listeners/datagram-server.ts': [
    "DatagramServer.emptied: own end: the last moment for an application's late answers",
  ],
  'member/listeners/worker-orders.ts': ['claimFrom: retries: asks the next main process'],
  'member/operator/member-metrics.ts': ['MemberMetrics.text: delays: the text without the last counts'],
  'member/state/followed-state.ts': ['FollowedState.#start: paces: reads changes of others'],
  'member/state/log-space.ts': [
    'LogSpace.#removeSecretsLater: retries: removes secrets again',
    'LogSpace.constructor: paces: looks at the size of the log',
  ],
  'member/state/serving-link.ts': [
    'ServingLink.#later: paces: reports to the serving process, or connects again',
  ],
  'metrics/totals.ts': ['Totals.start: paces: writes counts'],
  'node/active-timers.ts': ["PROTOTYPE: delays: only a timer's prototype"],
  'node/held-writes.ts': ['HeldWrites.hold: paces: looks whether held writes may go on'],
  'node/http2-endings.ts': ['endHttp2Session: retries: sends GOAWAY again'],
  'node/socket-handle.ts': ["loopTime: delays: only the event loop's clock"],
  'operator/ask-again.ts': ['askAgain: retries: asks again'],
  'operator/client.ts': [
    "OperatorClient.upgrade: left: 30 s behind a cancelled upgrade: an operator's command gives up its own wait",
  ],
  'operator/service-state.ts': ['ServiceState.watch: paces: looks for changes'],
  'operator/serving.ts': ['LastServer.find: retries: asks again which process serves'],
  'os/connect.ts': ['pause: retries: connects again'],
  'os/liveness.ts': ['endsWithin: reads first: looks at the pidfd when its time is over'],
  'os/pid-file.ts': ['PidFile.write: paces: looks whether the file is there'],
  'os/process-identity.ts': [
    'fateOf: reads first: looks at the pidfd when its time is over',
    'poll: paces: looks whether a process lives',
    'watchIdentity: paces: looks whether a process lives',
  ],
  'os/restore-control.ts': [
    'ControlWatch.#lookSoon: paces: looks whether the control path is there',
    'ControlWatch.start: paces: looks whether the control path is there',
  ],
  'os/service-manager/notify-socket.ts': ['NotifySocket.#send: retries: sends again'],
  'os/service-manager/service-manager.ts': [
    'Watchdog.extendTimeout: paces: asks the service manager for more time',
    'Watchdog.start: paces: tells the service manager that this process is alive',
  ],
  'probing/health-check.ts': ['repeatCheck: paces: the next check'],
  'probing/shell.ts': [
    'childShell: delays: the command has ended: the rest of its output is read',
    'nodeShell: delays: the command has ended: the rest of its output is read',
  ],
  'proxy/after-handoff.ts': ['afterHandoff: paces: looks whether a handoff is over'],
  'proxy/client-limits.ts': ['RateLimitedWarnings.#log: paces: a line of the log at most so often'],
  'proxy/names/name-servers.ts': [
    'resolveBothFamilies: delays: the addresses of the other family may follow at once',
  ],
  'proxy/names/names.ts': ['Names.#lookup: delays: the addresses that are known serve meanwhile'],
  'proxy/proxy-listener.ts': [
    'ProxyListener.#refuseConnection: own end: a client that has its answer, and was refused',
  ],
  'proxy/routes/rate-buckets.ts': ['RateBuckets.#schedule: paces: shares counts with other processes'],
  'proxy/server-checks/server-checks.ts': ['RunningCheck.#schedule: paces: the next check'],
  'proxy/tls/handshakes.ts': ['HandshakeCounts.countFailed: paces: a line of the log at most so often'],
  'proxy/upstreams/queue.ts': [
    'UpstreamQueue.#awaitDue: delays: a server that was out may get requests again',
  ],
  'proxy/warm-up.ts': ['warmUpInFirstWave: delays: this process warms itself up'],
  'relay/client-watch.ts': ['ClientWatch.add: paces: looks which clients have gone'],
  'relay/connection.ts': [
    'RelayConnection.#startRest: delays: the connection may move before its next request',
  ],
  'relay/polled-stream.ts': ["PolledStream.#connect: retries: connects when the server's queue has room"],
  'relay/relay.ts': [
    'Relay.#endAll: delays: clients that were given up after reading get the last error',
    'Relay.departures: delays: asks again for connections that wait for a server',
  ],
  'relay/relayed-connections.ts': [
    'RelayedConnections.departures: retries: moves when there are descriptors',
  ],
  'relay/socket-stream.ts': [
    'SocketStream.#onWritten: delays: the connection may move before its next bytes',
  ],
  'relay/upstream-pools.ts': ['UpstreamPool.#enter: paces: asks other processes for a slot'],
  'relay/warm-up.ts': [
    "WarmUpRun.run: own end: the end of this process's warm-up",
    'WarmUpRun.run: paces: the next burst of the warm-up',
  ],
  'run/claimed-descriptors.ts': ['claimSoon: retries: claims again what another process is about to store'],
  'run/exec-state.ts': ['dryRun: left: the next image tries the state: a failure changes nothing'],
  'run/listener-daemon.ts': ['ListenerDaemon.#keep: retries: gives the daemon the listeners again'],
  'run/running-version.ts': [
    'RunningVersion.#watchEnd: delays: the version has ended: its exit code may follow',
  ],
  'run/unused-listeners.ts': ['UnusedListeners.watch: paces: looks which listeners the program uses'],
  'socket-io/exchange.ts': ['Exchange.#drain: paces: reads changes of others'],
  'socket-io/internals.ts': ['continuePings: paces: the next ping, as socket.io does'],
  'socket-io/waiting-requests.ts': [
    'WaitingRequests.add: left: up to 15 s for a session that another process gives: then the client connects again',
  ],
  'sources/etcd-source.ts': ['EtcdSource.#watch: paces: asks the store; that call has a limit that reads'],
  'sources/folder-source.ts': [
    'Changes.within: paces: looks at the folder',
    'Changes.within: delays: more changes of the folder may follow',
  ],
  'sources/follow-source.ts': ['FollowedSource.#run: retries: follows the store again'],
  'sources/http-source.ts': ['HttpSource.read: paces: asks the server again'],
  'state/file/claim.ts': ['FileClaim.take: retries: asks for the file again'],
  'state/file/state-file.ts': [
    'StateFile.#scheduleCheck: paces: looks whether the file is there',
    'StateFile.#schedulePass: paces: the next writing',
  ],
  'state/file/write-failures.ts': ['WriteFailures.recordFailure: retries: writes again'],
  'state/forward-queue.ts': ['ForwardQueue.#run: paces: looks whether its changes were made'],
  'stores/expiring-section.ts': ['ExpiringSection.#open: paces: deletes expired entries'],
  'streams/event-channels.ts': ['EventChannels.constructor: paces: a comment to clients'],
  'streams/event-log.ts': ['EventLog.#poll: paces: reads changes of others'],
  'timeline/recorder.ts': [
    'TimelineRecorder.#ask: paces: asks for the status again',
    'TimelineRecorder.finish: delays: the time after the upgrade that the picture shows',
    'TimelineRecorder.finish: delays: the time after the upgrade that the picture shows',
    'TimelineRecorder.finish: paces: looks at the connections again',
    'TimelineRecorder.start: delays: the time before the upgrade that the picture shows',
  ],
  'tls/ticket-keys.ts': [
    'TicketKeys.#onRotationDue: paces: looks again at the age of the keys',
    'TicketKeys.#rotateWhenDue: delays: the next keys',
  ],
  'tls13/exporter.ts': ['TlsPosition.secured: paces: looks whether bytes were sent'],
  'tls13/self-test.ts': ['moveOne: own end: a test of this process with itself'],
  'tls13/tls-carrier.ts': [
    'TlsCarrier.#hold: paces: looks whether a held connection is between two records',
    'TlsCarrier.#lookLater: paces: looks again for connections that can move',
  ],
  'versions/leftover-processes.ts': ['waitUntil: paces: looks again'],
  'versions/upgrade-attempt.ts': [
    'UpgradeAttempt.#failed: delays: the reason of a failure that is known may follow',
    'UpgradeAttempt.#failed: delays: ends a successor that has failed, if it does not end by itself',
    'UpgradeAttempt.constructor: delays: the successor has ended: its reason may follow',
  ],
  'wire/channel.ts': ['Channel.#waits: paces: the share of time of a user'],
  'wire/control-listener.ts': ['ControlListener.#acceptLater: retries: accepts again'],
  'wire/outbound.ts': [
    'Outbound.#armDeadline: reads first: tries to send once more',
    'Outbound.#retryLater: retries: sends again',
  ],
  'workers/pool.ts': [
    'WorkerPool.#limitFirst: delays: the next step of the end of the first worker',
    'WorkerPool.#tellToLeave: retries: gives the order again',
  ],
  'workers/unserved-listeners.ts': ['UnservedListeners.#sendIfChanged: retries: gives the order again'],
  'workers/worker-slot.ts': ['WorkerSlot.update: retries: starts a worker again'],
  'ws/moved-web-sockets.ts': [
    'MovedWebSockets.#hold: delays: reads again from a client that was held for a move',
  ],
}
