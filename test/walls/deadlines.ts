import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Every way by which a wait gets a limit. The making of limits is not a wait. */
const LIMITED =
  /\.limit\(|\bafterReading\(|AbortSignal\.timeout\(|\bwithDeadline\(|\bwithinLimit\(|\bwithinRunningTime\(/
const MACHINERY = new Set(['base/limited-signal.ts', 'wire/pending.ts', 'member/lifecycle/readiness.ts'])

/** The lines of all sources that give a wait its limit, as `FILE: LINE`, without indentation. */
export function limitedWaits(src: string): string[] {
  return readdirSync(src, { recursive: true, encoding: 'utf8' })
    .filter(file => file.endsWith('.ts') && !file.endsWith('.d.ts') && !MACHINERY.has(file))
    .flatMap(file =>
      readFileSync(join(src, file), 'utf8')
        .split('\n')
        .filter(
          line =>
            LIMITED.test(line) && !/^\s*(?:\*|\/\/|import|export (?:async )?function|limit\()/.test(line),
        )
        .map(line => `${file}: ${line.trim()}`),
    )
    .toSorted()
}

/** Where it is proved that each wait of a file ends: a title of the table, or of a test of its own. As many as the file has waits with a limit. */
export const PROVED: Readonly<Record<string, readonly string[]>> = {
  'auto/limited-checks.ts': [
    'e2e/auto-concurrent: a next version that does not get ready ends at its limit also if the previous version has died',
  ],
  'connections/receiver.ts': [
    'unit/connections/moves: stay with the other when the sender has decided and its word was lost',
  ],
  'connections/sender.ts': [
    'unit/connections/moves: come back when the other does not acknowledge them in time',
    'unit/connections/moves: come back from the other before the end of moves',
  ],
  'daemon/daemon.ts': ['e2e/proxy-metrics: have the gauges of all workers, without a worker that is silent'],
  'daemon/service/descriptor-store.ts': [
    'unit/daemon/descriptor-store: can be claimed by a process that has asked in time, though the daemon was stopped then',
  ],
  'daemon/service/forwarded-upgrades.ts': [
    'unit/wire/deadlines: the answer of a member to an upgrade',
    'unit/wire/deadlines: the answer of a member whose successor has lost its connection',
    'unit/wire/deadlines: the answer of a member that has connected again, whose upgrade is lost',
  ],
  'daemon/service/recovery.ts': [
    'unit/daemon/recovery: a restarted daemon that was stopped for these 5 s first reads that the member is back',
  ],
  'daemon/service/sole-copy.ts': [
    'unit/state/file-mended: a daemon that is stopped, while it writes the state that it alone has, for longer than that may take, writes it all the same',
  ],
  'daemon/service/service-operations.ts': ['unit/wire/deadlines: the reply of a member to a command'],
  'daemon/service/status-requests.ts': [
    'unit/wire/deadlines: the answer of a member to a question for its status',
    'unit/daemon/service-operations: a status does not wait long for a member of another user',
  ],
  'holder/admission.ts': ['unit/wire/deadlines: a Hello that does not come'],
  'holder/hooks.ts': [
    'e2e/hooks: record that one answers with an error, or not in time',
    'e2e/run-hooks: a hook that has ended in time counts so',
  ],
  'holder/holder.ts': ['unit/wire/deadlines: a phase of a handoff'],
  'holder/peers.ts': ['unit/holder/peers'],
  'member/hosting/operator-requests.ts': [
    'unit/wire/deadlines: the word of a daemon that is asked to give up a successor',
  ],
  'member/hosting/daemon-entries.ts': ['unit/wire/deadlines: the registration of a listener'],
  'member/driver.ts': ['unit/handoff/member-machine'],
  'member/state/followed-state.ts': ['unit/member/follow: waits until somebody serves what it follows'],
  'member/hosting/holder-link.ts': [
    'unit/wire/deadlines: a Welcome that does not come',
    'e2e/kept-descriptors: continue in a process that waits for the Welcome of one that is killed meanwhile',
  ],
  'member/runtime.ts': ['unit/member/deadlines: gives up at its timeout'],
  // Both pass on the time of the order, or of the drain.
  'member/drain/connection-drain.ts': [
    'unit/member/end-order: set the time of the earliest end',
    'unit/member/end-order: keep half of the time, at most 5 s, for the last connections',
  ],
  'member/listeners/attached-server.ts': [
    'unit/member/deadlines: answers a request that arrives in time on a new connection',
  ],
  'member/joining/process-member.ts': ['e2e/run-once: stops what runs when the process joins late'],
  'member/joining/start.ts': ['unit/member/deadlines: gives up at its timeout'],
  'node/http2-endings.ts': [
    'unit/member/http2-sessions: a client that answers no ping is told the end all the same',
  ],
  'operator/client.ts': ['unit/wire/deadlines: the answer to an operator'],
  'operator/descriptors.ts': ['unit/wire/deadlines: has a limit'],
  'operator/server.ts': [
    'unit/daemon/idle-operators: has to leave when its time has passed since its last request, not since an earlier one',
  ],
  'probing/health-check.ts': [
    'unit/wire/deadlines: counts as a no of a version that is asked whether it is well',
  ],
  'proxy/health/health.ts': ['e2e/proxy-health'],
  'proxy/names/name-servers.ts': ['unit/proxy/names: fail after the timeout, and tell the reason'],
  'proxy/proxy-header.ts': ['unit/proxy/proxy-header: a header that has come in time is read'],
  'proxy/proxy-listener.ts': ['e2e/fleet: between two requests'],
  'proxy/source/sourced-config.ts': [
    'e2e/proxy-source: serves on without the store, and does not begin to serve without it',
  ],
  'proxy/tls/handshakes.ts': ['e2e/proxy-tls: ends in time, counts by kind, and disturbs no other client'],
  'relay/relay.ts': [
    'unit/relay/connections: hears first requests and answers that have come while this process was stopped',
    'unit/relay/connections: lets the requests go on that its drain would have given up',
  ],
  'run/predecessor.ts': [
    'e2e/run-adopt: leaves it to serve if the first version has ended while the supervisor was stopped',
  ],
  'run/shared-listeners.ts': ['unit/run/unit-job: ends after 10 s where systemctl says nothing'],
  'run/supervisor.ts': ['e2e/run-ends: a version is not ready yet'],
  'run/upgrade-requests.ts': [
    'e2e/run-rollback: ends when it does not serve within the time of the upgrade: the link and the serving version stay one',
  ],
  'socket-io/found-namespaces.ts': [
    'unit/socket-io/recover: gives a session up whose namespace the application does not answer for',
  ],
  'sources/etcd-gateway.ts': ['unit/wire/deadlines: the answer of etcd'],
  'sources/http-source.ts': ['unit/wire/deadlines: the answer of an HTTP server with a section'],
  'state/commands.ts': [
    'unit/state/import-pieces: an import goes on with a piece that has come within 30 s, though the service was stopped then',
  ],
  'state/file/state-file.ts': ['unit/state/file: when it cannot be finished'],
  'tls13/self-test.ts': ['property/tls-record-layer: gives up at its limit'],
  'versions/upgrade-attempt.ts': [
    'unit/workers/pool: stays if it accepts before its Commit when its time is over, and may serve then',
    'unit/workers/pool: serves although this process, which was stopped, reads of it behind the time for its Commit',
    'unit/workers/pool: serves by a process that a service manager has started, if this process, which was stopped, reads of it late',
  ],
  'versions/version-probe.ts': ['unit/run/parts: does not become ready by its age before its end is heard'],
  'workers/pool.ts': [
    'unit/workers/pool: live if they have stopped to serve in time, of which this process, which was stopped, reads late',
    'unit/workers/pool: die 5 s behind the time in which they must leave; a later time changes nothing',
  ],
  'workers/worker-slot.ts': [
    'unit/workers/pool: stays after stopTimeout if it has left, of which this process, which was stopped, reads late',
  ],
  'versions/timers.ts': ['unit/run/parts: hear first what has arrived while the supervisor was stopped'],
  'wire/channel.ts': [
    'unit/wire/channel-foreign-users: ends when a frame stays incomplete, however little of it has come',
  ],
  'wire/link.ts': [
    'unit/wire/deadlines: the acknowledgement of descriptors',
    'unit/wire/channel-foreign-users: ends when a bundle stays incomplete',
  ],
}
