// @ts-check
/**
 * Of `join()` and of the way from there to serving.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const JOINING = {
  ERR_FDB_BUSY: {
    cause:
      'It cannot be done now: another process is joining, an upgrade is under way, a standby does not answer, no member serves, or a restarted daemon waits for its members',
    remedy: 'Try again; if the message names a stuck process, `fd-broker upgrade --kill-stuck` ends it',
  },
  ERR_FDB_SERVICE: {
    cause: 'The control socket is of another service, or the daemon there has no service of that name',
    remedy: 'Give each service a control path of its own, or a daemon the name of a service that it holds',
  },
  ERR_FDB_VERSION: {
    cause:
      'The two releases of fd-broker have no version of the protocol in common (the message says both ranges); or the installed release cannot continue the state of a supervisor (`upgrade --self`)',
    remedy: 'Upgrade by way of a release that speaks both; a supervisor: restart the service',
  },
  ERR_FDB_NOT_A_DAEMON: {
    cause: "The process at the control path holds its sockets itself, and `hosting: 'daemon'` was given",
    remedy: "Start `fd-broker serve` on another path, or join with `hosting: 'embedded'`",
  },
  ERR_FDB_CLUSTER_WORKER: {
    cause:
      "`join()` was called in a worker of `node:cluster`, where `listen({ fd })` means the primary's descriptors",
    remedy: 'Call it in the primary, or run without cluster',
  },
  ERR_FDB_REJECTED: {
    cause: 'The other process refused without a code',
    remedy: 'Read its log; its release may be older than codes',
  },
  ERR_FDB_NOT_READY: {
    cause:
      'A successor awaited a change of the state before `ready()` had passed: it is made once this process serves',
    remedy: 'Call `ready()` first, and await the change after it; the change is kept',
  },
  ERR_FDB_READY_TWICE: {
    cause: '`ready()` was called before',
    remedy: 'Call it once, when this process can serve',
  },
  ERR_FDB_CHECK: {
    cause: 'A check of `ready()` threw, or answered false: the incumbent serves on',
    remedy: 'Correct the cause, and start the next version again',
  },
  ERR_FDB_ABORTED: {
    cause: 'The operation was cancelled, by its caller or by the other side of the handoff',
    remedy: 'The message names the canceller; try again if it was not you',
  },
  ERR_FDB_DEADLINE: {
    cause: 'Something did not happen within its time: the other side is stuck, stopped or slow',
    remedy:
      'Continue or end the stuck process, or raise the limit if it is only slow. A change that was forwarded may have been made: repeat it with the same `request` id',
  },
  ERR_FDB_CLOSED: {
    cause: 'This member has left: it was closed, or has retired',
    remedy: '`join()` again; after a retirement do nothing',
  },
  ERR_FDB_FENCED: {
    cause:
      'Another process has the right to write and to answer now, and the change was not made: this process stands by, drains or was cut off, and the other one did not take the change within `timeout`',
    remedy: 'Repeat it: the next connection reaches the process that serves',
  },
  ERR_FDB_UNFIT: {
    cause: 'This process answers from the state that it has read and cannot write: it could not take over',
    remedy: 'Upgrade to a version that can; `status` shows the reason under `unfit`',
  },
}

/**
 * Of `upgrade()`: unless it says otherwise, this process serves on.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const UPGRADING = {
  ERR_FDB_NO_CONTROL: {
    cause: 'The process runs with `control: false`: nothing can find it to take over',
    remedy: 'Give `join()` a control path',
  },
  ERR_FDB_MAIN_PROCESS: {
    cause:
      'The end of this process would end its successor too: it is PID 1, or the main process of its unit',
    remedy: "Give `join()` `mainProcess: 'stays'` and await `member.stay()`, or `'ends'` if that is not so",
  },
  ERR_FDB_NO_BINARY: {
    cause: 'The program with which this process was started cannot be found any more',
    remedy: "Give the successor's `argv` with an absolute path",
  },
  ERR_FDB_RELEASE_LINK: {
    cause:
      '`fd-broker run` may not change the link of `upgrade --binary NEW --at PATH`: a system call failed, see the cause',
    remedy:
      'Let the user of `run` write in the folder of the link; meanwhile `fd-broker upgrade` changes it itself',
  },
  ERR_FDB_NO_CWD: {
    cause: 'The folder in which this process was started does not exist any more',
    remedy: 'Make it again, or start the next version by hand in another folder; of `run`: `--cwd`',
  },
  ERR_FDB_SPAWN: {
    cause: 'The successor could not be started: a system call failed, see the cause',
    remedy: 'Correct its command, its folder or the limits of this user',
  },
  ERR_FDB_SUCCESSOR_EXITED: {
    cause: 'The successor ended before it served',
    remedy: 'Read its own output',
  },
  ERR_FDB_SUCCESSOR_LOST: {
    cause: 'The successor closed its channel or died before it served',
    remedy: 'Read its own output; `lastFailure` in `status` says in which phase it was',
  },
  ERR_FDB_SUCCESSOR_DIED: {
    cause: 'The successor died in the handoff or while the incumbent stood by, which serves again',
    remedy: 'Find out why it died: a core dump, the out-of-memory killer, a signal',
  },
  ERR_FDB_SUCCESSOR_LEFT: {
    cause:
      'The successor was told to end while the incumbent stood by, which serves again; under `fd-broker run`: `fd-broker rollback` started the version before again',
    remedy: 'None if that was meant; else find the process that told it',
  },
  ERR_FDB_UNHEALTHY: {
    cause:
      'The successor failed its health check before it took over, or was silent or unhealthy in probation: the incumbent serves',
    remedy:
      'The message has the question and the answer, if there was one; else read its log: its event loop was blocked',
  },
  ERR_FDB_DIGEST: {
    cause: 'The successor read another state than the incumbent has: the handoff is refused',
    remedy: 'Try again; if it stays so, one of the two releases is faulty: please report it',
  },
  ERR_FDB_STUCK: {
    cause: 'A process that stands in the way cannot be ended, or it cannot be told which one it is',
    remedy: 'End it by hand; the message names it where it is known',
  },
  ERR_FDB_LOST: {
    cause: 'A proxy was taken for dead or unhealthy, and its right to serve was taken back',
    remedy: "See the log for why; another process serves, or the supervisor's restart will",
  },
  ERR_FDB_ADOPT: {
    cause:
      'The listeners of a running process are not taken over: there is no such process, it does not listen there, it has several sockets at one address, or it speaks fd-broker itself',
    remedy: 'The message says which; `fd-broker adopt --pid` lists what a process listens on',
  },
  ERR_FDB_TRACE: {
    cause:
      'This process may not look into another one to take its listeners: the message and `details.right` name the missing right',
    remedy:
      'Run as the user of that process, or as root with CAP_SYS_PTRACE; for Yama, seccomp and the like as the message says',
  },
}
