// @ts-check
/**
 * Of `join()` and of the way from there to serving.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const JOINING = {
  ERR_FDB_BUSY: {
    cause:
      'Another process joins, an upgrade is under way, a standby does not answer, no member serves, or a restarted daemon waits for its members',
    remedy: 'Try again; `fd-broker upgrade --kill-stuck` ends a stuck process',
  },
  ERR_FDB_SERVICE: {
    cause: 'The control socket is of another service, or the daemon has none of that name',
    remedy: 'Give each service its own control path; name a service that the daemon holds',
  },
  ERR_FDB_VERSION: {
    cause:
      "The two releases have no version of the protocol in common; or the installed release cannot continue a supervisor's state (`upgrade --self`)",
    remedy: "Upgrade by way of a release that speaks both; restart a supervisor's service",
  },
  ERR_FDB_NOT_A_DAEMON: {
    cause: "`hosting: 'daemon'` was given, but the process at the control path is no daemon",
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
    cause: 'A successor awaited a change of the state before `ready()` had passed',
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
    cause: 'The operation was cancelled, by its caller or by the other side',
    remedy: 'The message names the canceller; try again if it was not you',
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
    cause: 'This process could not take over: it answers from the state that it has read',
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
    cause: 'The process runs with `control: false`: no successor can find it',
    remedy: 'Give `join()` a control path',
  },
  ERR_FDB_MAIN_PROCESS: {
    cause:
      'The end of this process would end its successor too: it is PID 1, or the main process of its unit',
    remedy: 'Set [`mainProcess`](api.md#pid-1-of-a-container-main-process-of-a-unit)',
  },
  ERR_FDB_NO_BINARY: {
    cause: 'The program of this process does not exist any more',
    remedy: "Give the successor's `argv` with an absolute path",
  },
  ERR_FDB_RELEASE_LINK: {
    cause: '`fd-broker run` may not change the link of `upgrade --binary NEW --at PATH`',
    remedy: "Let its user write in the link's folder; meanwhile `fd-broker upgrade` changes it",
  },
  ERR_FDB_NO_CWD: {
    cause: 'The folder in which this process was started does not exist any more',
    remedy: 'Make it again, or start the next version in another folder; of `run`: `--cwd`',
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
    cause: 'The successor closed its channel or died before it served',
    remedy: 'Read its output; `lastFailure` in `status` has the phase',
  },
  ERR_FDB_SUCCESSOR_DIED: {
    cause: 'The successor died in the handoff or in probation: the incumbent serves again',
    remedy: 'Look for a core dump, the out-of-memory killer, a signal',
  },
  ERR_FDB_SUCCESSOR_LEFT: {
    cause:
      'The successor was told to end in probation, or `fd-broker rollback` started the version before again',
    remedy: 'None if that was intended; else find the sender',
  },
  ERR_FDB_UNHEALTHY: {
    cause:
      'The successor failed its health check before it took over, or was silent or unhealthy in probation: the incumbent serves',
    remedy: 'See the message (question and answer), or its log: its event loop was blocked',
  },
  ERR_FDB_DIGEST: {
    cause: 'The successor read another state than the incumbent has: the handoff is refused',
    remedy: 'Try again; if it persists, please report it',
  },
  ERR_FDB_STUCK: {
    cause: 'A process that blocks the upgrade cannot be ended, or not be identified',
    remedy: 'End it by hand',
  },
  ERR_FDB_LOST: {
    cause: 'A proxy was judged dead or unhealthy, and lost its right to serve',
    remedy: 'See the log; another process serves',
  },
  ERR_FDB_ADOPT: {
    cause:
      'The listeners of a process are not taken over: it does not exist, does not listen there, has several sockets at one address, or speaks fd-broker',
    remedy: 'The message says which; `fd-broker adopt --pid PID` lists the listeners',
  },
  ERR_FDB_TRACE: {
    cause: "This process may not take another's listeners: `details.right` names the missing right",
    remedy:
      "Run as that process's user, or as root with CAP_SYS_PTRACE; for Yama, seccomp and the like see the message",
  },
}
