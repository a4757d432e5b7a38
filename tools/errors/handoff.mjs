// @ts-check
/**
 * Of `join()` and of the way from there to serving.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const JOINING = {
  ERR_FDB_BUSY: {
    cause: 'A handoff is under way, no member serves, or a restarted daemon waits for its members',
    remedy: 'Try again; `fd-broker upgrade --kill-stuck` ends a stuck process',
  },
  ERR_FDB_SERVICE: {
    cause: 'The control socket is of another service, or the daemon has none of that name',
    remedy: 'Give each service its own control path',
  },
  ERR_FDB_VERSION: {
    cause:
      'The two releases have no common version of the protocol; or the installed one cannot continue a `run` (`upgrade --self`)',
    remedy: 'Upgrade by way of a release that speaks both; restart `run`',
  },
  ERR_FDB_NOT_A_DAEMON: {
    cause: 'The process at the control path is no daemon',
    remedy: "Start `fd-broker serve` on another path, or join with `hosting: 'embedded'`",
  },
  ERR_FDB_CLUSTER_WORKER: {
    cause: '`join()` was called in a worker of `node:cluster`',
    remedy: 'Call it in the primary, or run without cluster',
  },
  ERR_FDB_REJECTED: {
    cause: 'The other process refused without a code',
    remedy: 'Read its log',
  },
  ERR_FDB_NOT_READY: {
    cause: 'A successor awaited a change before `ready()` had passed',
    remedy: 'Await it after `ready()`; the change is kept',
  },
  ERR_FDB_READY_TWICE: {
    cause: '`ready()` was called before',
    remedy: 'Call it once',
  },
  ERR_FDB_CHECK: {
    cause: 'A check of `ready()` threw or answered false: the incumbent serves on',
    remedy: 'Correct the cause, and start the next version again',
  },
  ERR_FDB_ABORTED: {
    cause: 'The operation was cancelled',
    remedy: 'The message names the canceller',
  },
  ERR_FDB_DEADLINE: {
    cause: 'A time limit is over: the other side is stuck, stopped or slow',
    remedy:
      'End the stuck process, or raise the limit. A forwarded change may have been made: repeat it with the same `request` id',
  },
  ERR_FDB_CLOSED: {
    cause: 'This member was closed, or has retired',
    remedy: '`join()` again; after a retirement do nothing',
  },
  ERR_FDB_FENCED: {
    cause: 'Another process serves now, and did not take the change within `timeout`: it was not made',
    remedy: 'Repeat it: the next connection reaches the right process',
  },
  ERR_FDB_UNFIT: {
    cause: 'This process cannot write: it answers from the state that it has read',
    remedy: 'Upgrade to a version that can; see `unfit` in `status`',
  },
}

/**
 * Of `upgrade()`: unless it says otherwise, this process serves on.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const UPGRADING = {
  ERR_FDB_NO_CONTROL: {
    cause: 'The process runs with `control: false`',
    remedy: 'Give `join()` a control path',
  },
  ERR_FDB_MAIN_PROCESS: {
    cause: 'The end of this process (PID 1, or the main process of its unit) would end its successor too',
    remedy: 'Set [`mainProcess`](api.md#pid-1-of-a-container-main-process-of-a-unit)',
  },
  ERR_FDB_NO_BINARY: {
    cause: 'The program of this process is gone',
    remedy: "Give the successor's `argv` with an absolute path",
  },
  ERR_FDB_RELEASE_LINK: {
    cause: '`fd-broker run` may not change the link of `upgrade --binary NEW --at PATH`',
    remedy: "Let its user write in the link's folder; meanwhile `fd-broker upgrade` changes it",
  },
  ERR_FDB_NO_CWD: {
    cause: 'The folder in which this process was started is gone',
    remedy: 'Make it again, or start the next version in another (`run --cwd`)',
  },
  ERR_FDB_SPAWN: {
    cause: 'A system call failed when the successor was started',
    remedy: "Correct its command, its folder or this user's limits",
  },
  ERR_FDB_SUCCESSOR_EXITED: {
    cause: 'The successor ended before it served',
    remedy: 'Read its output',
  },
  ERR_FDB_SUCCESSOR_LOST: {
    cause: 'The successor left before it served',
    remedy: 'Read its output; `lastFailure` in `status` has the phase',
  },
  ERR_FDB_SUCCESSOR_DIED: {
    cause: 'The successor died in the handoff or in probation: the incumbent serves again',
    remedy: 'Look for a core dump, the out-of-memory killer, a signal',
  },
  ERR_FDB_SUCCESSOR_LEFT: {
    cause: 'The successor was told to end in probation, or rolled back',
    remedy: 'If it was not intended, find the sender',
  },
  ERR_FDB_UNHEALTHY: {
    cause: 'The successor failed its health check, or was silent in probation: the incumbent serves',
    remedy: 'See the message (question and answer), or its log',
  },
  ERR_FDB_DIGEST: {
    cause: 'The successor read another state than the incumbent has',
    remedy: 'Try again; if it persists, please report it',
  },
  ERR_FDB_STUCK: {
    cause: 'A process that blocks the upgrade cannot be ended',
    remedy: 'End it by hand',
  },
  ERR_FDB_LOST: {
    cause: 'A proxy was judged dead or unhealthy, and lost its right to serve',
    remedy: 'See the log; another process serves',
  },
  ERR_FDB_ADOPT: {
    cause: 'The listeners of a process cannot be taken over',
    remedy: 'See the message; `fd-broker adopt --pid PID` lists the listeners',
  },
  ERR_FDB_TRACE: {
    cause: "This process may not take another's listeners: `details.right` names the missing right",
    remedy: "Run as that process's user, or as root with CAP_SYS_PTRACE; see the message",
  },
}
