// @ts-check
/**
 * Errors of `join()`, and of a member until it serves.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const JOINING = {
  ERR_FDB_BUSY: {
    cause: 'A handoff is in progress, no member serves, or a restarted daemon waits for its members',
    remedy: 'Try again later; `fd-broker upgrade --kill-stuck` kills a stuck process',
  },
  ERR_FDB_SERVICE: {
    cause: 'The control socket belongs to another service, or the daemon has no service of this name',
    remedy: 'Give each service its own control path',
  },
  ERR_FDB_VERSION: {
    cause:
      'The releases have no common protocol version, or the installed one cannot continue a `run` (`upgrade --self`)',
    remedy: 'Upgrade through a release that supports both; restart `run`',
  },
  ERR_FDB_NOT_A_DAEMON: {
    cause: 'The process at the control path is no daemon',
    remedy: "Start `fd-broker serve` on another path, or join with `hosting: 'embedded'`",
  },
  ERR_FDB_CLUSTER_WORKER: {
    cause: '`join()` was called in a worker of `node:cluster`',
    remedy: 'Call `join()` in the primary, or do not use cluster',
  },
  ERR_FDB_REJECTED: {
    cause: 'The other process refused without a code',
    remedy: 'Read its log',
  },
  ERR_FDB_NOT_READY: {
    cause: 'A successor awaited a change before `ready()` had resolved',
    remedy: 'Await the change after `ready()`; it is not lost',
  },
  ERR_FDB_READY_TWICE: {
    cause: '`ready()` was called a second time',
    remedy: 'Call it once',
  },
  ERR_FDB_CHECK: {
    cause: 'A check of `ready()` threw or returned false; the incumbent keeps serving',
    remedy: 'Fix the cause and start the next version again',
  },
  ERR_FDB_ABORTED: {
    cause: 'The operation was cancelled',
    remedy: 'See the message for the reason',
  },
  ERR_FDB_DEADLINE: {
    cause: 'A time limit is over: the other process is stuck, stopped or slow',
    remedy:
      'End the stuck process, or raise the limit. A forwarded change may have been made: repeat it with the same `request` id',
  },
  ERR_FDB_CLOSED: {
    cause: 'This member was closed, or has retired',
    remedy: 'After `close()` call `join()` again; a retired process must end',
  },
  ERR_FDB_FENCED: {
    cause:
      'Another process serves now, and did not accept the change within `timeout`; the change was not made',
    remedy: 'Repeat the request on a new connection',
  },
  ERR_FDB_UNFIT: {
    cause: 'This process cannot write; it answers from the state that it has read',
    remedy: 'Upgrade to a version that can write',
  },
}

/**
 * Errors of `upgrade()`. Unless the text says otherwise, the incumbent keeps serving.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const UPGRADING = {
  ERR_FDB_NO_CONTROL: {
    cause: 'The process runs with `control: false`',
    remedy: 'Give `join()` a control path',
  },
  ERR_FDB_MAIN_PROCESS: {
    cause: "The end of this process (PID 1, or its unit's main process) would end its successor too",
    remedy: 'Set [`mainProcess`](api.md#pid-1-of-a-container-main-process-of-a-unit)',
  },
  ERR_FDB_NO_BINARY: {
    cause: 'The program file of this process was removed',
    remedy: "Give the successor's `argv` with an absolute path",
  },
  ERR_FDB_RELEASE_LINK: {
    cause: '`fd-broker run`, `upgrade` or `rollback` cannot replace the PATH of `--at`',
    remedy: "Let its user write in the path's folder",
  },
  ERR_FDB_NO_CWD: {
    cause: 'The folder in which this process was started was removed, or cannot be entered',
    remedy: 'Create the folder, or start the next version in another (`run --cwd`)',
  },
  ERR_FDB_SPAWN: {
    cause: 'A system call failed when the successor was started, or the memory limit leaves no room for it',
    remedy: "Check its command, its folder, this user's limits and the memory limit",
  },
  ERR_FDB_SUCCESSOR_EXITED: {
    cause: "The successor's process ended before it served",
    remedy: 'Read its output',
  },
  ERR_FDB_SUCCESSOR_LOST: {
    cause: 'The successor left the handoff before it served',
    remedy: 'Read its output; `lastFailure` in `status` has the phase',
  },
  ERR_FDB_SUCCESSOR_DIED: {
    cause: 'The successor died in the handoff or in probation; the incumbent serves again',
    remedy: 'Look for a core dump, a signal, the out-of-memory killer',
  },
  ERR_FDB_SUCCESSOR_LEFT: {
    cause: 'In probation the successor got a signal to end, or was rolled back',
    remedy: 'If a signal was not intended, find its sender',
  },
  ERR_FDB_UNHEALTHY: {
    cause: 'The successor failed its health check, or was silent in probation; the incumbent serves',
    remedy: 'See the message',
  },
  ERR_FDB_DIGEST: {
    cause: "The state that the successor read differs from the incumbent's",
    remedy: 'Try again; if it recurs, report it',
  },
  ERR_FDB_STUCK: {
    cause: 'A process that blocks the upgrade cannot be killed',
    remedy: 'End it manually',
  },
  ERR_FDB_LOST: {
    cause: 'A process was judged dead or unhealthy, and lost the right to serve',
    remedy: 'See the log',
  },
  ERR_FDB_ADOPT: {
    cause: 'The listeners of a process cannot be taken over',
    remedy: 'See the message; `fd-broker adopt --pid PID` lists the listeners',
  },
  ERR_FDB_TRACE: {
    cause: "This process may not take another's listeners; `details.right` names the missing right",
    remedy: "Run as that process's user, or as root with CAP_SYS_PTRACE",
  },
}
