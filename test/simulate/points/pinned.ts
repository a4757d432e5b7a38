import { type Point, parseTrouble } from './point.js'
import type { Placed } from './sweep.js'

/** A point that has been wrong and that the share of the gate would leave out. */
interface Pin {
  readonly scenario: string
  readonly process: string
  readonly name: string
  /** The file in `src` that makes the call. */
  readonly file: string
  /** The number of the call among those of this name, process and file; counts from 1. */
  readonly nth: number
  /** As in `--point`. */
  readonly trouble: string
}

const PINS: readonly Pin[] = [
  // The next daemon could not read the list of members, did not wait for any, and told the one that came back to leave.
  {
    scenario: 'next-daemon',
    process: 'T',
    name: 'openSync',
    file: 'daemon/service/recovery.ts',
    nth: 1,
    trouble: 'EACCES-always',
  },
  // The next daemon took a member for dead, of which /proc showed nothing, and told it to leave.
  {
    scenario: 'next-daemon',
    process: 'T',
    name: 'readFileSync',
    file: 'os/main-process.ts',
    nth: 10,
    trouble: 'ENOENT',
  },
  // A member that the next daemon could not watch connected again and again, without a pause.
  {
    scenario: 'next-daemon',
    process: 'T',
    name: 'dup',
    file: 'os/liveness.ts',
    nth: 3,
    trouble: 'EMFILE-always',
  },
  // A version that could not hear the daemon ended its next version, which served: when its limit was over, and when it had lost the right.
  {
    scenario: 'daemon',
    process: 'S',
    name: 'sendMessage',
    file: 'wire/outbound.ts',
    nth: 12,
    trouble: 'ENOMEM-always',
  },
  {
    scenario: 'daemon',
    process: 'S',
    name: 'sendMessage',
    file: 'wire/outbound.ts',
    nth: 12,
    trouble: 'ENOMEM-15s',
  },
  // The state file was replaced again and again, without a pause, while that failed.
  {
    scenario: 'taken-back',
    process: 'A',
    name: 'open',
    file: 'state/file/files.ts',
    nth: 1,
    trouble: 'ENOSPC-always',
  },
  // The order to upgrade was lost with the connection of the version that serves, and had no answer before its limit.
  {
    scenario: 'daemon',
    process: 'A',
    name: 'receiveMessage',
    file: 'wire/channel.ts',
    nth: 1,
    trouble: 'ENOMEM',
  },
  // The next main process died before it replaced a worker, and the answer was that all were replaced.
  {
    scenario: 'worker-dies',
    process: 'M2',
    name: 'readdirSync',
    file: 'daemon/service/recovery.ts',
    nth: 1,
    trouble: 'dies-before',
  },
  // The reason of a next version whose connection had ended was lost.
  {
    scenario: 'daemon',
    process: 'B',
    name: 'receiveMessage',
    file: 'wire/channel.ts',
    nth: 4,
    trouble: 'ENOMEM',
  },
  // The start folder of the next version could not be looked up, which was taken for no answer to an upgrade.
  {
    scenario: 'run',
    process: 'R1',
    name: 'statSync',
    file: 'os/command-line.ts',
    nth: 1,
    trouble: 'EACCES',
  },
  // The control socket of the version that serves again had no spare descriptor, also when one was free again, until a client came.
  {
    scenario: 'rollback',
    process: 'A',
    name: 'dup',
    file: 'wire/control-listener.ts',
    nth: 1,
    trouble: 'EMFILE-always',
  },
]

/** Returns the pinned points of a scenario, whose calls without trouble are in `points`. */
export function pinnedOf(scenario: string, points: readonly Placed[]): Placed[] {
  return PINS.filter(pin => pin.scenario === scenario).map(({ process, name, file, nth, trouble }) => {
    const isHere = (each: Placed) =>
      each.point.process === process && each.name === name && each.place?.startsWith(`${file}:`)
    const calls = new Map(points.filter(isHere).map(each => [each.point.n, each]))
    const call = [...calls.values()][nth - 1]
    if (call === undefined)
      throw new Error(
        `${process} of "${scenario}" makes no ${name}() number ${nth} in ${file}: pin another call`,
      )
    const point: Point = { ...call.point, trouble: parseTrouble(trouble) }
    return { ...call, point }
  })
}
