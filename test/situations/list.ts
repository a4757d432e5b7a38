/** Groups of situations, in the order of docs/situations.md. */
export const KINDS = {
  deploy: 'Deploys and reloads',
  connection: 'Open connections',
  framework: 'Frameworks and libraries',
  release: 'Release folders',
  listener: 'Ports and socket paths',
  unit: 'Units of a service manager',
  container: 'Containers',
  signal: 'Signals and terminals',
  wrapper: 'Tools that start the program',
  preload: 'Preloaded agents',
} as const

/** A situation in which users of other software had a complaint, and the test that shows that it does not occur here. */
export interface Situation {
  readonly kind: keyof typeof KINDS
  /** On github.com. */
  readonly report: string
  /** In our words. */
  readonly complaint: string
  readonly test: {
    readonly file: string
    /** The title in the source of the test, or its beginning. */
    readonly title: string
    /** The gate leaves it out. */
    readonly nightly?: true
  }
}

function gate(file: string, title: string): Situation['test'] {
  return { file: `test/${file}.test.ts`, title }
}

function nightly(file: string, title: string): Situation['test'] {
  return { file: `test/${file}.test.ts`, title, nightly: true }
}

export const SITUATIONS: readonly Situation[] = [
  {
    kind: 'deploy',
    report: 'Unitech/pm2/issues/2942',
    complaint: 'Each reload drops connections between nginx and the program, and users get 502.',
    test: gate('e2e/auto-programs', 'an HTTP server, by %s'),
  },
  {
    kind: 'deploy',
    report: 'Unitech/pm2/issues/3143',
    complaint: 'A benchmark that asks one request after the other loses some in a series of reloads.',
    test: gate('e2e/upgrade-under-load', 'under load, '),
  },
  {
    kind: 'deploy',
    report: 'Unitech/pm2/issues/3078',
    complaint: 'A reload ends the old process seconds before the new one listens.',
    test: gate('e2e/run', 'keeps the version that serves when the next one crashes, is not ready'),
  },
  {
    kind: 'deploy',
    report: 'Unitech/pm2/issues/1875',
    complaint: 'A reload does not wait until the new process can answer, which takes 5 to 10 s.',
    test: gate('e2e/auto-alone', 'takes over when it answers at the path that FD_BROKER_READY names'),
  },
  {
    kind: 'deploy',
    report: 'Unitech/pm2/issues/5043',
    complaint: 'The old process gets new requests in the time that it has for finishing its work.',
    test: nightly('e2e/auto-programs', 'an HTTP server that takes long to end when it is replaced'),
  },
  {
    kind: 'deploy',
    report: 'Unitech/pm2/issues/6129',
    complaint: 'A reload during a reload leaves an old process that serves old code, and that no list has.',
    test: gate('e2e/upgrade-races', 'a third while one is joining: busy, retryable, and named'),
  },
  {
    kind: 'deploy',
    report: 'Unitech/pm2/issues/981',
    complaint: 'After the second reload the port accepts, but no process answers.',
    test: gate('e2e/run', 'gives listeners by name and number, upgrades under load'),
  },
  {
    kind: 'deploy',
    report: 'capistrano-plugins/capistrano-unicorn-nginx/issues/114',
    complaint: 'A deploy of a broken version ends the old server too, and reports success.',
    test: gate('e2e/cli-upgrade', 'exits 1 with the reason when the successor ends at once'),
  },
  {
    kind: 'deploy',
    report: 'tablexi/capistrano3-unicorn/issues/23',
    complaint: 'The deploy script goes on after the new version has ended by an error in its code.',
    test: nightly('frameworks/guides', 'deploys by a script, which fails with the new version'),
  },
  {
    kind: 'deploy',
    report: 'sosedoff/capistrano-unicorn/issues/72',
    complaint: 'A restart fails because of bad code, the old code serves on, and no message says so.',
    test: gate('e2e/successor-output', 'has its exit code and its last lines on stderr, also in the status'),
  },
  {
    kind: 'deploy',
    report: 'envoyproxy/envoy/issues/33446',
    complaint: 'When a new process ends early in a hot restart, every later restart is refused.',
    test: gate('e2e/daemon-upgrade', 'say why they failed, at once, and can be tried again'),
  },
  {
    kind: 'deploy',
    report: 'envoyproxy/envoy/issues/550',
    complaint: 'Restarts that follow each other within 250 ms take down the old and the new process.',
    test: gate('e2e/upgrade-races', 'five that arrive at once: all but one are refused as busy'),
  },
  {
    kind: 'deploy',
    report: 'envoyproxy/envoy/issues/10953',
    complaint: 'The new process waits forever for an answer of the old one that does not come.',
    test: gate('e2e/upgrade-dead-incumbent', 'stopped when its successor is ready: the deadline'),
  },
  {
    kind: 'deploy',
    report: 'unimib-datAI/dfaas/issues/8',
    complaint: 'A proxy closes connections and refuses requests while it reads its configuration again.',
    test: gate('e2e/proxy-reload', 'takes routes, upstreams and limits over, and loses no connection'),
  },
  {
    kind: 'deploy',
    report: 'rcrowley/goagain/issues/5',
    complaint: 'Each reload leaves two more open sockets in the process.',
    test: gate('e2e/rounds-leave-nothing', 'of many upgrades of an embedded service'),
  },
  {
    kind: 'deploy',
    report: 'benoitc/gunicorn/issues/245',
    complaint: 'Each new master inherits more open files, until there are too many.',
    test: nightly('e2e/upgrade-many', 'leave generation '),
  },
  {
    kind: 'connection',
    report: 'Unitech/pm2/issues/1166',
    complaint: 'A reload kills requests in flight long before the graceful timeout is over.',
    test: gate('e2e/upgrade-under-load', 'while a slow request and a stream are under way'),
  },
  {
    kind: 'connection',
    report: 'Unitech/pm2/issues/1499',
    complaint: 'A reload interrupts a large upload.',
    test: gate('e2e/connections-proof', 'notices nothing of upgrades, whatever a client is doing'),
  },
  {
    kind: 'connection',
    report: 'Unitech/pm2/issues/3407',
    complaint: 'A reload kills connections that old workers still serve, where nginx lets them end.',
    test: gate('e2e/connections-embedded', 'lets slow requests end where they are'),
  },
  {
    kind: 'connection',
    report: 'Unitech/pm2/issues/3230',
    complaint: 'A deploy waits until all WebSockets are closed, while new ones reach the old process.',
    test: gate('e2e/web-sockets', 'go on through upgrades and a rollback'),
  },
  {
    kind: 'connection',
    report: 'nodejs/node/issues/51677',
    complaint: 'close() ends idle connections, and the next request of their clients fails.',
    test: gate('e2e/connections-embedded', 'keeps every connection, idle and busy'),
  },
  {
    kind: 'connection',
    report: 'nodejs/node/issues/47130',
    complaint:
      'The server closes a kept connection just when a request comes, and the client gets ECONNRESET.',
    test: gate('e2e/proxy-tls-upgrade', 'waits for a connection that is idle, and answers it once more'),
  },
  {
    kind: 'connection',
    report: 'nodejs/node/issues/2642',
    complaint: 'A client that keeps asking on its connection keeps a closing server alive forever.',
    test: gate(
      'e2e/upgrade-servers',
      'https: connections that stay are answered once more and told to close',
    ),
  },
  {
    kind: 'framework',
    report: 'Unitech/pm2/issues/2508',
    complaint: 'After reloads old processes hold sockets of socket.io, which has each client several times.',
    test: nightly('frameworks/live', 'socket.io, over WebSockets'),
  },
  {
    kind: 'framework',
    report: 'expressjs/session/issues/885',
    complaint: 'Users of express-session must log in again after each deploy.',
    test: nightly('e2e/stores', 'over upgrades log nobody out, lose no change'),
  },
  {
    kind: 'framework',
    report: 'node-cron/node-cron/issues/299',
    complaint: 'After each patch a cron job runs once more, because the old process has not ended.',
    test: gate('e2e/run-once', 'runs work once over upgrades of a program under fd-broker/auto'),
  },
  {
    kind: 'framework',
    report: 'kelektiv/node-cron/issues/349',
    complaint: 'A report was sent twice after a deploy.',
    test: gate('e2e/upgrade-work', 'run in one process at a time, and begin no job twice'),
  },
  {
    kind: 'release',
    report: 'puma/puma/issues/3290',
    complaint: 'After a phased restart the workers run in the release to which the link led before.',
    test: gate('e2e/release-folders', 'hands over to the next release, by %s'),
  },
  {
    kind: 'release',
    report: 'puma/puma/issues/185',
    complaint: 'A restart starts every process again, but with the old code.',
    test: nightly('e2e/upgrade-releases', 'of the shop example, whose folder it is'),
  },
  {
    kind: 'release',
    report: 'puma/puma/issues/468',
    complaint: 'A worker that is killed after a deploy is started again with the old release.',
    test: gate('e2e/release-folders', 'starts a version again that has ended from the release'),
  },
  {
    kind: 'release',
    report: 'seuros/capistrano-puma/pull/396',
    complaint: 'The deploy deletes the folder of the release that serves, and the restart then fails.',
    test: nightly('e2e/release-folders', 'serves on when the folder of its release is deleted'),
  },
  {
    kind: 'listener',
    report: 'nodejs/node/issues/19729',
    complaint: 'close() of the old server deletes the socket path on which the new one listens.',
    test: gate('e2e/listener-paths', 'goes on the last close, not with a generation that was replaced'),
  },
  {
    kind: 'listener',
    report: 'benoitc/gunicorn/issues/476',
    complaint: 'QUIT to the old master deletes the socket path of the new one.',
    test: nightly('e2e/upgrade-servers', 'a Unix path under load: never absent'),
  },
  {
    kind: 'listener',
    report: 'envoyproxy/envoy/issues/2697',
    complaint: 'A hot restart with the same configuration cannot bind its Unix socket.',
    test: gate('e2e/auto-programs', 'a server on a Unix socket'),
  },
  {
    kind: 'listener',
    report: 'envoyproxy/envoy/issues/38146',
    complaint: 'A hot restart fails at a second listener, whose address is in use.',
    test: gate('e2e/upgrade-descriptors', 'cross in one handoff, 300 listeners and named ones'),
  },
  {
    kind: 'listener',
    report: 'nodejs/node/issues/24963',
    complaint: 'A socket file that a killed process has left keeps the next one from starting.',
    test: gate('unit/listeners/bind', 'make way if stale'),
  },
  {
    kind: 'listener',
    report: 'remy/nodemon/issues/1435',
    complaint: 'The new process ends with EADDRINUSE, because the old one still listens.',
    test: gate('e2e/auto-start', 'serves in the background, upgrades when it is called again'),
  },
  {
    kind: 'listener',
    report: 'remy/nodemon/issues/1464',
    complaint: 'A process that the tool has lost has the port, and users must find that process and kill it.',
    test: gate('e2e/auto-start', 'names the process that has the port, and prints the failure as JSON'),
  },
  {
    kind: 'unit',
    report: 'benoitc/gunicorn/issues/2856',
    complaint: 'systemd ends the new master when the old one, its main process, leaves.',
    test: gate('e2e/systemd-notify', 'of an upgrade of the main process: who it is then'),
  },
  {
    kind: 'unit',
    report: 'sozu-proxy/sozu/issues/394',
    complaint: 'Under systemd no process listens after an upgrade.',
    test: gate('e2e/systemd-notify', 'of each of three upgrades in a row'),
  },
  {
    kind: 'unit',
    report: 'benoitc/gunicorn/issues/1670',
    complaint: 'Supervisor starts a second server when the old master has left the service to the new one.',
    test: gate('e2e/run-systemd', 'tells of its start, of upgrades that succeed and fail'),
  },
  {
    kind: 'unit',
    report: 'benoitc/gunicorn/issues/1109',
    complaint: 'An upgrade fails when the Unix socket belongs to a unit of systemd.',
    test: nightly('e2e/socket-activation', 'leave a Unix path to the manager'),
  },
  {
    kind: 'unit',
    report: 'cloudflare/tableflip/issues/6',
    complaint: 'The documented unit has no ExecReload, so that a deploy stops and starts the service.',
    test: gate('unit/project/systemd-units', 'have an upgrade as their ExecReload if they serve'),
  },
  {
    kind: 'unit',
    report: 'cloudflare/tableflip/issues/54',
    complaint: 'The next version does not get variables that have changed.',
    test: gate('e2e/run', 'reads its file anew for every version: command, environment and listeners'),
  },
  {
    kind: 'unit',
    report: 'systemd/systemd/issues/11238',
    complaint: 'A reload whose command fails, with a wrong configuration, ends the service.',
    test: gate('e2e/cli-service', 'reload: the configuration counts when the command has returned'),
  },
  {
    kind: 'unit',
    report: 'DefGuard/defguard/issues/1266',
    complaint: 'systemctl reload kills the process, which does not handle HUP.',
    test: gate('e2e/cli-serve-signals', 'HUP, USR1 and WINCH are noted, and end nothing'),
  },
  {
    kind: 'container',
    report: 'nodejs/node-v0.x-archive/issues/9131',
    complaint: 'Node as PID 1 ignores TERM and INT.',
    test: gate('e2e/auto-signals', 'a program without a handler, which the kernel would not end'),
  },
  {
    kind: 'container',
    report: 'TryGhost/docker-library-ghost/issues/37',
    complaint: 'npm as PID 1 does not pass TERM on, and the container is killed after 10 s.',
    test: nightly('e2e/auto-wrappers', 'npm start, whose script begins with exec, as PID 1 of a container'),
  },
  {
    kind: 'container',
    report: 'arjunkomath/openclaw-railway-template/pull/78',
    complaint: 'Zombies pile up under PID 1.',
    test: nightly(
      'e2e/auto-container',
      'the first process in a container that would end with it keeps its place',
    ),
  },
  {
    kind: 'container',
    report: 'kubernetes/kubernetes/issues/43576',
    complaint: 'A rolling update loses requests.',
    test: nightly('e2e/kubernetes', 'upgrades by an exec, as its manifest says'),
  },
  {
    kind: 'container',
    report: 'kubernetes/ingress-nginx/issues/7097',
    complaint: 'The rolling update of a deployment with one replica causes 502.',
    test: nightly('e2e/kubernetes', 'replace each other under load: none that was replaced ends'),
  },
  {
    kind: 'signal',
    report: 'logdna/nodejs/issues/22',
    complaint: 'A library that ends the process only if no other code listens to INT keeps the server alive.',
    test: gate('e2e/auto-signals', 'a replaced program with a library that %s keeps the container'),
  },
  {
    kind: 'signal',
    report: 'cloudflare/tableflip/issues/59',
    complaint: 'After an upgrade the shell has the terminal again, and Ctrl-C does not reach the server.',
    test: gate('e2e/auto-terminal', 'keeps its place there for its successors, which Ctrl-C ends'),
  },
  {
    kind: 'signal',
    report: 'foreversd/forever/issues/18',
    complaint: 'A server that was started in the background ends with the ssh session.',
    test: gate('e2e/auto-start', 'starts what survives the end of its terminal'),
  },
  {
    kind: 'signal',
    report: 'envoyproxy/envoy/issues/4797',
    complaint: 'A HUP while the proxy starts kills it, and the container with it.',
    test: gate('e2e/proxy-signals', 'HUP before it serves: the configuration is read anew'),
  },
  {
    kind: 'signal',
    report: 'envoyproxy/envoy/issues/7861',
    complaint: 'Many HUPs in a row freeze the proxy between two versions.',
    test: gate('e2e/run', 'starts the next version on HUP, one for all that come meanwhile'),
  },
  {
    kind: 'wrapper',
    report: 'privatenumber/tsx/issues/95',
    complaint: 'tsx ends the program at Ctrl-C before its cleanup is done.',
    test: nightly('e2e/auto-wrappers', 'tsx in a terminal, %s, generation %d'),
  },
  {
    kind: 'wrapper',
    report: 'TypeStrong/ts-node/issues/457',
    complaint: 'At Ctrl-C ts-node returns to the shell while the program still shuts down.',
    test: nightly('frameworks/wrappers/wrappers', 'Ctrl-C to ts-node, generation %d'),
  },
  {
    kind: 'wrapper',
    report: 'kentcdodds/cross-env/pull/20',
    complaint: 'TERM to cross-env does not reach the server, which never ends.',
    test: nightly('frameworks/wrappers/wrappers', 'SIGTERM to cross-env, generation %d'),
  },
  {
    kind: 'wrapper',
    report: 'entropitor/dotenv-cli/pull/107',
    complaint: 'Ctrl-C ends dotenv at once, and leaves the program behind.',
    test: nightly('frameworks/wrappers/wrappers', 'Ctrl-C to dotenv-cli, generation %d'),
  },
  {
    kind: 'preload',
    report: 'newrelic/node-native-metrics/issues/155',
    complaint: 'An agent in NODE_OPTIONS hangs when it starts a child, which preloads it too.',
    test: nightly('frameworks/preloads/preloads', '%s, %s'),
  },
  {
    kind: 'preload',
    report: 'DataDog/dd-trace-js/issues/2162',
    complaint: 'Requests are not traced if another preload comes first.',
    test: nightly('frameworks/preloads/preloads', '%s, %s'),
  },
  {
    kind: 'preload',
    report: 'open-telemetry/opentelemetry-js/issues/1521',
    complaint: 'The listener of an agent takes the default action of TERM away, and the process goes on.',
    test: nightly(
      'frameworks/preloads/preloads',
      'under fd-broker/auto a version whose only listener of SIGTERM is that of an agent',
    ),
  },
]
